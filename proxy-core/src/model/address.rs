//! IP addresses as Kubernetes parses them.
//!
//! Kubernetes accepts IPv4 addresses with leading zeros ("172.30.0.041" is 172.30.0.41), and converts an IPv4-mapped
//! IPv6 address to IPv4. The parser of Rust rejects the former and does not convert the latter, so every address of an
//! object is parsed here.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// An address family. A portal and its backends have the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Family {
    /// IPv4.
    #[serde(rename = "IPv4")]
    V4,
    /// IPv6.
    #[serde(rename = "IPv6")]
    V6,
}

impl Family {
    /// Both families, in the order of output.
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    /// Returns the family of an address.
    #[must_use]
    pub const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// Returns the family of a CIDR.
    #[must_use]
    pub const fn of_net(net: &IpNet) -> Self {
        match net {
            IpNet::V4(_) => Self::V4,
            IpNet::V6(_) => Self::V6,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// Parses an address as Kubernetes does (`ParseIPSloppy`): numbers with leading zeros are decimal, and an IPv4-mapped
/// IPv6 address is an IPv4 address.
#[must_use]
pub fn parse_ip_sloppy(text: &str) -> Option<IpAddr> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(address.to_canonical());
    }
    let mut octets = [0_u8; 4];
    let mut parts = text.split('.');
    for octet in &mut octets {
        *octet = sloppy_octet(parts.next()?)?;
    }
    parts.next().is_none().then(|| IpAddr::V4(Ipv4Addr::from(octets)))
}

fn sloppy_octet(part: &str) -> Option<u8> {
    if part.is_empty() || !part.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    part.parse().ok()
}

/// Parses a CIDR as Kubernetes does: surrounding white space is ignored, host bits are cleared, and numbers with
/// leading zeros are decimal.
#[must_use]
pub fn parse_net_sloppy(text: &str) -> Option<IpNet> {
    let (address, length) = text.trim().split_once('/')?;
    if length.is_empty() || !length.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let address = parse_ip_sloppy(address)?;
    let net = IpNet::new(address, length.parse().ok()?).ok()?;
    Some(net.trunc())
}

/// Why an address is forbidden for endpoints or for external addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Forbidden {
    /// 0.0.0.0 or ::
    Unspecified,
    /// 127.0.0.0/8 or ::1: the address of the pod itself.
    Loopback,
    /// 169.254.0.0/16 or `fe80::/10`: it identifies another machine on each link.
    LinkLocal,
    /// 224.0.0.0/24 or `ff02::/16`.
    LinkLocalMulticast,
    /// The cluster address of a service: a portal is not a backend.
    ServiceAddress,
    /// 224.0.0.0/4 or `ff00::/8`, without connections. Forbidden for external addresses only.
    Multicast,
    /// 255.255.255.255. Forbidden for external addresses only.
    Broadcast,
}

impl fmt::Display for Forbidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unspecified => "the unspecified address",
            Self::Loopback => "a loopback address",
            Self::LinkLocal => "a link-local address",
            Self::LinkLocalMulticast => "a link-local multicast address",
            Self::ServiceAddress => "the address of a service",
            Self::Multicast => "a multicast address",
            Self::Broadcast => "the broadcast address",
        })
    }
}

/// Returns why an endpoint must not have this address. The snapshot knows the addresses of services.
#[must_use]
pub fn forbidden(address: IpAddr) -> Option<Forbidden> {
    if address.is_unspecified() {
        return Some(Forbidden::Unspecified);
    }
    if address.is_loopback() {
        return Some(Forbidden::Loopback);
    }
    let (link_local, link_local_multicast) = match address {
        IpAddr::V4(v4) => (v4.is_link_local(), v4.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(v6) => (v6.is_unicast_link_local(), v6.segments()[0] & 0xff0f == 0xff02),
    };
    if link_local {
        Some(Forbidden::LinkLocal)
    } else if link_local_multicast {
        Some(Forbidden::LinkLocalMulticast)
    } else {
        None
    }
}

/// Returns why a service must not have this external address. Most clouds have their metadata service at a link-local
/// address.
#[must_use]
pub fn forbidden_external(address: IpAddr) -> Option<Forbidden> {
    forbidden(address).or_else(|| match address {
        _ if address.is_multicast() => Some(Forbidden::Multicast),
        IpAddr::V4(Ipv4Addr::BROADCAST) => Some(Forbidden::Broadcast),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn numbers_with_leading_zeros_are_decimal() {
        assert_eq!(parse_ip_sloppy("172.30.0.041"), Some(ip("172.30.0.41")));
        assert_eq!(parse_ip_sloppy("010.000.000.001"), Some(ip("10.0.0.1")));
        assert_eq!(parse_net_sloppy("010.0.0.0/8"), "10.0.0.0/8".parse().ok());
    }

    #[test]
    fn ipv4_mapped_address_is_an_ipv4_address() {
        assert_eq!(parse_ip_sloppy("::ffff:1.2.3.4"), Some(ip("1.2.3.4")));
    }

    #[test]
    fn invalid_addresses_and_cidrs_are_rejected() {
        for text in ["", "1.2.3", "1.2.3.4.5", "256.1.1.1", "1.2.3.x", "1.2.3.+4", "::g", "1..2.3", "None"] {
            assert_eq!(parse_ip_sloppy(text), None, "{text}");
        }
        for text in ["", "10.0.0.0", "10.0.0.0/", "10.0.0.0/33", "10.0.0.0/+8", "x/8"] {
            assert_eq!(parse_net_sloppy(text), None, "{text}");
        }
    }

    #[test]
    fn white_space_and_host_bits_of_a_cidr_are_removed() {
        assert_eq!(parse_net_sloppy(" 10.1.2.3/8 "), "10.0.0.0/8".parse().ok());
    }

    #[test]
    fn forbidden_endpoint_addresses_are_those_of_the_api() {
        let cases = [
            ("0.0.0.0", Some(Forbidden::Unspecified)),
            ("::", Some(Forbidden::Unspecified)),
            ("127.0.0.1", Some(Forbidden::Loopback)),
            ("127.255.0.1", Some(Forbidden::Loopback)),
            ("::1", Some(Forbidden::Loopback)),
            ("169.254.1.1", Some(Forbidden::LinkLocal)),
            ("fe80::1", Some(Forbidden::LinkLocal)),
            ("224.0.0.251", Some(Forbidden::LinkLocalMulticast)),
            ("ff02::fb", Some(Forbidden::LinkLocalMulticast)),
            ("224.0.1.1", None),
            ("10.0.0.1", None),
            ("2001:db8::1", None),
        ];
        for (address, expected) in cases {
            assert_eq!(forbidden(ip(address)), expected, "{address}");
            if expected.is_some() {
                assert_eq!(forbidden_external(ip(address)), expected, "{address}");
            }
        }
    }

    #[test]
    fn multicast_and_broadcast_are_forbidden_as_external_addresses() {
        let cases = [
            ("224.0.1.1", Some(Forbidden::Multicast)),
            ("ff05::1", Some(Forbidden::Multicast)),
            ("255.255.255.255", Some(Forbidden::Broadcast)),
            ("169.254.169.254", Some(Forbidden::LinkLocal)),
            ("192.0.2.1", None),
            ("2001:db8::1", None),
        ];
        for (address, expected) in cases {
            assert_eq!(forbidden_external(ip(address)), expected, "{address}");
        }
    }
}
