//! The intended differences between in-pod DNS and CoreDNS.
//!
//! In each of them CoreDNS contradicts an RFC, or answers a question for which the specification has no record.

use dns::{Name, RecordType};

use super::reply::Reply;

/// An intended difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Difference {
    /// CoreDNS answers TXT for a name that exists without records with NXDOMAIN (RFC 2308: NODATA).
    TextOfEmptyName,
    /// CoreDNS has NODATA for SOA and any name below its zones, which include the reverse zones (RFC 8020: NXDOMAIN if
    /// the name does not exist).
    AuthorityOfAbsentName,
    /// CoreDNS denies names that have records or names below them: `dns-version`, `dns`, `_tcp.SERVICE` (RFC 8020).
    DeniedParent,
    /// CoreDNS has an alias in answers to A, AAAA and CNAME only, and only if its target has records; and the response
    /// code is that of the alias (RFC 1034, 3.6.2; RFC 6604: every type, and the code of the last name).
    Alias,
    /// CoreDNS ignores labels before the address in the name of a pod, and before that of an IPv6 address.
    LabelsBeforeAddress,
    /// CoreDNS has an SRV record with port 0 for each pod.
    PortOfPod,
    /// CoreDNS treats a label that is only an underscore as any port or protocol; unnamed ports have no SRV records.
    EmptyPortLabel,
    /// CoreDNS forwards questions for other types than PTR of an address that it knows.
    TypeOfAddress,
    /// CoreDNS forwards questions for unused addresses in service ranges.
    UnusedServiceAddress,
}

/// All intended differences.
pub(crate) const ALL: [Difference; 9] = [
    Difference::TextOfEmptyName,
    Difference::AuthorityOfAbsentName,
    Difference::DeniedParent,
    Difference::Alias,
    Difference::LabelsBeforeAddress,
    Difference::PortOfPod,
    Difference::EmptyPortLabel,
    Difference::TypeOfAddress,
    Difference::UnusedServiceAddress,
];

/// Returns the intended difference of two replies. `exists`: whether the name exists for CoreDNS.
pub(crate) fn difference(
    name: &Name,
    record_type: RecordType,
    own: &Reply,
    theirs: &Reply,
    exists: impl Fn() -> bool,
) -> Option<Difference> {
    let labels: Vec<&[u8]> = name.labels().collect();
    let first = *labels.first()?;
    let is_reverse = labels.last() == Some(&b"arpa".as_slice());
    let is_parent = matches!(first, b"dns-version" | b"dns" | b"_tcp" | b"_udp" | b"_sctp");
    if record_type == RecordType::TXT && own.is_no_data() && theirs.is_absent() && exists() {
        return Some(Difference::TextOfEmptyName);
    }
    let is_negative = own.is_absent() || *own == Reply::Forwarded;
    if record_type == RecordType::SOA && is_negative && theirs.is_no_data() && !exists() {
        return Some(Difference::AuthorityOfAbsentName);
    }
    if is_parent && own.is_no_data() && theirs.is_absent() {
        return Some(Difference::DeniedParent);
    }
    if own.has_alias() {
        let is_other_type = !matches!(record_type, RecordType::A | RecordType::AAAA | RecordType::CNAME);
        let is_unresolved = theirs.is_no_data() || (own.is_absent() && theirs.exists());
        return (is_other_type || is_unresolved).then_some(Difference::Alias);
    }
    if labels.len() > 5 && labels[labels.len() - 3] == b"pod" && own.is_absent() && theirs.exists() {
        return Some(Difference::LabelsBeforeAddress);
    }
    let is_pod = labels.len() >= 5 && labels[labels.len() - 3] == b"pod";
    if is_pod && record_type == RecordType::SRV && own.is_no_data() && theirs.has_records() {
        return Some(Difference::PortOfPod);
    }
    if labels.iter().take(2).any(|label| *label == b"_") && own.is_absent() && theirs.exists() {
        return Some(Difference::EmptyPortLabel);
    }
    if is_reverse && labels.len() > 34 && *own == Reply::Forwarded && theirs.exists() {
        return Some(Difference::LabelsBeforeAddress);
    }
    if is_reverse && record_type != RecordType::PTR && own.is_no_data() && *theirs == Reply::Forwarded {
        return Some(Difference::TypeOfAddress);
    }
    (is_reverse && own.is_absent() && *theirs == Reply::Forwarded).then_some(Difference::UnusedServiceAddress)
}
