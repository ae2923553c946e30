//! `ValueBytes`: a key or a value of an element while it is written, without an allocation.
//!
//! A table of 10,000 services has 60,000 elements, each with a key and most with a value.

use std::ops::Deref;

/// The longest key: two IPv6 addresses, a protocol and a port.
const BYTES_MAX: usize = 40;

/// The bytes of a key or a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ValueBytes {
    bytes: [u8; BYTES_MAX],
    length: usize,
}

impl ValueBytes {
    /// Copies bytes, of which there are at most 40.
    pub(crate) fn new(bytes: &[u8]) -> Self {
        let mut value = Self { bytes: [0; BYTES_MAX], length: 0 };
        value.extend_from_slice(bytes);
        value
    }

    /// Appends bytes.
    pub(crate) fn extend_from_slice(&mut self, more: &[u8]) {
        let end = self.length + more.len();
        self.bytes[self.length..end].copy_from_slice(more);
        self.length = end;
    }
}

impl Deref for ValueBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}
