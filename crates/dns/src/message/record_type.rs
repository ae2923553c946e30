//! `RecordType`: the types of records (RR types) by number.
//!
//! A number without a name is a valid type: the zone answers that a name has no record of it.

use std::fmt;

/// Classes.
pub(crate) mod class {
    /// The Internet.
    pub(crate) const IN: u16 = 1;
}

/// A type of record, or a type of question only (QTYPE).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RecordType(pub u16);

impl RecordType {
    /// An IPv4 address.
    pub const A: Self = Self(1);
    /// A name server.
    pub const NS: Self = Self(2);
    /// The canonical name of an alias.
    pub const CNAME: Self = Self(5);
    /// The start of authority.
    pub const SOA: Self = Self(6);
    /// A name for an address.
    pub const PTR: Self = Self(12);
    /// Information about a host; also the answer to ANY (RFC 8482).
    pub const HINFO: Self = Self(13);
    /// A mail exchange.
    pub const MX: Self = Self(15);
    /// A text.
    pub const TXT: Self = Self(16);
    /// An IPv6 address.
    pub const AAAA: Self = Self(28);
    /// The port and host of a service.
    pub const SRV: Self = Self(33);
    /// An alias of a whole subtree.
    pub const DNAME: Self = Self(39);
    /// EDNS.
    pub const OPT: Self = Self(41);
    /// An incremental transfer of a zone.
    pub const IXFR: Self = Self(251);
    /// A transfer of a zone.
    pub const AXFR: Self = Self(252);
    /// Any type.
    pub const ANY: Self = Self(255);

    const NAMES: [(Self, &'static str); 19] = [
        (Self::A, "A"),
        (Self::NS, "NS"),
        (Self::CNAME, "CNAME"),
        (Self::SOA, "SOA"),
        (Self::PTR, "PTR"),
        (Self::HINFO, "HINFO"),
        (Self::MX, "MX"),
        (Self::TXT, "TXT"),
        (Self::AAAA, "AAAA"),
        (Self::SRV, "SRV"),
        (Self::DNAME, "DNAME"),
        (Self::OPT, "OPT"),
        (Self(35), "NAPTR"),
        (Self(64), "SVCB"),
        (Self(65), "HTTPS"),
        (Self(257), "CAA"),
        (Self::IXFR, "IXFR"),
        (Self::AXFR, "AXFR"),
        (Self::ANY, "ANY"),
    ];

    /// Parses a name, or a number as in TYPE65 (RFC 3597). Letters can have any case.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let named = Self::NAMES.iter().find(|(_, name)| name.eq_ignore_ascii_case(text));
        let numbered = || text.get(4..).filter(|_| text[..4].eq_ignore_ascii_case("TYPE"))?.parse().ok();
        named.map(|(record_type, _)| *record_type).or_else(|| numbered().map(Self))
    }

    /// Whether no record has this type, other than ANY: the types 0, OPT, and 128 to 254 (RFC 6895, 3.1).
    #[must_use]
    pub fn is_meta(self) -> bool {
        self == Self::OPT || matches!(self.0, 0 | 128..=254)
    }
}

impl fmt::Display for RecordType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Self::NAMES.iter().find(|(known, _)| known == self) {
            Some((_, name)) => f.write_str(name),
            None => write!(f, "TYPE{}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_parsed_by_name_and_by_number() {
        assert_eq!(RecordType::parse("aaaa"), Some(RecordType::AAAA));
        assert_eq!(RecordType::parse("type66"), Some(RecordType(66)));
        assert_eq!(RecordType(66).to_string(), "TYPE66");
        for (record_type, name) in RecordType::NAMES {
            assert_eq!(RecordType::parse(&record_type.to_string()), Some(record_type), "{name}");
        }
        for text in ["", "TYPE", "TYPE65536", "B", "tÿpe1"] {
            assert_eq!(RecordType::parse(text), None, "{text}");
        }
    }
}
