//! Decodes the elements of sets and maps; `element` is the inverse.
//!
//! Every function is total: bytes that no ruleset contains decode to `None`, so that the table counts as drifted.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use proxy_core::address::Family;
use proxy_core::dispatch::DispatchKey;
use proxy_core::guest::{GuestInterfaces, INTERFACE_BYTES, InterfacePattern};
use proxy_core::portal::PortalKey;
use proxy_core::service::Protocol;

use crate::netlink::attributes::Attributes;
use crate::netlink::uapi::*;
use crate::nft::element::{family_number, next_address_after, protocol_number};
use crate::nft::names::chain;

/// An element as the kernel lists it.
#[derive(Debug, Clone, Default)]
pub(crate) struct RawElement {
    pub(crate) key: Vec<u8>,
    pub(crate) key_end: Vec<u8>,
    pub(crate) data: Vec<u8>,
    /// The target of a verdict.
    pub(crate) chain: String,
    /// Whether this is the first key after an interval.
    pub(crate) is_interval_end: bool,
    /// The packets of the element's counter.
    pub(crate) packets: Option<u64>,
}

/// Decodes the attributes of an element; missing ones are empty.
pub(crate) fn raw_element(bytes: &[u8]) -> RawElement {
    let attributes = Attributes(bytes);
    let value = |kind| attributes.nested(kind).find(NFTA_DATA_VALUE).unwrap_or_default().to_vec();
    let flags = attributes.u32(NFTA_SET_ELEM_FLAGS).unwrap_or(0);
    RawElement {
        key: value(NFTA_SET_ELEM_KEY),
        key_end: value(NFTA_SET_ELEM_KEY_END),
        data: value(NFTA_SET_ELEM_DATA),
        chain: attributes.nested(NFTA_SET_ELEM_DATA).nested(NFTA_DATA_VERDICT).string(NFTA_VERDICT_CHAIN),
        is_interval_end: flags & NFT_SET_ELEM_INTERVAL_END != 0,
        packets: attributes.nested(NFTA_SET_ELEM_EXPR).nested(NFTA_EXPR_DATA).u64(NFTA_COUNTER_PACKETS),
    }
}

/// An element of `portals`.
pub(crate) fn portal_entry(raw: &RawElement, family: Family) -> Option<(PortalKey, DispatchKey)> {
    Some((portal(&raw.key, family)?.0, dispatch_key(&raw.data)?))
}

/// An element of `backends`.
pub(crate) fn backend_entry(raw: &RawElement, family: Family) -> Option<((PortalKey, u32), SocketAddr)> {
    Some((numbered_portal(&raw.key, family)?, socket_address(&raw.data, family)?))
}

/// An element of `ids`.
pub(crate) fn id_entry(raw: &RawElement, family: Family) -> Option<((PortalKey, u16), u32)> {
    let (key, slot) = numbered_portal(&raw.key, family)?;
    Some(((key, u16::try_from(slot).ok()?), u32::from_ne_bytes(*raw.data.first_chunk()?)))
}

/// An element of `sources`.
pub(crate) fn source_entry(raw: &RawElement, family: Family) -> Option<(PortalKey, IpNet)> {
    let (key, first) = portal(&raw.key, family)?;
    let (_, last) = portal(&raw.key_end, family)?;
    Some((key, cidr(address(first, family)?.0, address(last, family)?.0)?))
}

/// A dispatch key.
pub(crate) fn dispatch_key(bytes: &[u8]) -> Option<DispatchKey> {
    DispatchKey::from_code(u32::from_be_bytes(*bytes.first_chunk()?))
}

/// Whether these are the elements of `current` in a table that is the current one.
pub(crate) fn is_current(elements: &[RawElement]) -> bool {
    let has_family = |family| {
        let key = [family_number(family)];
        elements.iter().any(|raw| raw.key == key && raw.chain == chain::REFUSE_CURRENT)
    };
    elements.len() == Family::BOTH.len() && Family::BOTH.into_iter().all(has_family)
}

/// An address, and the bytes after it.
pub(crate) fn address(bytes: &[u8], family: Family) -> Option<(IpAddr, &[u8])> {
    match family {
        Family::V4 => bytes.split_first_chunk::<4>().map(|(octets, rest)| (IpAddr::from(*octets), rest)),
        Family::V6 => bytes.split_first_chunk::<16>().map(|(octets, rest)| (IpAddr::from(*octets), rest)),
    }
}

/// Address, protocol and port, and the bytes after them.
pub(crate) fn portal(bytes: &[u8], family: Family) -> Option<(PortalKey, &[u8])> {
    let (address, rest) = address(bytes, family)?;
    let (registers, rest) = rest.split_first_chunk::<8>()?;
    let protocol = Protocol::ALL.into_iter().find(|protocol| protocol_number(*protocol) == registers[0])?;
    let port = u16::from_be_bytes([registers[4], registers[5]]);
    Some((PortalKey { address, protocol, port }, rest))
}

/// Address, protocol and port, and the number after them: a slot or a backend id.
fn numbered_portal(bytes: &[u8], family: Family) -> Option<(PortalKey, u32)> {
    let (key, number) = portal(bytes, family)?;
    Some((key, u32::from_ne_bytes(*number.first_chunk()?)))
}

/// The address and port of a backend.
pub(crate) fn socket_address(bytes: &[u8], family: Family) -> Option<SocketAddr> {
    let (address, port) = address(bytes, family)?;
    Some(SocketAddr::new(address, u16::from_be_bytes(*port.first_chunk()?)))
}

/// The CIDR with these first and last addresses.
fn cidr(first: IpAddr, last: IpAddr) -> Option<IpNet> {
    cidrs_from(first).find(|cidr| cidr.broadcast() == last)
}

/// All CIDRs that start with an address, the largest first.
fn cidrs_from(first: IpAddr) -> impl Iterator<Item = IpNet> {
    let length_max = if first.is_ipv4() { 32 } else { 128 };
    let cidrs = (0..=length_max).filter_map(move |length| IpNet::new(first, length).ok());
    cidrs.filter(move |cidr| cidr.network() == first)
}

/// The CIDRs of a set of intervals. Each interval is listed as its first address and the first address after it.
pub(crate) fn intervals(elements: &[RawElement], family: Family) -> Option<Vec<IpNet>> {
    let mut starts: Vec<IpAddr> = Vec::new();
    let mut ends: BTreeSet<IpAddr> = BTreeSet::new();
    for raw in elements {
        let (address, _) = address(&raw.key, family)?;
        if raw.is_interval_end {
            ends.insert(address);
        } else {
            starts.push(address);
        }
    }
    let cidr_from = |start: &IpAddr| {
        let end = ends.range(start..).copied().find(|end| end > start);
        cidrs_from(*start).find(|cidr| next_address_after(cidr) == end)
    };
    starts.iter().map(cidr_from).collect()
}

/// The guests of a pod, as intervals of interface names.
pub(crate) fn guests(elements: &[RawElement]) -> Option<GuestInterfaces> {
    let key = |raw: &RawElement| raw.key.first_chunk::<{ INTERFACE_BYTES as usize }>().copied();
    let ends: BTreeSet<_> =
        elements.iter().filter(|raw| raw.is_interval_end).map(key).collect::<Option<_>>()?;
    let starts = elements.iter().filter(|raw| !raw.is_interval_end).map(key);
    let guest = |start: Option<_>| {
        let start = start?;
        let end = ends.range(start..).find(|end| **end > start)?;
        InterfacePattern::between(start, *end)
    };
    starts.map(guest).collect()
}
