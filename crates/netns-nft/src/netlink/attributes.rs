//! `MessageBuffer` writes netlink messages and their attributes; `Attributes` reads attributes.
//!
//! A batch contains tens of thousands of elements, so a message is not built as a tree first: a nested attribute is
//! opened, filled and closed, and its length is written when it is closed. The module knows the form of messages and
//! attributes, not their meaning.

use crate::netlink::uapi::*;

/// The length of a netlink header (`struct nlmsghdr`).
pub(crate) const HEADER_BYTES: usize = 16;
/// The length of netfilter's header (`struct nfgenmsg`), which follows the netlink header.
pub(crate) const NFGENMSG_BYTES: usize = 4;
/// The offset of the flags in a netlink header.
const FLAGS_OFFSET: usize = 6;
/// The length of an attribute's header (`struct nlattr`).
const ATTRIBUTE_HEADER_BYTES: usize = 4;
/// The length field of an attribute has 16 bits.
const ATTRIBUTE_BYTES_MAX: usize = u16::MAX as usize;

/// A header of netfilter: the family, the version 0, and the resource id.
pub(crate) fn nfgenmsg(family: u8, resource: u16) -> [u8; NFGENMSG_BYTES] {
    let [high, low] = resource.to_be_bytes();
    [family, 0, high, low]
}

/// A sequence of netlink messages.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct MessageBuffer(pub(crate) Vec<u8>);

/// The offset of a message or nested attribute whose length is not known yet.
#[derive(Debug)]
#[must_use]
pub(crate) struct Open(usize);

impl MessageBuffer {
    /// Starts a message with this header of its subsystem after the netlink header.
    pub(crate) fn begin_message(
        &mut self,
        kind: u16,
        flags: u16,
        sequence: u32,
        subsystem_header: &[u8],
    ) -> Open {
        let open = Open(self.0.len());
        self.0.extend_from_slice(&0_u32.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(&flags.to_ne_bytes());
        self.0.extend_from_slice(&sequence.to_ne_bytes());
        // The port id of the kernel.
        self.0.extend_from_slice(&0_u32.to_ne_bytes());
        self.0.extend_from_slice(subsystem_header);
        open
    }

    /// Ends a message: writes its length.
    pub(crate) fn end_message(&mut self, open: &Open) {
        let length = u32::try_from(self.0.len() - open.0).expect("a message is shorter than 4 GiB");
        self.0[open.0..open.0 + 4].copy_from_slice(&length.to_ne_bytes());
    }

    /// A buffer with a single message, whose sequence number is 0.
    pub(crate) fn message(
        kind: u16,
        flags: u16,
        subsystem_header: &[u8],
        fill: impl FnOnce(&mut Self),
    ) -> Vec<u8> {
        let mut buffer = Self::default();
        let open = buffer.begin_message(kind, flags, 0, subsystem_header);
        fill(&mut buffer);
        buffer.end_message(&open);
        buffer.0
    }

    /// Adds flags to a message.
    pub(crate) fn add_flags(&mut self, message: &Open, flags: u16) {
        let at = message.0 + FLAGS_OFFSET;
        let old = u16::from_ne_bytes([self.0[at], self.0[at + 1]]);
        self.0[at..at + 2].copy_from_slice(&(old | flags).to_ne_bytes());
    }

    /// Starts a nested attribute.
    pub(crate) fn begin_nest(&mut self, kind: u16) -> Open {
        let open = Open(self.0.len());
        self.0.extend_from_slice(&0_u16.to_ne_bytes());
        self.0.extend_from_slice(&(kind | NLA_F_NESTED).to_ne_bytes());
        open
    }

    /// Ends a nested attribute: writes its length.
    pub(crate) fn end_nest(&mut self, open: &Open) {
        // Rules, sets and single elements are far below the limit; lists of elements are checked with `has_room`.
        let length = u16::try_from(self.0.len() - open.0).expect("a nested attribute fits 64 KiB");
        self.0[open.0..open.0 + 2].copy_from_slice(&length.to_ne_bytes());
    }

    /// Whether a nested attribute can take this many additional bytes.
    pub(crate) fn has_room(&self, open: &Open, bytes: usize) -> bool {
        self.0.len() - open.0 + bytes <= ATTRIBUTE_BYTES_MAX
    }

    /// Writes an attribute, with padding.
    pub(crate) fn put(&mut self, kind: u16, value: &[u8]) {
        // Values are numbers, keys, names, which the kernel limits to 256 bytes, or copies of the kernel's attributes.
        let length = u16::try_from(ATTRIBUTE_HEADER_BYTES + value.len()).expect("a value fits 64 KiB");
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(ALIGNMENT), 0);
    }

    /// Writes a number of 32 bits in network byte order, as nf_tables expects it.
    pub(crate) fn put_u32(&mut self, kind: u16, value: u32) {
        self.put(kind, &value.to_be_bytes());
    }

    /// Writes a number of 64 bits in network byte order.
    pub(crate) fn put_u64(&mut self, kind: u16, value: u64) {
        self.put(kind, &value.to_be_bytes());
    }

    /// Writes a text with a terminating zero byte.
    pub(crate) fn put_string(&mut self, kind: u16, text: &str) {
        let length = u16::try_from(ATTRIBUTE_HEADER_BYTES + text.len() + 1).expect("a text fits 64 KiB");
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(text.as_bytes());
        self.0.push(0);
        self.0.resize(self.0.len().next_multiple_of(ALIGNMENT), 0);
    }

    /// Writes a nested attribute with the content that `fill` writes.
    pub(crate) fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        let open = self.begin_nest(kind);
        fill(self);
        self.end_nest(&open);
    }
}

/// Iterates over encoded attributes; a truncated attribute ends the iteration.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attributes<'a>(pub(crate) &'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (header, rest) = self.0.split_first_chunk::<ATTRIBUTE_HEADER_BYTES>()?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let length = length.checked_sub(ATTRIBUTE_HEADER_BYTES)?;
        let kind = u16::from_ne_bytes([header[2], header[3]]) & NLA_TYPE_MASK;
        let value = rest.get(..length)?;
        self.0 = rest.get(length.next_multiple_of(ALIGNMENT)..).unwrap_or_default();
        Some((kind, value))
    }
}

impl<'a> Attributes<'a> {
    /// The attributes of a message of netfilter.
    pub(crate) fn of_netfilter(body: &'a [u8]) -> Self {
        Self(body.get(NFGENMSG_BYTES..).unwrap_or_default())
    }

    /// The value of the first attribute of a type.
    pub(crate) fn find(mut self, kind: u16) -> Option<&'a [u8]> {
        self.by_ref().find(|(found, _)| *found == kind).map(|(_, value)| value)
    }

    /// A number of 32 bits in network byte order.
    pub(crate) fn u32(self, kind: u16) -> Option<u32> {
        self.find(kind)?.try_into().ok().map(u32::from_be_bytes)
    }

    /// A number of 64 bits in network byte order.
    pub(crate) fn u64(self, kind: u16) -> Option<u64> {
        self.find(kind)?.try_into().ok().map(u64::from_be_bytes)
    }

    /// A text, without its terminating zero byte; empty if the attribute is missing.
    pub(crate) fn string(self, kind: u16) -> String {
        let bytes = self.find(kind).unwrap_or_default();
        String::from_utf8_lossy(bytes.strip_suffix(&[0]).unwrap_or(bytes)).into_owned()
    }

    /// The attributes in a nested attribute; none if it is missing.
    pub(crate) fn nested(self, kind: u16) -> Attributes<'a> {
        Attributes(self.find(kind).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_attributes_are_read_back() {
        let mut buffer = MessageBuffer::default();
        buffer.put_string(1, "portico");
        buffer.nest(2, |buffer| {
            buffer.put_u32(3, 7);
            buffer.nest(4, |buffer| buffer.put(5, &[1, 2, 3]));
        });
        assert_eq!(buffer.0.len() % 4, 0, "attributes are padded");
        let read = Attributes(&buffer.0);
        assert_eq!(read.find(1), Some(&b"portico\0"[..]));
        assert_eq!(read.string(1), "portico");
        assert_eq!(read.nested(2).u32(3), Some(7));
        assert_eq!(read.nested(2).nested(4).find(5), Some(&[1, 2, 3][..]));
        assert_eq!(read.find(6), None);
    }

    #[test]
    fn truncated_attribute_ends_the_iteration() {
        let mut buffer = MessageBuffer::default();
        buffer.put_u32(1, 7);
        buffer.put_u32(2, 8);
        for length in 0..buffer.0.len() {
            assert!(Attributes(&buffer.0[..length]).count() <= 1, "{length}");
        }
        assert_eq!(Attributes(&[0; 8]).count(), 0, "a length below that of a header");
        assert_eq!(Attributes(&[0xff; 8]).count(), 0, "a length beyond the end");
    }

    #[test]
    #[should_panic(expected = "fits 64 KiB")]
    fn oversized_attribute_is_not_truncated() {
        MessageBuffer::default().put(1, &[0; ATTRIBUTE_BYTES_MAX]);
    }
}
