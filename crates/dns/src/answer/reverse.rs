//! Names of addresses: the PTR records below `in-addr.arpa` and `ip6.arpa`.
//!
//! A cluster address has the name of its service. Any other address has the names of all ready endpoints with it. Other
//! addresses are not in the zone, except those in service ranges: only services can have them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use super::find::{Absence, Finding, Node};
use crate::client::Client;
use crate::message::Name;
use crate::zone::{HostLabel, ServiceEntry, Zone};

/// A name of an address.
pub(crate) struct Pointer<'a> {
    pub(crate) entry: &'a Arc<ServiceEntry>,
    /// The label of the endpoint. None: the address is a cluster address.
    pub(crate) host: Option<HostLabel>,
}

/// Finds what a name outside of the domain stands for.
pub(crate) fn find<'a>(zone: &'a Zone, client: &Client, name: &Name) -> Finding<'a> {
    let Some(address) = address_of(name) else { return Finding::Outside };
    let Some(snapshot) = &zone.snapshot else { return Finding::Unsynced };
    let services = zone.index.services_at(address);
    let is_visible = |entry: &&&Arc<ServiceEntry>| client.view.includes(&entry.service.key);
    let has_address = |entry: &Arc<ServiceEntry>| entry.reverse_addresses().binary_search(&address).is_ok();
    let visible = || services.iter().filter(is_visible).copied();
    if let Some(entry) = visible().find(|entry| entry.has_cluster_ip(address)) {
        return Finding::Present(Node::Address(vec![Pointer { entry, host: None }]));
    }
    let mut pointers: Vec<Pointer<'a>> = Vec::new();
    for entry in visible() {
        let endpoints = entry.ready().filter(|(_, endpoint)| endpoint.address == address);
        let mut hosts: Vec<HostLabel> = endpoints.map(|(_, endpoint)| HostLabel::of(endpoint)).collect();
        hosts.sort_unstable();
        hosts.dedup();
        pointers.extend(hosts.into_iter().map(|host| Pointer { entry, host: Some(host) }));
    }
    if !pointers.is_empty() {
        return Finding::Present(Node::Address(pointers));
    }
    if services.iter().any(|entry| !client.view.includes(&entry.service.key) && has_address(entry)) {
        return Finding::Absent(Absence::Hidden);
    }
    if snapshot.all_service_ranges().iter().any(|range| range.contains(&address)) {
        return Finding::Absent(Absence::UnusedAddress);
    }
    Finding::Outside
}

/// Returns the address of which this is the reverse name.
fn address_of(name: &Name) -> Option<IpAddr> {
    let bytes = name.as_bytes();
    if bytes.ends_with(b"\x07in-addr\x04arpa\x00") {
        return parse_v4(name);
    }
    bytes.ends_with(b"\x03ip6\x04arpa\x00").then(|| parse_v6(name)).flatten()
}

/// Parses `4.3.2.1.in-addr.arpa`.
fn parse_v4(name: &Name) -> Option<IpAddr> {
    let mut labels = name.labels();
    let mut octets = [0; 4];
    for octet in octets.iter_mut().rev() {
        let label = labels.next()?;
        let is_canonical = label == b"0" || (label[0] != b'0' && label.iter().all(u8::is_ascii_digit));
        *octet = std::str::from_utf8(label).ok().filter(|_| is_canonical)?.parse().ok()?;
    }
    (labels.next()? == b"in-addr").then(|| Ipv4Addr::from(octets).into())
}

/// Parses a name of 32 hexadecimal digits, the last one first, and `ip6.arpa`.
fn parse_v6(name: &Name) -> Option<IpAddr> {
    let mut labels = name.labels();
    let mut bits = 0_u128;
    for position in 0..32 {
        let [digit] = labels.next()? else { return None };
        bits |= u128::from(char::from(*digit).to_digit(16)?) << (4 * position);
    }
    (labels.next()? == b"ip6").then(|| Ipv6Addr::from(bits).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Option<String> {
        address_of(&Name::parse(text)?).map(|address| address.to_string())
    }

    #[test]
    fn reverse_names_of_both_families_are_addresses() {
        assert_eq!(address("1.0.96.10.in-addr.arpa").as_deref(), Some("10.96.0.1"));
        let v6 = format!("1.{}0.1.d.f.ip6.arpa", "0.".repeat(27));
        assert_eq!(address(&v6).as_deref(), Some("fd10::1"));
    }

    #[test]
    fn other_names_in_the_reverse_zones_are_no_addresses() {
        let v6_of_31_digits = format!("1.{}0.1.d.f.ip6.arpa", "0.".repeat(26));
        for text in [
            "0.96.10.in-addr.arpa",
            "1.1.0.96.10.in-addr.arpa",
            "01.0.96.10.in-addr.arpa",
            "256.0.96.10.in-addr.arpa",
            "+1.0.96.10.in-addr.arpa",
            "x.0.96.10.in-addr.arpa",
            "in-addr.arpa",
            "ip6.arpa",
            "1.0.96.10.xin-addr.arpa",
            v6_of_31_digits.as_str(),
        ] {
            assert_eq!(address(text), None, "{text}");
        }
    }
}
