//! `Name`: a domain name in wire format, with its letters in lower case.
//!
//! DNS compares names case-insensitively, so the zone and caches use this form as their key. A name is stored inline:
//! the parser of a query allocates no memory.

use std::fmt;
use std::hash::{Hash, Hasher};

/// The maximum length of a name in wire format, including the root label (RFC 1035, 2.3.4).
pub const NAME_BYTES_MAX: usize = 255;
/// The maximum length of a label.
pub const LABEL_BYTES_MAX: usize = 63;

/// A domain name in lower case and wire format.
#[derive(Clone)]
pub struct Name {
    len: u8,
    bytes: [u8; NAME_BYTES_MAX],
}

impl Name {
    /// The root.
    pub const ROOT: Self = Self { len: 1, bytes: [0; NAME_BYTES_MAX] };

    /// Reads the uncompressed name at the start of `bytes`, and returns it and its length. None: it is malformed,
    /// compressed or too long.
    #[must_use]
    pub fn read(bytes: &[u8]) -> Option<(Self, usize)> {
        let mut name = Self::ROOT;
        let mut at = 0;
        loop {
            let label_len = usize::from(*bytes.get(at)?);
            let end = at + 1 + label_len;
            if label_len > LABEL_BYTES_MAX || end > NAME_BYTES_MAX {
                return None;
            }
            let source = bytes.get(at..end)?;
            for (target, byte) in name.bytes[at..end].iter_mut().zip(source) {
                *target = byte.to_ascii_lowercase();
            }
            at = end;
            if label_len == 0 {
                name.len = u8::try_from(at).ok()?;
                return Some((name, at));
            }
        }
    }

    /// Parses a name in text form, such as `web.default.svc`; a trailing dot is allowed. Labels can contain any byte
    /// except a dot. None: a label is empty or too long, or the name is too long.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.strip_suffix('.').unwrap_or(text);
        let mut name = Self::ROOT;
        for label in text.split('.').filter(|_| !text.is_empty()) {
            name.push_label(label.as_bytes())?;
        }
        Some(name)
    }

    /// Appends a label before the root label. None: the label is empty or too long, or the name would be too long.
    pub(crate) fn push_label(&mut self, label: &[u8]) -> Option<()> {
        let start = usize::from(self.len) - 1;
        let end = start + 1 + label.len();
        if label.is_empty() || label.len() > LABEL_BYTES_MAX || end + 1 > NAME_BYTES_MAX {
            return None;
        }
        self.bytes[start] = u8::try_from(label.len()).ok()?;
        self.bytes[start + 1..end].copy_from_slice(label);
        self.bytes[start + 1..end].make_ascii_lowercase();
        self.bytes[end] = 0;
        self.len = u8::try_from(end + 1).ok()?;
        Some(())
    }

    /// Returns the wire format, with the root label.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    /// Returns the labels from left to right, without the root label.
    pub fn labels(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = self.as_bytes();
        std::iter::from_fn(move || {
            let (len, tail) = rest.split_first().filter(|(len, _)| **len > 0)?;
            let (label, tail) = tail.split_at_checked(usize::from(*len))?;
            rest = tail;
            Some(label)
        })
    }

    /// Whether the name is `ancestor` or below it.
    #[must_use]
    pub fn is_within(&self, ancestor: &Self) -> bool {
        self.suffix_at(ancestor).is_some()
    }

    /// Returns the position of `ancestor` in the name. None: the name is not `ancestor` and not below it.
    pub(crate) fn suffix_at(&self, ancestor: &Self) -> Option<usize> {
        let own = self.as_bytes();
        let at = own.len().checked_sub(ancestor.as_bytes().len())?;
        // The suffix must begin at a label: the bytes of a longer label can look like it.
        (own[at..] == *ancestor.as_bytes() && self.is_label_start(at)).then_some(at)
    }

    fn is_label_start(&self, position: usize) -> bool {
        let mut at = 0;
        while at < position {
            at += 1 + usize::from(self.bytes[at]);
        }
        at == position
    }
}

impl PartialEq for Name {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for Name {}

impl Hash for Name {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_bytes().hash(state);
    }
}

/// In text form, with a trailing dot. Bytes that are not printable, dots and backslashes are escaped (RFC 4343, 2.1).
impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.len == 1 {
            return f.write_str(".");
        }
        for label in self.labels() {
            for byte in label {
                match byte {
                    b'.' | b'\\' => write!(f, "\\{}", char::from(*byte))?,
                    b'!'..=b'~' => write!(f, "{}", char::from(*byte))?,
                    _ => write!(f, "\\{byte:03}")?,
                }
            }
            f.write_str(".")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::parse(text).unwrap()
    }

    #[test]
    fn text_and_wire_format_agree() {
        let (read, len) = Name::read(b"\x03wEb\x07default\x00rest").unwrap();
        assert_eq!((read.clone(), len), (name("Web.default."), 13));
        assert_eq!(read.to_string(), "web.default.");
        assert_eq!(read.as_bytes(), b"\x03web\x07default\x00");
        assert_eq!(read.labels().collect::<Vec<_>>(), [&b"web"[..], b"default"]);
        assert_eq!(name(""), Name::ROOT);
        assert_eq!(Name::ROOT.to_string(), ".");
    }

    #[test]
    fn malformed_names_are_rejected() {
        let long_label = [&[64], [b'a'; 64].as_slice(), &[0]].concat();
        let long_name = [[b"\x3f".as_slice(), &[b'a'; 63]].concat().repeat(4), vec![0]].concat();
        for bytes in [b"".as_slice(), b"\x03we", b"\x03web", b"\xc0\x0c", &long_label, &long_name] {
            assert!(Name::read(bytes).is_none(), "{bytes:?}");
        }
        for text in [".a", "a..b", &"a".repeat(64), &["a".repeat(63).as_str(); 4].join(".")] {
            assert!(Name::parse(text).is_none(), "{text}");
        }
        let longest = format!("{}.{}", ["a".repeat(63).as_str(); 3].join("."), "a".repeat(61));
        assert_eq!(name(&longest).as_bytes().len(), NAME_BYTES_MAX);
    }

    #[test]
    fn suffix_begins_at_a_label() {
        assert!(name("a.svc.cluster.local").is_within(&name("cluster.local")));
        assert!(name("cluster.local").is_within(&name("cluster.local")));
        assert!(!name("local").is_within(&name("cluster.local")));
        assert!(!name("xcluster.local").is_within(&name("cluster.local")));
        // The last label contains the wire format of the suffix.
        assert!(!Name::read(b"\x04a\x02io\x00").unwrap().0.is_within(&name("io")));
        let (hidden, _) = Name::read(b"\x06x\x04test\x00").unwrap();
        assert!(!hidden.is_within(&name("test")));
        assert!(name("a").is_within(&Name::ROOT));
    }

    #[test]
    fn unprintable_bytes_are_escaped() {
        let (odd, _) = Name::read(b"\x04a.\\\x07\x00").unwrap();
        assert_eq!(odd.to_string(), "a\\.\\\\\\007.");
    }
}
