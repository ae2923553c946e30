//! `GuestInterfaces`: the interfaces of a pod behind which guests are, as the pod's annotation names them.
//!
//! A guest is a virtual machine, say, whose traffic the pod forwards; it has the pod's portals. What comes in by any
//! other interface of the pod has none: the pod's neighbours are not its guests. What must not go in here: the
//! kernel's messages, and which interfaces there are.

use std::collections::BTreeSet;
use std::fmt;

use crate::model::annotation::GUEST_INTERFACES;

/// The set of the table that holds the guests.
pub const GUESTS_SET: &str = "guests";
/// How long the kernel's name of an interface is, padded with zeros (IFNAMSIZ).
pub const INTERFACE_BYTES: u8 = 16;
/// A pod names no more interfaces than this.
const GUESTS_MAX: usize = 64;

type Name = [u8; INTERFACE_BYTES as usize];

/// One interface, or all whose names begin alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InterfacePattern {
    /// The name, padded with zeros.
    name: Name,
    is_prefix: bool,
}

/// The interfaces of a pod behind which guests are. No interface is named twice.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct GuestInterfaces(BTreeSet<InterfacePattern>);

impl InterfacePattern {
    /// Reads `tap0`, or `k6t-*` for all names that begin so.
    fn parse(text: &str) -> Result<Self, &'static str> {
        let (name, is_prefix) = text.strip_suffix('*').map_or((text, false), |name| (name, true));
        if name.is_empty() || name.len() >= usize::from(INTERFACE_BYTES) {
            return Err("is not 1 to 15 characters long");
        }
        // What the kernel's dev_valid_name takes, without what means something here.
        let is_valid =
            |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'/' | b':' | b'*' | b',' | b'"');
        if !name.bytes().all(is_valid) || matches!(name, "." | "..") {
            return Err("is no name of an interface");
        }
        let mut padded = Name::default();
        padded[..name.len()].copy_from_slice(name.as_bytes());
        Ok(Self { name: padded, is_prefix })
    }

    /// Whether an interface of this name is meant.
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

    /// The first name that is meant, as the kernel compares names.
    #[must_use]
    pub const fn first(&self) -> Name {
        self.name
    }

    /// The first name behind those that are meant.
    #[must_use]
    pub fn end(&self) -> Name {
        let mut end = self.name;
        // Names are of printable characters, so the last one has a successor.
        let last = if self.is_prefix { self.text().len().saturating_sub(1) } else { end.len() - 1 };
        if let Some(byte) = end.get_mut(last) {
            *byte += 1;
        }
        end
    }

    /// What means the names from the first to one before the end, if that is what one interface or a prefix means.
    #[must_use]
    pub fn between(first: Name, end: Name) -> Option<Self> {
        let of = |is_prefix| Self { name: first, is_prefix };
        let is_read = |guest: &Self| Self::parse(&guest.to_string()).as_ref() == Ok(guest);
        [of(false), of(true)].into_iter().find(|guest| is_read(guest) && guest.end() == end)
    }
}

impl fmt::Display for InterfacePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.text(), if self.is_prefix { "*" } else { "" })
    }
}

impl GuestInterfaces {
    /// Reads the annotation: names of interfaces and how names begin (`tap0,k6t-*`), separated by commas.
    ///
    /// # Errors
    /// Where one of them is neither.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut guests = BTreeSet::new();
        for item in text.split(',').map(str::trim) {
            let wrong = |why| {
                let (key, values) = (GUEST_INTERFACES.key, GUEST_INTERFACES.values);
                let shown: String = item.chars().take(32).collect();
                format!("annotation {key}: {shown:?} {why}; write {values}")
            };
            guests.insert(InterfacePattern::parse(item).map_err(wrong)?);
            if guests.len() > GUESTS_MAX {
                return Err(format!(
                    "annotation {}: more than {GUESTS_MAX} interfaces",
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

    /// The interfaces, in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = &InterfacePattern> {
        self.0.iter()
    }

    /// Whether guests are behind an interface of this name.
    #[must_use]
    pub fn matches(&self, interface: &str) -> bool {
        self.0.iter().any(|guest| guest.matches(interface))
    }
}

impl FromIterator<InterfacePattern> for GuestInterfaces {
    /// What another one covers is left out: the kernel's intervals do not overlap.
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
    fn a_list_names_interfaces_and_how_names_begin() {
        let guests = guests("tap0, k6t-*");
        assert_eq!(guests.to_string(), "k6t-*,tap0");
        for (interface, expected) in
            [("tap0", true), ("tap01", false), ("k6t-net1", true), ("k6t", false), ("eth0", false)]
        {
            assert_eq!(guests.matches(interface), expected, "{interface}");
        }
    }

    #[test]
    fn what_a_prefix_covers_is_left_out() {
        assert_eq!(guests("tap0,tap*,ta*,tb0").to_string(), "ta*,tb0");
    }

    #[test]
    fn a_mistake_is_named_with_what_may_be_written() {
        for wrong in ["", "*", "a,,b", "a b", "a/b", "0123456789abcdef", "..", "a*b", "tap\u{e9}"] {
            let why = GuestInterfaces::parse(wrong).expect_err(wrong);
            assert!(why.contains(GUEST_INTERFACES.key) && why.contains(GUEST_INTERFACES.values), "{why}");
        }
        let many: Vec<String> = (0..65).map(|number| format!("tap{number}")).collect();
        assert!(GuestInterfaces::parse(&many.join(",")).is_err());
    }

    #[test]
    fn an_interval_of_names_is_read_back_as_what_made_it() {
        for guest in guests("tap0,k6t-*,a,0123456789abcde,~*").iter() {
            assert_eq!(InterfacePattern::between(guest.first(), guest.end()), Some(*guest), "{guest}");
            assert_eq!(
                InterfacePattern::between(guest.first(), *b"\xff\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"),
                None
            );
        }
    }
}
