//! Elements of sets, from the kernel's bytes to what they mean. Pure: whatever the bytes are, there is an answer.
//!
//! What no ruleset writes is none, so that an audit sees it. What must not go in here: asking the kernel.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use proxy_core::address::Family;
use proxy_core::dispatch::DispatchKey;
use proxy_core::guest::{GuestInterfaces, INTERFACE_BYTES, InterfacePattern};
use proxy_core::portal::PortalKey;
use proxy_core::service::Protocol;

use crate::attribute::Attributes;
use crate::encode::{behind, protocol_number};
use crate::expression::family_number;
use crate::kernel::{counter, element, rule};
use crate::layout::REFUSE_CURRENT;
use crate::shape::text;

/// An element as the kernel gives it.
#[derive(Debug, Clone, Default)]
pub(super) struct Raw {
    pub(super) key: Vec<u8>,
    pub(super) key_end: Vec<u8>,
    pub(super) data: Vec<u8>,
    /// Where a verdict leads.
    pub(super) chain: String,
    pub(super) is_end: bool,
    /// How often it was found.
    pub(super) hits: Option<u64>,
}

pub(super) fn raw_element(bytes: &[u8]) -> Raw {
    let attributes = Attributes(bytes);
    let value = |kind| attributes.within(kind).find(element::VALUE).unwrap_or_default().to_vec();
    Raw {
        key: value(element::KEY),
        key_end: value(element::KEY_END),
        data: value(element::DATA),
        chain: text(attributes.within(element::DATA).within(element::VERDICT), element::VERDICT_CHAIN),
        is_end: attributes.u32(element::FLAGS).is_some_and(|flags| flags & element::INTERVAL_END != 0),
        hits: attributes.within(element::EXPRESSION).within(rule::EXPRESSION_DATA).u64(counter::PACKETS),
    }
}

pub(super) fn pick(bytes: &[u8]) -> Option<DispatchKey> {
    DispatchKey::from_code(u32::from_be_bytes(*bytes.first_chunk()?))
}

/// Whether these are the elements that tell that a table is the current one.
pub(super) fn is_current(elements: &[Raw]) -> bool {
    let is_one = |family| {
        let key = [family_number(family)];
        elements.iter().any(|raw| raw.key == key && raw.chain == REFUSE_CURRENT)
    };
    elements.len() == Family::BOTH.len() && Family::BOTH.into_iter().all(is_one)
}

/// An address, and what is behind it.
pub(crate) fn address(bytes: &[u8], family: Family) -> Option<(IpAddr, &[u8])> {
    match family {
        Family::V4 => bytes.split_first_chunk::<4>().map(|(octets, rest)| (IpAddr::from(*octets), rest)),
        Family::V6 => bytes.split_first_chunk::<16>().map(|(octets, rest)| (IpAddr::from(*octets), rest)),
    }
}

/// Address, protocol and port, and what is behind them.
pub(super) fn portal(bytes: &[u8], family: Family) -> Option<(PortalKey, &[u8])> {
    let (address, rest) = address(bytes, family)?;
    let (words, rest) = rest.split_first_chunk::<8>()?;
    let protocol = Protocol::ALL.into_iter().find(|protocol| protocol_number(*protocol) == words[0])?;
    let port = u16::from_be_bytes([words[4], words[5]]);
    Some((PortalKey { address, protocol, port }, rest))
}

/// Address, protocol and port, and the number behind them.
pub(super) fn numbered(bytes: &[u8], family: Family) -> Option<(PortalKey, u32)> {
    let (key, number) = portal(bytes, family)?;
    Some((key, u32::from_ne_bytes(*number.first_chunk()?)))
}

/// The address and port of a backend.
pub(super) fn backend(bytes: &[u8], family: Family) -> Option<SocketAddr> {
    let (address, port) = address(bytes, family)?;
    Some(SocketAddr::new(address, u16::from_be_bytes(*port.first_chunk()?)))
}

/// The network that goes from one address to another.
pub(super) fn net(from: IpAddr, to: IpAddr) -> Option<IpNet> {
    let longest = if from.is_ipv4() { 32 } else { 128 };
    let mut nets = (0..=longest).filter_map(|length| IpNet::new(from, length).ok());
    nets.find(|net| net.network() == from && net.broadcast() == to)
}

/// The networks of an interval set: where one begins and where the next address behind it stands.
pub(super) fn intervals(elements: &[Raw], family: Family) -> Option<Vec<IpNet>> {
    let mut starts: Vec<IpAddr> = Vec::new();
    let mut ends: BTreeSet<IpAddr> = BTreeSet::new();
    for raw in elements {
        let (address, _) = address(&raw.key, family)?;
        if raw.is_end {
            ends.insert(address);
        } else {
            starts.push(address);
        }
    }
    let longest = match family {
        Family::V4 => 32,
        Family::V6 => 128,
    };
    let net_from = |start: &IpAddr| {
        let end = ends.range(start..).copied().find(|end| end > start);
        let mut nets = (0..=longest).filter_map(|length| IpNet::new(*start, length).ok());
        nets.find(|net| net.network() == *start && behind(net) == end)
    };
    starts.iter().map(net_from).collect()
}

/// The guests: where each interval begins, and where the next end stands.
pub(super) fn guests(elements: &[Raw]) -> Option<GuestInterfaces> {
    let key = |raw: &Raw| raw.key.first_chunk::<{ INTERFACE_BYTES as usize }>().copied();
    let ends: BTreeSet<_> = elements.iter().filter(|raw| raw.is_end).map(key).collect::<Option<_>>()?;
    let starts = elements.iter().filter(|raw| !raw.is_end).map(key);
    let guest = |start: Option<_>| {
        let start = start?;
        let end = ends.range(start..).find(|end| **end > start)?;
        InterfacePattern::between(start, *end)
    };
    starts.map(guest).collect()
}
