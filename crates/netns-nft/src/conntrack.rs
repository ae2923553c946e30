//! Deletes the conntrack entries of UDP flows whose backend no longer belongs to their portal.
//!
//! The kernel translates the first datagram of a flow and keeps the result as long as the socket sends, so a client
//! that never closes its socket (DNS, syslog, QUIC) would stay with a removed backend forever. Once the entry is
//! deleted, the next datagram is a first one again, and the same socket reaches a current backend. TCP does not need
//! this: a removed backend ends the connection. kube-proxy's conntrack reconciler has the same rule.
//!
//! The kernel has one conntrack table for the whole node, and listing the entries of one network namespace walks all of
//! it: 4 ms with 262,144 buckets, however few entries there are. So their number is requested first (3 us; usually it
//! is 0). Each deletion takes 3 us more. A change of rules must not wait for this.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::Arc;

use proxy_core::address::Family;
use proxy_core::portal::PortalKey;
use proxy_core::service::Protocol;

use crate::error::Error;
use crate::netlink::attributes::{Attributes, MessageBuffer, nfgenmsg};
use crate::netlink::socket::{Message, Socket};
use crate::netlink::uapi::*;
use crate::nft::element::{family_number, octets, protocol_number};
use crate::nft::read::decode::address;

/// The current backends of portals.
type Backends = BTreeMap<PortalKey, Arc<[SocketAddr]>>;

const TCP: u8 = protocol_number(Protocol::Tcp);
const UDP: u8 = protocol_number(Protocol::Udp);
/// The maximum of stale flows that are kept in memory; a pod can create as many flows as the node has room for.
const FLOWS_MAX: usize = 16_384;
/// The maximum of dumps in one call, for a pod that creates flows as fast as they are deleted.
const DUMPS_MAX: usize = 32;

impl Socket {
    /// Deletes the UDP flows to these portals that go to none of the given backends, translated or not. Returns their
    /// number. A removed portal has no backends; a relayed portal has the relay's address as its backend; portals of
    /// other protocols are ignored. Call it after the new rules were applied: the next datagram of a deleted flow
    /// follows them.
    ///
    /// # Errors
    /// If the kernel does not list the flows, or does not delete one. A retry is always safe: a flow that no longer
    /// exists counts as deleted.
    pub fn delete_stale_udp(&self, backends: &Backends) -> Result<usize, Error> {
        let has_udp = backends.keys().any(|portal| portal.protocol == Protocol::Udp);
        if !has_udp || self.flow_count()? == 0 {
            return Ok(0);
        }
        let mut deleted = 0;
        for _ in 0..DUMPS_MAX {
            let flows = self.stale_flows(backends)?;
            let is_last = flows.len() < FLOWS_MAX;
            for StaleFlow { portal, delete_request } in flows {
                match self.request(&delete_request, |_| {}) {
                    Ok(()) => deleted += 1,
                    Err(error) if error.kind() == ErrorKind::NotFound => {}
                    Err(source) => return Err(Error::DeleteFlow { portal, source }),
                }
            }
            if is_last {
                break;
            }
        }
        Ok(deleted)
    }

    /// The original destination of a UDP client whose datagrams arrive at a local address after a redirect; none if
    /// they were not redirected. The kernel assigns different ports to flows that would look the same after
    /// translation, so the result is unique as long as the flow exists.
    ///
    /// # Errors
    /// If the kernel does not report the flow.
    pub fn original_destination(
        &self,
        client: SocketAddr,
        local: SocketAddr,
    ) -> Result<Option<SocketAddr>, Error> {
        let family = Family::of(client.ip());
        let attributes_of = AddressAttributes::of(family);
        let tuple = Tuple { kind: CTA_TUPLE_REPLY, protocol: UDP, source: local, destination: client };
        let destination = self.endpoint_of(&tuple, |flow| {
            endpoint(flow.nested(CTA_TUPLE_ORIG), family, attributes_of.destination, CTA_PROTO_DST_PORT)
        })?;
        Ok(destination.filter(|destination| *destination != local))
    }

    /// The destination of a TCP connection of this network namespace after translation: equal to `portal` if it was not
    /// translated, none if the kernel does not track the connection.
    ///
    /// # Errors
    /// If the kernel does not report the connection.
    pub fn translated_destination(
        &self,
        client: SocketAddr,
        portal: SocketAddr,
    ) -> Result<Option<SocketAddr>, Error> {
        let family = Family::of(client.ip());
        let attributes_of = AddressAttributes::of(family);
        let tuple = Tuple { kind: CTA_TUPLE_ORIG, protocol: TCP, source: client, destination: portal };
        self.endpoint_of(&tuple, |flow| {
            endpoint(flow.nested(CTA_TUPLE_REPLY), family, attributes_of.source, CTA_PROTO_SRC_PORT)
        })
    }

    /// Reads one endpoint of the flow with a tuple; none if the kernel does not track the flow.
    fn endpoint_of(
        &self,
        tuple: &Tuple,
        read: impl Fn(Attributes<'_>) -> Option<SocketAddr>,
    ) -> Result<Option<SocketAddr>, Error> {
        let mut found = None;
        let result =
            self.request(&tuple.request(), |message| found = read(Attributes::of_netfilter(message.body)));
        match result {
            Ok(()) => Ok(found),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(source) => Err(failed_to_read(source)),
        }
    }

    /// The number of flows in this network namespace.
    fn flow_count(&self) -> Result<u32, Error> {
        let mut count = None;
        let request = message(IPCTNL_MSG_CT_GET_STATS, NLM_F_ACK, NFPROTO_UNSPEC, |_| {});
        let result = self.request(&request, |message| {
            count = Attributes::of_netfilter(message.body).u32(CTA_STATS_GLOBAL_ENTRIES);
        });
        result.map_err(failed_to_read)?;
        count.ok_or_else(|| failed_to_read(ErrorKind::InvalidData.into()))
    }

    /// Lists all flows, and returns up to `FLOWS_MAX` stale ones. A truncated dump is an error. The kernel silently
    /// skips entries if it grows its table during the dump.
    ///
    /// One dump covers both families and all protocols: the walk is what costs, and the kernel's filter needs a walk
    /// for each family. The filter would save 5 of 9 ms for a pod with 10,000 TCP connections, and 0.5 ms for one with
    /// 1,000.
    fn stale_flows(&self, backends: &Backends) -> Result<Vec<StaleFlow>, Error> {
        let mut flows = Vec::new();
        let request = message(IPCTNL_MSG_CT_GET, NLM_F_DUMP, NFPROTO_UNSPEC, |_| {});
        let result = self.request(&request, |message| {
            if flows.len() < FLOWS_MAX {
                flows.extend(StaleFlow::parse(message, backends));
            }
        });
        result.map(|()| flows).map_err(failed_to_read)
    }
}

/// A UDP flow to a backend that no longer belongs to its portal.
struct StaleFlow {
    portal: SocketAddr,
    delete_request: Vec<u8>,
}

impl StaleFlow {
    /// Parses a flow; none if it is not stale.
    fn parse(message: &Message<'_>, backends: &Backends) -> Option<Self> {
        let number = *message.body.first()?;
        let family = Family::BOTH.into_iter().find(|family| family_number(*family) == number)?;
        let attributes = Attributes::of_netfilter(message.body);
        let attributes_of = AddressAttributes::of(family);
        let (original, reply) = (attributes.nested(CTA_TUPLE_ORIG), attributes.nested(CTA_TUPLE_REPLY));
        let protocol = original.nested(CTA_TUPLE_PROTO).find(CTA_PROTO_NUM)?;
        let portal = endpoint(original, family, attributes_of.destination, CTA_PROTO_DST_PORT)?;
        let backend = endpoint(reply, family, attributes_of.source, CTA_PROTO_SRC_PORT)?;
        let key = PortalKey { address: portal.ip(), protocol: Protocol::Udp, port: portal.port() };
        if *protocol != [UDP] || backends.get(&key)?.contains(&backend) {
            return None;
        }
        // With the flow's id, so that a new flow between the same endpoints is not deleted.
        let delete_request = self::message(IPCTNL_MSG_CT_DELETE, NLM_F_ACK, number, |buffer| {
            for kind in [CTA_TUPLE_ORIG, CTA_ZONE, CTA_ID] {
                attributes.find(kind).into_iter().for_each(|value| buffer.put(kind, value));
            }
        });
        Some(Self { portal, delete_request })
    }
}

/// The attributes of a flow's addresses.
#[derive(Debug, Clone, Copy)]
struct AddressAttributes {
    source: u16,
    destination: u16,
}

impl AddressAttributes {
    fn of(family: Family) -> Self {
        match family {
            Family::V4 => Self { source: CTA_IP_V4_SRC, destination: CTA_IP_V4_DST },
            Family::V6 => Self { source: CTA_IP_V6_SRC, destination: CTA_IP_V6_DST },
        }
    }
}

/// One direction of a flow, by which the kernel finds it.
struct Tuple {
    /// `CTA_TUPLE_ORIG` or `CTA_TUPLE_REPLY`.
    kind: u16,
    protocol: u8,
    source: SocketAddr,
    destination: SocketAddr,
}

impl Tuple {
    /// Encodes a request for the flow.
    fn request(&self) -> Vec<u8> {
        let Self { kind, protocol, source, destination } = self;
        let family = Family::of(source.ip());
        let attributes_of = AddressAttributes::of(family);
        message(IPCTNL_MSG_CT_GET, NLM_F_ACK, family_number(family), |buffer| {
            buffer.nest(*kind, |buffer| {
                buffer.nest(CTA_TUPLE_IP, |buffer| {
                    buffer.put(attributes_of.source, &octets(source.ip()));
                    buffer.put(attributes_of.destination, &octets(destination.ip()));
                });
                buffer.nest(CTA_TUPLE_PROTO, |buffer| {
                    buffer.put(CTA_PROTO_NUM, &[*protocol]);
                    buffer.put(CTA_PROTO_SRC_PORT, &source.port().to_be_bytes());
                    buffer.put(CTA_PROTO_DST_PORT, &destination.port().to_be_bytes());
                });
            });
        })
    }
}

/// The source or the destination in one direction of a flow.
fn endpoint(tuple: Attributes<'_>, family: Family, address_kind: u16, port_kind: u16) -> Option<SocketAddr> {
    let (address, _) = address(tuple.nested(CTA_TUPLE_IP).find(address_kind)?, family)?;
    let port = tuple.nested(CTA_TUPLE_PROTO).find(port_kind)?.try_into().ok()?;
    Some(SocketAddr::new(address, u16::from_be_bytes(port)))
}

fn message(kind: u16, flags: u16, family: u8, fill: impl FnOnce(&mut MessageBuffer)) -> Vec<u8> {
    let kind = NFNL_SUBSYS_CTNETLINK << 8 | kind;
    MessageBuffer::message(kind, NLM_F_REQUEST | flags, &nfgenmsg(family, 0), fill)
}

fn failed_to_read(source: io::Error) -> Error {
    Error::Read { what: "conntrack entries".to_owned(), source }
}
