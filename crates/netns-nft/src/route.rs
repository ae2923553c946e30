//! Routes to the service ranges.
//!
//! The kernel looks up the route before it translates the destination: without a route to a portal's address,
//! `connect()` fails with ENETUNREACH although a rule matches. So a network namespace without a route to a service
//! range (macvlan, SR-IOV, secondary networks) gets one via the interface that the caller names. An existing route is
//! left alone, wherever it leads.
//!
//! The two messages are written with `MessageBuffer`: the crate `netlink-packet-route` (0.34) adds 871 KB to a small
//! static program (1.18 MB without it, 2.05 MB with it), because its parser supports every type of route.

use std::io::{self, ErrorKind};
use std::net::IpAddr;

use ipnet::IpNet;
use nix::ifaddrs::{InterfaceAddress, getifaddrs};
use nix::libc;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::SockProtocol;
use proxy_core::address::Family;

use crate::error::Error;
use crate::netlink::attributes::MessageBuffer;
use crate::netlink::socket::Socket;
use crate::netlink::uapi::*;
use crate::netns::Netns;
use crate::nft::element::octets;

/// The kernel's `struct rtmsg`.
type RouteHeader = [u8; 12];

/// The offsets of fields in `struct rtmsg`.
mod rtmsg {
    pub(super) const FAMILY: usize = 0;
    pub(super) const DST_LEN: usize = 1;
    pub(super) const TABLE: usize = 4;
    pub(super) const PROTOCOL: usize = 5;
    pub(super) const SCOPE: usize = 6;
    pub(super) const TYPE: usize = 7;
}

/// Adds a route to each service range that has none, via this interface and with one of its addresses as the source
/// (global before link-local). Returns the ranges for which a route was added. Ranges of a family without an address
/// are skipped.
///
/// # Errors
/// If the interface does not exist or is down, or the kernel rejects a route. The routes added before stay.
pub fn add_service_routes(
    netns: &Netns,
    interface: &str,
    addresses: &[IpAddr],
    ranges: &[IpNet],
) -> Result<Vec<IpNet>, Error> {
    netns.within(|| add_routes(interface, addresses, ranges))?
}

/// Returns the addresses that are in none of the ranges, each as a range of its own: further destinations for
/// `add_service_routes`, such as the address of a DNS cache.
#[must_use]
pub fn ranges_of_others(addresses: &[IpAddr], ranges: &[IpNet]) -> Vec<IpNet> {
    let others = addresses.iter().filter(|address| !ranges.iter().any(|range| range.contains(*address)));
    others.copied().map(IpNet::from).collect()
}

/// Adds a route to each service range that has none in the network namespace of this thread, via the interface that has
/// one of these addresses. The first address of each family that an interface has is the source. Returns the ranges for
/// which a route was added.
///
/// # Errors
/// As `add_service_routes`, or if the interfaces cannot be listed.
pub fn add_node_routes(addresses: &[IpAddr], ranges: &[IpNet]) -> Result<Vec<IpNet>, Error> {
    let interfaces: Vec<InterfaceAddress> =
        getifaddrs().map_err(|error| Error::Open(error.into()))?.collect();
    let mut added = Vec::new();
    for family in Family::BOTH {
        let ranges: Vec<IpNet> =
            ranges.iter().copied().filter(|range| Family::of_net(range) == family).collect();
        let of_family = addresses.iter().filter(|address| Family::of(**address) == family);
        let source =
            of_family.copied().find_map(|address| Some((address, interface_with(&interfaces, address)?)));
        if let Some((address, interface)) = source.filter(|_| !ranges.is_empty()) {
            added.append(&mut add_routes(interface, &[address], &ranges)?);
        }
    }
    Ok(added)
}

/// The name of the interface with an address.
fn interface_with(interfaces: &[InterfaceAddress], address: IpAddr) -> Option<&str> {
    let has_address = |interface: &&InterfaceAddress| {
        let storage = interface.address.as_ref();
        let v4 = storage.and_then(|storage| storage.as_sockaddr_in()).map(|v4| IpAddr::V4(v4.ip()));
        let v6 = storage.and_then(|storage| storage.as_sockaddr_in6()).map(|v6| IpAddr::V6(v6.ip()));
        v4.or(v6) == Some(address)
    };
    interfaces.iter().find(has_address).map(|interface| interface.interface_name.as_str())
}

fn add_routes(interface: &str, addresses: &[IpAddr], ranges: &[IpNet]) -> Result<Vec<IpNet>, Error> {
    let index = if_nametoindex(interface)
        .map_err(|error| Error::NoInterface { name: interface.to_owned(), source: error.into() })?;
    let routes = Routes::open()?;
    let mut added = Vec::new();
    for range in ranges.iter().map(IpNet::trunc) {
        let Some(from) = source(addresses, Family::of_net(&range)) else { continue };
        if routes.has_route_to(range.network())? && routes.has_route_to(range.broadcast())? {
            continue;
        }
        let rejected = |source| Error::AddRoute { to: range, interface: interface.to_owned(), from, source };
        if routes.add(range, index, from).map_err(rejected)? {
            added.push(range);
        }
    }
    Ok(added)
}

/// Whether there is a route to an address.
///
/// # Errors
/// If the network namespace cannot be entered, or the kernel does not report the route.
pub fn has_route(netns: &Netns, to: IpAddr) -> Result<bool, Error> {
    netns.within(|| Routes::open()?.has_route_to(to))?
}

/// The source address of new connections.
fn source(addresses: &[IpAddr], family: Family) -> Option<IpAddr> {
    let is_link_local = |address: &IpAddr| match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    addresses.iter().copied().filter(|address| Family::of(*address) == family).min_by_key(is_link_local)
}

/// The routing tables of the network namespace in which this was opened.
struct Routes(Socket);

impl Routes {
    fn open() -> Result<Self, Error> {
        Socket::open_protocol(SockProtocol::NetlinkRoute).map(Self)
    }

    fn has_route_to(&self, to: IpAddr) -> Result<bool, Error> {
        let request = message(libc::RTM_GETROUTE, 0, &header(IpNet::from(to)), |buffer| {
            buffer.put(libc::RTA_DST, &octets(to));
        });
        let mut is_routed = false;
        let result = self.0.request(&request, |message| {
            let kind = message.body.get(rtmsg::TYPE).copied();
            is_routed |= kind.is_some_and(|kind| kind <= libc::RTN_MULTICAST && kind != libc::RTN_UNSPEC);
        });
        match result {
            Ok(()) => Ok(is_routed),
            Err(error) if is_no_route_error(&error) => Ok(false),
            Err(source) => Err(Error::LookUpRoute { to, source }),
        }
    }

    /// Adds a route. Returns false if it exists already.
    fn add(&self, to: IpNet, interface_index: u32, from: IpAddr) -> io::Result<bool> {
        let add = |from: Option<IpAddr>| {
            let mut header = header(to);
            header[rtmsg::TABLE] = libc::RT_TABLE_MAIN;
            header[rtmsg::PROTOCOL] = libc::RTPROT_STATIC;
            header[rtmsg::SCOPE] = libc::RT_SCOPE_LINK;
            header[rtmsg::TYPE] = libc::RTN_UNICAST;
            let request = message(libc::RTM_NEWROUTE, NLM_F_CREATE, &header, |buffer| {
                buffer.put(libc::RTA_DST, &octets(to.addr()));
                buffer.put(libc::RTA_OIF, &interface_index.to_ne_bytes());
                if let Some(from) = from {
                    buffer.put(libc::RTA_PREFSRC, &octets(from));
                }
            });
            match self.0.request(&request, |_| {}) {
                Ok(()) => Ok(true),
                Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
                Err(error) => Err(error),
            }
        };
        match add(Some(from)) {
            // An IPv6 address cannot be a source until duplicate address detection has finished. Without a source, the
            // kernel selects the interface's address once it can.
            Err(error) if from.is_ipv6() && error.kind() == ErrorKind::InvalidInput => add(None),
            other => other,
        }
    }
}

/// Whether the kernel reports that there is no route, or an unreachable, prohibit or blackhole route.
fn is_no_route_error(error: &io::Error) -> bool {
    use ErrorKind::{HostUnreachable, InvalidInput, NetworkUnreachable, PermissionDenied};
    matches!(error.kind(), NetworkUnreachable | HostUnreachable | PermissionDenied | InvalidInput)
}

/// The header for a destination.
fn header(to: IpNet) -> RouteHeader {
    let mut header = RouteHeader::default();
    header[rtmsg::FAMILY] = match Family::of_net(&to) {
        Family::V4 => libc::AF_INET as u8,
        Family::V6 => libc::AF_INET6 as u8,
    };
    header[rtmsg::DST_LEN] = to.prefix_len();
    header
}

fn message(kind: u16, flags: u16, header: &RouteHeader, fill: impl FnOnce(&mut MessageBuffer)) -> Vec<u8> {
    MessageBuffer::message(kind, NLM_F_REQUEST | NLM_F_ACK | flags, header, fill)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_outside_the_ranges_get_ranges_of_their_own() {
        let addresses = ["10.96.0.10", "169.254.20.10", "2001:db8:96::10", "fd00::10"]
            .map(|address| address.parse().expect("an address"));
        let ranges = ["10.96.0.0/16", "2001:db8:96::/112"].map(|range| range.parse().expect("a range"));
        let others: Vec<String> =
            ranges_of_others(&addresses, &ranges).iter().map(ToString::to_string).collect();
        assert_eq!(others, ["169.254.20.10/32", "fd00::10/128"]);
        assert_eq!(ranges_of_others(&addresses, &[]).len(), addresses.len());
    }
}
