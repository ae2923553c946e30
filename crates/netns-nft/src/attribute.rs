//! `Bytes`: netlink messages and their attributes, written one after the other into one buffer.
//!
//! Elements dominate a batch (tens of thousands of them), so nothing is built as a tree first: a nest is
//! opened, filled and closed, and its length is written back. `Attributes` is the way back. What must not
//! go in here: what any attribute means.

/// The length of a netlink header.
pub(crate) const HEADER_BYTES: usize = 16;
/// A length of 16 bits bounds an attribute.
const ATTRIBUTE_BYTES_MAX: usize = u16::MAX as usize;
const NESTED: u16 = 0x8000;
const TYPE_MASK: u16 = 0x3fff;

/// A growing run of netlink messages.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Bytes(pub(crate) Vec<u8>);

/// An open message or nest: where its length goes.
#[derive(Debug)]
#[must_use]
pub(crate) struct Open(usize);

impl Bytes {
    /// Opens a message with netfilter's own header behind netlink's.
    pub(crate) fn open_message(
        &mut self,
        kind: u16,
        flags: u16,
        sequence: u32,
        family: u8,
        resource: u16,
    ) -> Open {
        let [high, low] = resource.to_be_bytes();
        self.open_with(kind, flags, sequence, &[family, 0, high, low])
    }

    fn open_with(&mut self, kind: u16, flags: u16, sequence: u32, own_header: &[u8]) -> Open {
        let open = Open(self.0.len());
        self.0.extend_from_slice(&0_u32.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(&flags.to_ne_bytes());
        self.0.extend_from_slice(&sequence.to_ne_bytes());
        self.0.extend_from_slice(&0_u32.to_ne_bytes());
        self.0.extend_from_slice(own_header);
        open
    }

    /// One message alone, with this header of its subsystem's own.
    pub(crate) fn message(kind: u16, flags: u16, own_header: &[u8], fill: impl FnOnce(&mut Self)) -> Vec<u8> {
        let mut bytes = Self::default();
        let open = bytes.open_with(kind, flags, 0, own_header);
        fill(&mut bytes);
        bytes.close_message(&open);
        bytes.0
    }

    /// Closes a message.
    pub(crate) fn close_message(&mut self, open: &Open) {
        let length = u32::try_from(self.0.len() - open.0).unwrap_or(u32::MAX);
        self.0[open.0..open.0 + 4].copy_from_slice(&length.to_ne_bytes());
    }

    /// Adds flags to a message.
    pub(crate) fn add_flags(&mut self, message: &Open, flags: u16) {
        let at = message.0 + 6;
        let old = u16::from_ne_bytes([self.0[at], self.0[at + 1]]);
        self.0[at..at + 2].copy_from_slice(&(old | flags).to_ne_bytes());
    }

    /// Opens a nest of attributes.
    pub(crate) fn open(&mut self, kind: u16) -> Open {
        let open = Open(self.0.len());
        self.0.extend_from_slice(&0_u16.to_ne_bytes());
        self.0.extend_from_slice(&(kind | NESTED).to_ne_bytes());
        open
    }

    /// Closes a nest.
    pub(crate) fn close(&mut self, open: &Open) {
        let length = u16::try_from(self.0.len() - open.0).unwrap_or(u16::MAX);
        self.0[open.0..open.0 + 2].copy_from_slice(&length.to_ne_bytes());
    }

    /// Whether a nest can take so many bytes more.
    pub(crate) fn has_room(&self, open: &Open, more: usize) -> bool {
        self.0.len() - open.0 + more <= ATTRIBUTE_BYTES_MAX
    }

    /// An attribute of these bytes, padded.
    pub(crate) fn put(&mut self, kind: u16, value: &[u8]) {
        let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    /// An attribute of 32 bits, as nf_tables wants them: big-endian.
    pub(crate) fn put_u32(&mut self, kind: u16, value: u32) {
        self.put(kind, &value.to_be_bytes());
    }

    /// An attribute of 64 bits, big-endian.
    pub(crate) fn put_u64(&mut self, kind: u16, value: u64) {
        self.put(kind, &value.to_be_bytes());
    }

    /// An attribute of text, with the zero byte at its end.
    pub(crate) fn put_text(&mut self, kind: u16, text: &str) {
        let mut value = Vec::with_capacity(text.len() + 1);
        value.extend_from_slice(text.as_bytes());
        value.push(0);
        self.put(kind, &value);
    }

    /// A nest that `fill` fills.
    pub(crate) fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        let open = self.open(kind);
        fill(self);
        self.close(&open);
    }
}

/// The attributes in some bytes; what is cut short ends them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attributes<'a>(pub(crate) &'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (header, rest) = self.0.split_first_chunk::<4>()?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]])).checked_sub(4)?;
        let kind = u16::from_ne_bytes([header[2], header[3]]) & TYPE_MASK;
        let value = rest.get(..length)?;
        self.0 = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    }
}

impl<'a> Attributes<'a> {
    /// The first attribute of a kind.
    pub(crate) fn find(mut self, kind: u16) -> Option<&'a [u8]> {
        self.by_ref().find(|(found, _)| *found == kind).map(|(_, value)| value)
    }

    /// The number of an attribute.
    pub(crate) fn u32(self, kind: u16) -> Option<u32> {
        self.find(kind)?.try_into().ok().map(u32::from_be_bytes)
    }

    /// The number of an attribute of 64 bits.
    pub(crate) fn u64(self, kind: u16) -> Option<u64> {
        self.find(kind)?.try_into().ok().map(u64::from_be_bytes)
    }

    /// The attributes within an attribute.
    pub(crate) fn within(self, kind: u16) -> Attributes<'a> {
        Attributes(self.find(kind).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let mut bytes = Bytes::default();
        bytes.put_text(1, "portico");
        bytes.nest(2, |bytes| {
            bytes.put_u32(3, 7);
            bytes.nest(4, |bytes| bytes.put(5, &[1, 2, 3]));
        });
        assert_eq!(bytes.0.len() % 4, 0, "attributes are padded");
        let read = Attributes(&bytes.0);
        assert_eq!(read.find(1), Some(&b"portico\0"[..]));
        assert_eq!(read.within(2).u32(3), Some(7));
        assert_eq!(read.within(2).within(4).find(5), Some(&[1, 2, 3][..]));
        assert_eq!(read.find(6), None);
    }

    #[test]
    fn what_is_cut_short_ends_the_attributes() {
        let mut bytes = Bytes::default();
        bytes.put_u32(1, 7);
        bytes.put_u32(2, 8);
        for length in 0..bytes.0.len() {
            assert!(Attributes(&bytes.0[..length]).count() <= 1, "{length}");
        }
        assert_eq!(Attributes(&[0; 8]).count(), 0, "a length below its own header");
        assert_eq!(Attributes(&[0xff; 8]).count(), 0, "a length beyond the end");
    }
}
