//! `GuestInterfaces`: the interfaces of a pod behind which guests are, from the annotation
//! `portico.dev/guest-interfaces`.
//!
//! A guest is, for example, a virtual machine whose traffic the pod forwards. It uses the pod's portals. Packets that
//! arrive at any other interface of the pod do not: the pod's neighbours are not its guests.

use std::collections::BTreeSet;
use std::fmt;

use crate::model::annotation::GUEST_INTERFACES;

/// The name of the table's set of guest interfaces.
pub const GUESTS_SET: &str = "guests";
/// The size of an interface name in the kernel, padded with zeros (IFNAMSIZ).
pub const INTERFACE_BYTES: u8 = 16;
/// The maximum number of interfaces in the annotation.
const INTERFACES_MAX: usize = 64;

type Name = [u8; INTERFACE_BYTES as usize];

/// One interface, or all interfaces with a prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InterfacePattern {
    /// The name, padded with zeros.
    name: Name,
    is_prefix: bool,
}

/// The interfaces of a pod behind which guests are. No pattern covers another one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct GuestInterfaces(BTreeSet<InterfacePattern>);

impl InterfacePattern {
    /// Parses `tap0`, or `k6t-*` for all names with that prefix.
    ///
    /// # Errors
    /// If it is not the name of an interface; the text follows the pattern in a message.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let (name, is_prefix) = text.strip_suffix('*').map_or((text, false), |name| (name, true));
        if name.is_empty() || name.len() >= usize::from(INTERFACE_BYTES) {
            return Err("is not 1 to 15 characters long");
        }
        // The kernel's dev_valid_name, without the characters that have a meaning in the annotation.
        let is_valid =
            |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'/' | b':' | b'*' | b',' | b'"');
        if !name.bytes().all(is_valid) || matches!(name, "." | "..") {
            return Err("is not a valid interface name");
        }
        let mut padded = Name::default();
        padded[..name.len()].copy_from_slice(name.as_bytes());
        Ok(Self { name: padded, is_prefix })
    }

    /// Whether the pattern matches an interface name.
    #[must_use]
    pub fn matches(&self, interface: &str) -> bool {
        if self.is_prefix { interface.starts_with(self.text()) } else { interface == self.text() }
    }

    fn covers(&self, other: &Self) -> bool {
        self.is_prefix && other.text().starts_with(self.text())
    }

    fn text(&self) -> &str {
        let length = self.name.iter().position(|byte| *byte == 0).unwrap_or(self.name.len());
        self.name.get(..length).and_then(|name| std::str::from_utf8(name).ok()).unwrap_or_default()
    }

    /// Returns the first name that matches, in the kernel's order.
    #[must_use]
    pub const fn first(&self) -> Name {
        self.name
    }

    /// Returns the first name after those that match.
    #[must_use]
    pub fn end(&self) -> Name {
        let mut end = self.name;
        // Names consist of printable characters, so the last character has a successor.
        let last = if self.is_prefix { self.text().len().saturating_sub(1) } else { end.len() - 1 };
        if let Some(byte) = end.get_mut(last) {
            *byte += 1;
        }
        end
    }

    /// Returns the pattern that matches the names from `first` up to `end`, if there is one.
    #[must_use]
    pub fn between(first: Name, end: Name) -> Option<Self> {
        let is_valid = |pattern: &Self| Self::parse(&pattern.to_string()).as_ref() == Ok(pattern);
        let patterns = [false, true].map(|is_prefix| Self { name: first, is_prefix });
        patterns.into_iter().find(|pattern| is_valid(pattern) && pattern.end() == end)
    }
}

impl fmt::Display for InterfacePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.text(), if self.is_prefix { "*" } else { "" })
    }
}

impl GuestInterfaces {
    /// Parses the annotation: a comma-separated list such as `tap0,k6t-*`.
    ///
    /// # Errors
    /// If an item is invalid, or there are too many.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut guests = BTreeSet::new();
        for item in text.split(',').map(str::trim) {
            let invalid = |why| {
                let (key, values) = (GUEST_INTERFACES.key, GUEST_INTERFACES.values);
                let excerpt: String = item.chars().take(32).collect();
                format!("annotation {key}: {excerpt:?} {why}; write {values}")
            };
            guests.insert(InterfacePattern::parse(item).map_err(invalid)?);
            if guests.len() > INTERFACES_MAX {
                return Err(format!(
                    "annotation {}: more than {INTERFACES_MAX} interfaces",
                    GUEST_INTERFACES.key
                ));
            }
        }
        Ok(guests.into_iter().collect())
    }

    /// Whether no interface has guests.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the patterns in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = &InterfacePattern> {
        self.0.iter()
    }

    /// Whether a pattern matches an interface name.
    #[must_use]
    pub fn matches(&self, interface: &str) -> bool {
        self.0.iter().any(|guest| guest.matches(interface))
    }
}

impl FromIterator<InterfacePattern> for GuestInterfaces {
    /// Omits patterns that another one covers, because intervals in the kernel must not overlap.
    fn from_iter<T: IntoIterator<Item = InterfacePattern>>(guests: T) -> Self {
        let all: BTreeSet<InterfacePattern> = guests.into_iter().collect();
        let is_covered =
            |guest: &InterfacePattern| all.iter().any(|other| other != guest && other.covers(guest));
        Self(all.iter().filter(|guest| !is_covered(guest)).copied().collect())
    }
}

impl fmt::Display for GuestInterfaces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, guest) in self.0.iter().enumerate() {
            write!(f, "{}{guest}", if number > 0 { "," } else { "" })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guests(text: &str) -> GuestInterfaces {
        GuestInterfaces::parse(text).unwrap_or_else(|why| panic!("{text}: {why}"))
    }

    #[test]
    fn list_contains_interfaces_and_prefixes() {
        let guests = guests("tap0, k6t-*");
        assert_eq!(guests.to_string(), "k6t-*,tap0");
        for (interface, expected) in
            [("tap0", true), ("tap01", false), ("k6t-net1", true), ("k6t", false), ("eth0", false)]
        {
            assert_eq!(guests.matches(interface), expected, "{interface}");
        }
    }

    #[test]
    fn patterns_that_a_prefix_covers_are_omitted() {
        assert_eq!(guests("tap0,tap*,ta*,tb0").to_string(), "ta*,tb0");
    }

    #[test]
    fn error_contains_the_key_and_the_valid_values() {
        for wrong in ["", "*", "a,,b", "a b", "a/b", "0123456789abcdef", "..", "a*b", "tap\u{e9}"] {
            let why = GuestInterfaces::parse(wrong).expect_err(wrong);
            assert!(why.contains(GUEST_INTERFACES.key) && why.contains(GUEST_INTERFACES.values), "{why}");
        }
        let many: Vec<String> = (0..65).map(|number| format!("tap{number}")).collect();
        assert!(GuestInterfaces::parse(&many.join(",")).is_err());
    }

    #[test]
    fn interval_of_names_is_parsed_to_its_pattern() {
        for guest in guests("tap0,k6t-*,a,0123456789abcde,~*").iter() {
            assert_eq!(InterfacePattern::between(guest.first(), guest.end()), Some(*guest), "{guest}");
            assert_eq!(
                InterfacePattern::between(guest.first(), *b"\xff\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"),
                None
            );
        }
    }
}
