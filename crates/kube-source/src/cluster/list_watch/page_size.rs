//! `PageSize`: the number of objects per page of a list, adapted to their size.
//!
//! A page over its limit is requested again with fewer objects, down to one. Small pages make the next ones larger.

/// The maximum number of objects per page.
const PAGE_LEN_MAX: usize = 500;
/// The target size of a page.
const PAGE_BYTES_TARGET: usize = 4 << 20;
/// The maximum size of a page of several objects. A larger one is requested again in parts.
const PAGE_BYTES_MAX: usize = 16 << 20;
/// The maximum size of a page of one object. No API server sends a larger one.
pub(super) const OBJECT_PAGE_BYTES_MAX: usize = 256 << 20;

/// The number of objects per page.
#[derive(Debug)]
pub(super) struct PageSize {
    pub(super) len: usize,
}

impl Default for PageSize {
    fn default() -> Self {
        Self { len: PAGE_LEN_MAX }
    }
}

impl PageSize {
    /// Returns the maximum size of a page.
    pub(super) fn bytes_max(&self) -> usize {
        if self.len == 1 { OBJECT_PAGE_BYTES_MAX } else { PAGE_BYTES_MAX }
    }

    /// Shrinks the size after a page of which only this many objects arrived.
    pub(super) fn on_failure(&mut self, received: usize) {
        self.len = (self.len.min(received) / 2).max(1);
    }

    /// Adapts the size after a complete page of this many bytes.
    pub(super) fn on_success(&mut self, bytes: usize) {
        if bytes > PAGE_BYTES_TARGET {
            self.len = (self.len / 2).max(1);
        } else if bytes < PAGE_BYTES_TARGET / 4 {
            self.len = (self.len * 2).min(PAGE_LEN_MAX);
        }
    }
}
