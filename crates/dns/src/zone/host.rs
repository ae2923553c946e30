//! `HostLabel`: the label of an endpoint below its service.
//!
//! It is the hostname of the endpoint, otherwise an identifier from its address, as CoreDNS makes it: the dots or colons
//! become dashes, and a trailing dash is followed by 0.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proxy_core::endpoint::Endpoint;

use crate::message::LABEL_BYTES_MAX;

/// The label of an endpoint, in lower case.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct HostLabel {
    bytes: [u8; LABEL_BYTES_MAX],
    len: u8,
}

impl HostLabel {
    const EMPTY: Self = Self { bytes: [0; LABEL_BYTES_MAX], len: 0 };

    /// Returns the label of an endpoint.
    pub(crate) fn of(endpoint: &Endpoint) -> Self {
        let mut label = Self::EMPTY;
        match hostname(endpoint) {
            Some(hostname) => label.append(hostname),
            None => label = Self::of_address(endpoint.address),
        }
        label
    }

    /// Returns the identifier of an address.
    pub(crate) fn of_address(address: IpAddr) -> Self {
        let mut label = Self::EMPTY;
        // An address has at most 45 characters, and `write_str` below does not fail.
        let _ = write!(label, "{address}");
        let text = &mut label.bytes[..usize::from(label.len)];
        text.iter_mut().filter(|byte| matches!(byte, b'.' | b':')).for_each(|byte| *byte = b'-');
        if text.last() == Some(&b'-') {
            label.append("0");
        }
        label
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    fn append(&mut self, text: &str) {
        for (target, byte) in self.bytes[usize::from(self.len)..].iter_mut().zip(text.bytes()) {
            *target = byte.to_ascii_lowercase();
            self.len += 1;
        }
    }
}

impl Write for HostLabel {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.append(text);
        Ok(())
    }
}

/// Returns the hostname of an endpoint, if it is a label.
fn hostname(endpoint: &Endpoint) -> Option<&str> {
    endpoint.hostname.as_deref().filter(|name| (1..=LABEL_BYTES_MAX).contains(&name.len()))
}

/// A label of a query, in lower case, that is compared with those of many endpoints.
#[derive(Clone, Copy)]
pub(crate) struct HostQuery<'a> {
    label: &'a [u8],
    address: Option<IpAddr>,
}

impl<'a> HostQuery<'a> {
    pub(crate) fn new(label: &'a [u8]) -> Self {
        // Addresses have several text forms, and only one of them is the identifier.
        let is_identifier = |address: &IpAddr| HostLabel::of_address(*address).as_bytes() == label;
        Self { label, address: parse_dashed(label).filter(is_identifier) }
    }

    /// Whether this is the label of an endpoint.
    pub(crate) fn matches(&self, endpoint: &Endpoint) -> bool {
        match hostname(endpoint) {
            Some(hostname) => hostname.as_bytes().eq_ignore_ascii_case(self.label),
            None => self.address == Some(endpoint.address),
        }
    }
}

/// Parses an address with dashes instead of dots or colons.
pub(crate) fn parse_dashed(label: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(label).ok()?;
    let is_v4 = label.iter().filter(|byte| **byte == b'-').count() == 3 && !text.contains("--");
    if is_v4 {
        return text.replace('-', ".").parse::<Ipv4Addr>().ok().map(IpAddr::V4);
    }
    if !label.contains(&b'-') {
        return None;
    }
    text.replace('-', ":").parse::<Ipv6Addr>().ok().map(IpAddr::V6)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn label_of(address: &str) -> String {
        let label = HostLabel::of_address(address.parse().unwrap());
        String::from_utf8(label.as_bytes().to_vec()).unwrap()
    }

    #[test]
    fn identifier_is_the_address_with_dashes() {
        assert_eq!(label_of("10.1.0.25"), "10-1-0-25");
        assert_eq!(label_of("fd00:10::1"), "fd00-10--1");
        assert_eq!(label_of("fd00:10::"), "fd00-10--0");
        assert_eq!(label_of("::1"), "--1");
        assert_eq!(label_of("::"), "--0");
        assert_eq!(label_of("2001:db8:1:2:3:4:5:6"), "2001-db8-1-2-3-4-5-6");
    }

    #[test]
    fn only_the_identifier_of_an_address_is_its_label() {
        let address = |label: &str| HostQuery::new(label.as_bytes()).address.map(|found| found.to_string());
        assert_eq!(address("10-1-0-25").as_deref(), Some("10.1.0.25"));
        assert_eq!(address("fd00-10--0").as_deref(), Some("fd00:10::"));
        assert_eq!(address("--1").as_deref(), Some("::1"));
        for label in ["10-1-0-025", "10-1-0", "fd00-10--", "fd00-0-0-0-0-0-0-1", "web", "1", "--01", "a.b"] {
            assert_eq!(address(label), None, "{label}");
        }
    }
}
