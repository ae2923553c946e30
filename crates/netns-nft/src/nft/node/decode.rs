//! Decodes the elements of the node's sets and maps; `element` is the inverse.
//!
//! Every function is total: bytes that no ruleset contains decode to `None`, so that the table counts as drifted.

use std::net::IpAddr;

use proxy_core::address::Family;
use proxy_core::portal::{PortalKey, node_port_address};
use proxy_core::ruleset::node::{FrontendAction, FrontendValue, NodeChain, NodeElement, TargetNumber, code};

use crate::nft::element::octets;
use crate::nft::node::element::CONSTANT_CODES;
use crate::nft::node::names::chain;
use crate::nft::node::schema::constant_chain;
use crate::nft::read::decode::{RawElement, address, portal, socket_address, source_entry};

/// An element of `picks`; the constant ones are `None` inside.
pub(crate) fn pick(raw: &RawElement) -> Option<Option<NodeElement>> {
    let code = code_of(raw).filter(|code| code & code::FLAGS == 0)?;
    is_chain_of(raw, code).then_some(number_of_backends(code).map(NodeElement::Pick))
}

/// An element of `codes`; the constant ones are `None` inside.
pub(crate) fn code(raw: &RawElement) -> Option<Option<NodeElement>> {
    let code = code_of(raw)?;
    let is_known = if code & code::FLAGS == 0 { is_chain_of(raw, code) } else { raw.chain == chain::FLAGGED };
    is_known.then_some(number_of_backends(code).map(|_| NodeElement::Code(code)))
}

fn code_of(raw: &RawElement) -> Option<u16> {
    let code = u16::try_from(u32::from_ne_bytes(raw.key.as_slice().try_into().ok()?)).ok()?;
    (code <= code::MASK).then_some(code)
}

/// The number of backends in a code; `None` if it is a constant.
fn number_of_backends(code: u16) -> Option<u16> {
    let count = code & !code::FLAGS;
    (!CONSTANT_CODES.contains(&count)).then_some(count)
}

/// Whether an element leads to the chain of a code without flags.
fn is_chain_of(raw: &RawElement, code: u16) -> bool {
    match number_of_backends(code) {
        None => raw.chain == constant_chain(code),
        Some(count) => NodeChain::parse(&raw.chain) == Some(NodeChain::Pick(count)),
    }
}

/// An element of `own`.
pub(crate) fn own(raw: &RawElement) -> Option<NodeElement> {
    match NodeChain::parse(&raw.chain)? {
        NodeChain::Own(own) if raw.key == own.number.key().to_ne_bytes() => Some(NodeElement::Own(own)),
        _ => None,
    }
}

/// An element of a map of frontends by address and port.
pub(crate) fn frontend(raw: &RawElement, family: Family) -> Option<(PortalKey, u32)> {
    let (key, rest) = portal(&raw.key, family)?;
    (rest.is_empty() && !key.is_node_port()).then_some((key, value(raw)?))
}

/// An element of a map of node ports.
pub(crate) fn node_port(raw: &RawElement, family: Family) -> Option<(PortalKey, u32)> {
    let mut key = octets(node_port_address(family));
    key.extend_from_slice(&raw.key);
    let (key, rest) = portal(&key, family)?;
    rest.is_empty().then_some((key, value(raw)?))
}

fn value(raw: &RawElement) -> Option<u32> {
    raw.data.as_slice().try_into().ok().map(u32::from_ne_bytes)
}

/// A frontend with its value, as an element of `services` or `nodeports`.
pub(crate) fn with_value((key, value): (PortalKey, u32)) -> Option<NodeElement> {
    FrontendValue::from_value(value).map(|value| NodeElement::Frontend(key, value))
}

/// A frontend with its value, as an element of `short` or `shortports`.
pub(crate) fn with_action((key, value): (PortalKey, u32)) -> Option<NodeElement> {
    FrontendAction::from_value(value).map(|action| NodeElement::Short(key, action))
}

/// An element of `backends`.
pub(crate) fn backend(raw: &RawElement, family: Family) -> Option<NodeElement> {
    let (number, slot) = numbered(raw)?;
    Some(NodeElement::Backend(number, slot, socket_address(&raw.data, family)?))
}

/// An element of `ids`.
pub(crate) fn id(raw: &RawElement, family: Family) -> Option<NodeElement> {
    let (number, slot) = numbered(raw)?;
    Some(NodeElement::Id(family, number, u16::try_from(slot).ok()?, value(raw)?))
}

fn numbered(raw: &RawElement) -> Option<(TargetNumber, u32)> {
    let (number, slot) = raw.key.split_first_chunk::<4>()?;
    let slot = u32::from_ne_bytes(slot.try_into().ok()?);
    Some((TargetNumber::from_key(u32::from_ne_bytes(*number))?, slot))
}

/// An element of a set of addresses.
pub(crate) fn plain_address(raw: &RawElement, family: Family) -> Option<IpAddr> {
    let (address, rest) = address(&raw.key, family)?;
    rest.is_empty().then_some(address)
}

/// An element of `hairpin`.
pub(crate) fn hairpin(raw: &RawElement, family: Family) -> Option<NodeElement> {
    let (source, rest) = address(&raw.key, family)?;
    let (destination, rest) = address(rest, family)?;
    (rest.is_empty() && source == destination).then_some(NodeElement::Hairpin(source))
}

/// An element of `sources`.
pub(crate) fn source(raw: &RawElement, family: Family) -> Option<NodeElement> {
    source_entry(raw, family).map(|(key, cidr)| NodeElement::Source(key, cidr))
}
