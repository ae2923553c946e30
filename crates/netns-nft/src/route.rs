//! Routes to the services.
//!
//! The kernel looks for a route before it translates an address: where none leads to a portal's address,
//! `connect()` fails with ENETUNREACH although a rule stands there. So a network namespace without a way to
//! a service range (macvlan, SR-IOV, secondary networks) gets one, over the interface that it was given; a
//! way that is there is left alone, wherever it leads.
//!
//! The two messages are written with our own `Bytes`: the crate `netlink-packet-route` (0.34) makes a small
//! static program 871 KB larger (1.18 MB without it, 2.05 MB with it), since its reader knows every kind of
//! route. What must not go in here: which ranges there are.

use std::io::{self, ErrorKind};
use std::net::IpAddr;

use ipnet::IpNet;
use nix::libc;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::SockProtocol;
use proxy_core::address::Family;

use crate::attribute::Bytes;
use crate::encode::octets;
use crate::error::Error;
use crate::expression::family_number;
use crate::kernel::flag;
use crate::netns::Netns;
use crate::socket::Socket;

/// Where the kind of the route stands in the answer.
const KIND_OFFSET: usize = 7;

/// Adds a route to each service range that no route leads to, over this interface and from its address (a
/// global one before a link-local one), and returns the ranges that got one. A range of a family in which
/// there is no address is left out.
///
/// # Errors
/// Where the interface is missing or down, or the kernel refuses a route; those added before it stay.
pub fn add_service_routes(
    netns: &Netns,
    interface: &str,
    addresses: &[IpAddr],
    ranges: &[IpNet],
) -> Result<Vec<IpNet>, Error> {
    netns.within(|| {
        let index = if_nametoindex(interface)
            .map_err(|why| Error::NoInterface { name: interface.to_owned(), source: why.into() })?;
        let routes = Routes::open()?;
        let mut added = Vec::new();
        for range in ranges.iter().map(IpNet::trunc) {
            let Some(from) = source(addresses, Family::of_net(&range)) else { continue };
            if routes.lead_to(range.network())? && routes.lead_to(range.broadcast())? {
                continue;
            }
            let refused =
                |source| Error::AddRoute { to: range, interface: interface.to_owned(), from, source };
            if routes.add(range, index, from).map_err(refused)? {
                added.push(range);
            }
        }
        Ok(added)
    })?
}

/// Whether a connection to this address finds a route.
///
/// # Errors
/// Where the network namespace cannot be entered or the kernel does not tell.
pub fn has_route(netns: &Netns, to: IpAddr) -> Result<bool, Error> {
    netns.within(|| Routes::open()?.lead_to(to))?
}

/// The address that connections come from.
fn source(addresses: &[IpAddr], family: Family) -> Option<IpAddr> {
    let is_local = |address: &IpAddr| match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    addresses.iter().copied().filter(|address| Family::of(*address) == family).min_by_key(is_local)
}

/// The routes of the network namespace in which this was opened.
struct Routes(Socket);

impl Routes {
    fn open() -> Result<Self, Error> {
        Socket::open_to(SockProtocol::NetlinkRoute).map(Self)
    }

    fn lead_to(&self, to: IpAddr) -> Result<bool, Error> {
        let request = message(libc::RTM_GETROUTE, 0, &header(IpNet::from(to)), |bytes| {
            bytes.put(libc::RTA_DST, &octets(to));
        });
        let mut leads = false;
        let asked = self.0.ask(&request, |answer| {
            let kind = answer.body.get(KIND_OFFSET).copied();
            leads |= kind.is_some_and(|kind| kind <= libc::RTN_MULTICAST && kind != libc::RTN_UNSPEC);
        });
        match asked {
            Ok(_) => Ok(leads),
            Err(why) if leads_nowhere(&why) => Ok(false),
            Err(source) => Err(Error::LookUpRoute { to, source }),
        }
    }

    /// Adds a route; false where it is there already.
    fn add(&self, to: IpNet, index: u32, from: IpAddr) -> io::Result<bool> {
        let add = |from: Option<IpAddr>| {
            let mut header = header(to);
            header[4] = libc::RT_TABLE_MAIN;
            header[5] = libc::RTPROT_STATIC;
            header[6] = libc::RT_SCOPE_LINK;
            header[KIND_OFFSET] = libc::RTN_UNICAST;
            let request = message(libc::RTM_NEWROUTE, flag::CREATE, &header, |bytes| {
                bytes.put(libc::RTA_DST, &octets(to.addr()));
                bytes.put(libc::RTA_OIF, &index.to_ne_bytes());
                if let Some(from) = from {
                    bytes.put(libc::RTA_PREFSRC, &octets(from));
                }
            });
            match self.0.ask(&request, |_| {}) {
                Ok(_) => Ok(true),
                Err(why) if why.kind() == ErrorKind::AlreadyExists => Ok(false),
                Err(why) => Err(why),
            }
        };
        match add(Some(from)) {
            // An IPv6 address that is still checked for duplicates cannot be a source yet; without one the
            // kernel takes the interface's as soon as it may.
            Err(why) if from.is_ipv6() && why.kind() == ErrorKind::InvalidInput => add(None),
            other => other,
        }
    }
}

/// What the kernel says where there is no route, or an unreachable, prohibited or black hole one.
fn leads_nowhere(why: &io::Error) -> bool {
    use ErrorKind::{HostUnreachable, InvalidInput, NetworkUnreachable, PermissionDenied};
    matches!(why.kind(), NetworkUnreachable | HostUnreachable | PermissionDenied | InvalidInput)
}

/// The kernel's `struct rtmsg` for this destination.
fn header(to: IpNet) -> [u8; 12] {
    let mut header = [0; 12];
    header[0] = family_number(Family::of_net(&to));
    header[1] = to.prefix_len();
    header
}

fn message(kind: u16, flags: u16, header: &[u8], fill: impl FnOnce(&mut Bytes)) -> Vec<u8> {
    Bytes::message(kind, flag::REQUEST | flag::ACK | flags, header, fill)
}
