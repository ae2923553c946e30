//! UDP flows that lead where their portal no longer leads.
//!
//! The kernel translates the first datagram of a flow and remembers the answer for as long as the socket goes
//! on talking, so a client that never closes its socket (DNS, syslog, QUIC) stays with a backend that is gone
//! for ever. Where the flow is forgotten, its next datagram is a first one again, and the same socket reaches
//! a backend that is there. TCP needs none of this: a dead backend ends the connection by itself. The rule is
//! that of kube-proxy's conntrack reconciler.
//!
//! The table of all flows is one for the whole node, and to list those of a network namespace is to walk all
//! of it: 4 ms with 262,144 buckets, however few there are. So their count is asked first (3 us, and the end
//! where there are none). Each one forgotten takes 3 us more. No change of rules should wait for this.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use proxy_core::address::Family;
use proxy_core::portal::PortalKey;
use proxy_core::service::Protocol;

use crate::attribute::{Attributes, Bytes};
use crate::encode::protocol_number;
use crate::error::Error;
use crate::expression::family_number;
use crate::kernel::{conntrack, flag};
use crate::read::address;
use crate::socket::{Answer, Socket};

type Portals = BTreeMap<PortalKey, Arc<[SocketAddr]>>;

/// Both families.
const UNSPECIFIED: u8 = 0;
const UDP: u8 = protocol_number(Protocol::Udp);
/// One walk keeps so many stale flows: a pod may have made as many as the node has room for.
const FLOWS_MAX: usize = 16_384;
/// After so many walks a pod that makes flows as fast as they are forgotten is left alone until it is asked again.
const WALKS_MAX: usize = 32;
/// The length of netfilter's own header.
const OWN_HEADER_BYTES: usize = 4;

impl Socket {
    /// Forgets the UDP flows to these portals that lead to none of the backends given with them, translated
    /// or not, and says how many they were. A portal that is gone has no backends; portals of other protocols
    /// do not count. Call it when the new rules stand: a forgotten flow follows the rules of its next
    /// datagram. A portal that is relayed has the relay's own address as its backend.
    ///
    /// # Errors
    /// Where the kernel does not tell the flows, or does not forget one. To try again is always safe: a flow
    /// that is gone already is as good as forgotten.
    pub fn delete_stale_udp(&self, portals: &Portals) -> Result<usize, Error> {
        let is_asked = portals.keys().any(|key| key.protocol == Protocol::Udp);
        if !is_asked || self.flow_count()? == 0 {
            return Ok(0);
        }
        let mut forgotten = 0;
        for _ in 0..WALKS_MAX {
            let stale = self.stale(portals)?;
            let is_last = stale.len() < FLOWS_MAX;
            for Stale { portal, request } in stale {
                match self.ask(&request, |_| {}) {
                    Ok(_) => forgotten += 1,
                    Err(why) if why.kind() == ErrorKind::NotFound => {}
                    Err(source) => return Err(Error::Forget { portal, source }),
                }
            }
            if is_last {
                break;
            }
        }
        Ok(forgotten)
    }

    /// Where a UDP client wanted to go whose datagrams come to this address of ours after a redirect; none: it came
    /// by itself. The kernel gives flows that would look alike to us different ports, so the answer is
    /// unique for as long as the kernel remembers the flow.
    ///
    /// # Errors
    /// Where the kernel does not answer.
    pub fn original_destination(
        &self,
        client: SocketAddr,
        ours: SocketAddr,
    ) -> Result<Option<SocketAddr>, Error> {
        let family = Family::of(client.ip());
        let (destination, source) = addresses_of(family);
        let request = message(conntrack::GET, flag::ACK, family_number(family), |bytes| {
            bytes.nest(conntrack::REPLY, |bytes| {
                bytes.nest(conntrack::TUPLE_ADDRESSES, |bytes| {
                    put_address(bytes, source, ours.ip());
                    put_address(bytes, destination, client.ip());
                });
                bytes.nest(conntrack::TUPLE_PROTOCOL, |bytes| {
                    bytes.put(conntrack::PROTOCOL_NUMBER, &[UDP]);
                    bytes.put(conntrack::SOURCE_PORT, &ours.port().to_be_bytes());
                    bytes.put(conntrack::DESTINATION_PORT, &client.port().to_be_bytes());
                });
            });
        });
        let mut found = None;
        let asked = self.ask(&request, |answer| {
            let original = attributes(answer).within(conntrack::ORIGINAL);
            found = end(original, family, destination, conntrack::DESTINATION_PORT);
        });
        match asked {
            Ok(()) => Ok(found.filter(|wanted| *wanted != ours)),
            Err(why) if why.kind() == ErrorKind::NotFound => Ok(None),
            Err(source) => Err(unread(source)),
        }
    }

    /// How many flows the kernel remembers in this network namespace.
    fn flow_count(&self) -> Result<u32, Error> {
        let mut count = None;
        let request = message(conntrack::GET_STATS, flag::ACK, UNSPECIFIED, |_| {});
        let asked = self.ask(&request, |answer| count = attributes(answer).u32(conntrack::STATS_ENTRIES));
        asked.map_err(unread)?;
        count.ok_or_else(|| unread(ErrorKind::InvalidData.into()))
    }

    /// Lists all flows and keeps the stale ones, as many as one walk may keep. A list that is cut short is an error; what the kernel passes
    /// over because it makes its table larger meanwhile, it does not tell.
    ///
    /// One list for both families, and not only of UDP: the walk is what costs, and the kernel's filter wants
    /// a walk for each family. It would save 5 of 9 ms where a pod has 10,000 TCP connections, and half a
    /// millisecond where it has 1,000.
    fn stale(&self, portals: &Portals) -> Result<Vec<Stale>, Error> {
        let mut stale = Vec::new();
        let request = message(conntrack::GET, flag::DUMP, UNSPECIFIED, |_| {});
        let asked = self.ask(&request, |answer| {
            if stale.len() < FLOWS_MAX {
                stale.extend(Stale::find(answer, portals));
            }
        });
        asked.map(|_| stale).map_err(unread)
    }
}

/// A UDP flow that leads where its portal does not.
struct Stale {
    portal: SocketAddr,
    /// What makes the kernel forget it.
    request: Vec<u8>,
}

impl Stale {
    fn find(answer: &Answer<'_>, portals: &Portals) -> Option<Self> {
        let number = *answer.body.first()?;
        let family = Family::BOTH.into_iter().find(|family| family_number(*family) == number)?;
        let attributes = attributes(answer);
        let (destination, source) = addresses_of(family);
        let original = attributes.within(conntrack::ORIGINAL);
        let protocol = original.within(conntrack::TUPLE_PROTOCOL).find(conntrack::PROTOCOL_NUMBER)?;
        let portal = end(original, family, destination, conntrack::DESTINATION_PORT)?;
        let backend = end(attributes.within(conntrack::REPLY), family, source, conntrack::SOURCE_PORT)?;
        let key = PortalKey { address: portal.ip(), protocol: Protocol::Udp, port: portal.port() };
        if *protocol != [UDP] || portals.get(&key)?.contains(&backend) {
            return None;
        }
        // With its number, so that a new flow between the same ends is left alone.
        let request = message(conntrack::DELETE, flag::ACK, number, |bytes| {
            for kind in [conntrack::ORIGINAL, conntrack::ZONE, conntrack::ID] {
                attributes.find(kind).into_iter().for_each(|value| bytes.put(kind, value));
            }
        });
        Some(Self { portal, request })
    }
}

/// The attributes of a flow's addresses: destination and source.
fn addresses_of(family: Family) -> (u16, u16) {
    match family {
        Family::V4 => (conntrack::V4_DESTINATION, conntrack::V4_SOURCE),
        Family::V6 => (conntrack::V6_DESTINATION, conntrack::V6_SOURCE),
    }
}

fn put_address(bytes: &mut Bytes, kind: u16, address: IpAddr) {
    match address {
        IpAddr::V4(address) => bytes.put(kind, &address.octets()),
        IpAddr::V6(address) => bytes.put(kind, &address.octets()),
    }
}

/// One end of a flow's direction.
fn end(tuple: Attributes<'_>, family: Family, at: u16, port: u16) -> Option<SocketAddr> {
    let (address, _) = address(tuple.within(conntrack::TUPLE_ADDRESSES).find(at)?, family)?;
    let port = tuple.within(conntrack::TUPLE_PROTOCOL).find(port)?.try_into().ok()?;
    Some(SocketAddr::new(address, u16::from_be_bytes(port)))
}

fn attributes<'a>(answer: &Answer<'a>) -> Attributes<'a> {
    Attributes(answer.body.get(OWN_HEADER_BYTES..).unwrap_or_default())
}

fn message(kind: u16, flags: u16, family: u8, fill: impl FnOnce(&mut Bytes)) -> Vec<u8> {
    let kind = conntrack::SUBSYSTEM << 8 | kind;
    Bytes::message(kind, flag::REQUEST | flags, &[family, 0, 0, 0], fill)
}

fn unread(source: io::Error) -> Error {
    Error::Read { what: "the flows".to_owned(), source }
}
