//! `NodePortAddresses`: which addresses of the node serve node ports (`--nodeport-addresses`).
//!
//! The values are those of kube-proxy: CIDRs and `primary`, the default of its nftables mode; in addition `all` and
//! `localhost` (KEP-6032). Loopback and link-local addresses are never selected: a neighbour on the link could use them,
//! and 127.0.0.1 and ::1 are served by a listener instead of rules.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use proxy_core::address::{Family, parse_net_sloppy};
use proxy_core::node::Node;

/// One value of `--nodeport-addresses`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressSelector {
    /// The first address of each family in the node object.
    Primary,
    /// Every address of the node.
    All,
    /// 127.0.0.1 and ::1.
    Localhost,
    /// The addresses of the node in a CIDR.
    Range(IpNet),
}

impl FromStr for AddressSelector {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.trim() {
            "primary" => Ok(Self::Primary),
            "all" => Ok(Self::All),
            "localhost" => Ok(Self::Localhost),
            other => parse_net_sloppy(other)
                .map(Self::Range)
                .ok_or_else(|| "must be a CIDR, or one of: primary, all, localhost".to_owned()),
        }
    }
}

/// The addresses of the node that serve node ports. The default is `primary`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodePortAddresses {
    has_primary: bool,
    ranges: Vec<IpNet>,
    /// The families of which the loopback address is served.
    localhost: BTreeSet<Family>,
}

impl NodePortAddresses {
    /// Returns the selected ones of the addresses in the node's network namespace, and if requested the primary
    /// addresses of the node object, which can be those of a NAT gateway in front of the node.
    #[must_use]
    pub fn select(&self, node: &Node, local: &BTreeSet<IpAddr>) -> BTreeSet<IpAddr> {
        let primary =
            Family::BOTH.into_iter().filter(|_| self.has_primary).filter_map(|family| node.primary(family));
        let in_ranges =
            local.iter().copied().filter(|address| self.ranges.iter().any(|range| range.contains(address)));
        primary.chain(in_ranges).filter(|address| can_serve_node_ports(*address)).collect()
    }

    /// Whether node ports are served at the loopback address of a family.
    #[must_use]
    pub fn has_localhost(&self, family: Family) -> bool {
        self.localhost.contains(&family)
    }
}

impl Default for NodePortAddresses {
    fn default() -> Self {
        Self::from_iter([AddressSelector::Primary])
    }
}

impl FromIterator<AddressSelector> for NodePortAddresses {
    fn from_iter<I: IntoIterator<Item = AddressSelector>>(selectors: I) -> Self {
        let mut addresses = Self { has_primary: false, ranges: Vec::new(), localhost: BTreeSet::new() };
        for selector in selectors {
            match selector {
                AddressSelector::Primary => addresses.has_primary = true,
                AddressSelector::All => {
                    addresses.ranges.extend([IpNet::V4(Ipv4Net::default()), IpNet::V6(Ipv6Net::default())]);
                }
                AddressSelector::Localhost => addresses.localhost.extend(Family::BOTH),
                // kube-proxy's iptables mode serves node ports at loopback addresses if such a CIDR is configured.
                AddressSelector::Range(range) if is_loopback(range) => {
                    addresses.localhost.insert(Family::of_net(&range));
                }
                AddressSelector::Range(range) => addresses.ranges.push(range),
            }
        }
        addresses
    }
}

/// Whether a CIDR contains the loopback address of its family, and only loopback addresses.
fn is_loopback(range: IpNet) -> bool {
    match range {
        IpNet::V4(range) => range.contains(&Ipv4Addr::LOCALHOST) && range.prefix_len() >= 8,
        IpNet::V6(range) => range.contains(&Ipv6Addr::LOCALHOST) && range.prefix_len() == 128,
    }
}

fn can_serve_node_ports(address: IpAddr) -> bool {
    let is_link_local = match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    !is_link_local && !address.is_loopback() && !address.is_unspecified() && !address.is_multicast()
}

#[cfg(test)]
mod tests {
    use proxy_core::sample::ip;

    use super::*;

    fn selection(values: &[&str]) -> NodePortAddresses {
        values.iter().map(|value| value.parse::<AddressSelector>().expect("a valid value")).collect()
    }

    fn addresses<const N: usize>(texts: [&str; N]) -> BTreeSet<IpAddr> {
        texts.map(ip).into()
    }

    /// Two primary addresses, one of which is not in the network namespace, and a third address.
    fn node() -> Node {
        let addresses = ["192.0.2.5", "192.0.2.6", "2001:db8::5"].map(ip).to_vec();
        Node { addresses, ..Node::default() }
    }

    fn local() -> BTreeSet<IpAddr> {
        addresses([
            "127.0.0.1",
            "127.0.0.53",
            "192.0.2.5",
            "192.0.2.6",
            "198.51.100.1",
            "169.254.20.10",
            "::1",
            "fe80::1",
            "fd00::7",
        ])
    }

    #[test]
    fn primary_is_the_first_address_of_each_family_in_the_node_object() {
        assert_eq!(NodePortAddresses::default(), selection(&["primary"]));
        let expected = addresses(["192.0.2.5", "2001:db8::5"]);
        assert_eq!(NodePortAddresses::default().select(&node(), &local()), expected);
        assert!(NodePortAddresses::default().select(&Node::default(), &local()).is_empty());
    }

    #[test]
    fn all_selects_every_address_except_loopback_and_link_local_ones() {
        let expected = addresses(["192.0.2.5", "192.0.2.6", "198.51.100.1", "fd00::7"]);
        assert_eq!(selection(&["all"]).select(&node(), &local()), expected);
        assert_eq!(selection(&["0.0.0.0/0", "::/0"]).select(&node(), &local()), expected);
        assert_eq!(selection(&["::/0"]).select(&node(), &local()), addresses(["fd00::7"]), "IPv6 only");
    }

    #[test]
    fn cidrs_select_addresses_of_the_network_namespace() {
        let selected = |values: &[&str]| selection(values).select(&node(), &local());
        assert_eq!(selected(&["192.0.2.0/24"]), addresses(["192.0.2.5", "192.0.2.6"]));
        assert_eq!(
            selected(&["198.51.100.0/24", "fd00::/8", "primary"]),
            addresses(["192.0.2.5", "198.51.100.1", "2001:db8::5", "fd00::7"])
        );
        assert!(selected(&["2001:db8::/32"]).is_empty(), "an address of the node object only");
        assert!(selected(&["169.254.0.0/16", "fe80::/10"]).is_empty());
    }

    #[test]
    fn localhost_and_loopback_cidrs_select_the_loopback_listener_and_no_address() {
        let families = |values: &[&str]| {
            let selection = selection(values);
            assert!(selection.select(&Node::default(), &local()).is_empty(), "{values:?}");
            Family::BOTH.map(|family| selection.has_localhost(family))
        };
        assert_eq!(families(&["localhost"]), [true, true]);
        assert_eq!(families(&["127.0.0.0/8"]), [true, false]);
        assert_eq!(families(&["127.0.0.1/32", "::1/128"]), [true, true]);
        assert_eq!(families(&["primary"]), [false, false]);
        // A range of other loopback addresses selects nothing.
        assert_eq!(families(&["127.1.0.0/16"]), [false, false]);
        assert!(!selection(&["all"]).has_localhost(Family::V4));
    }

    #[test]
    fn value_that_is_neither_a_cidr_nor_a_keyword_is_rejected() {
        for value in ["", "Primary", "192.0.2.1", "192.0.2.0/33", "fd00::/129", "eth0", "all,localhost"] {
            let error = value.parse::<AddressSelector>().expect_err(value);
            assert_eq!(error, "must be a CIDR, or one of: primary, all, localhost", "{value}");
        }
        assert_eq!(" all ".parse(), Ok(AddressSelector::All));
    }
}
