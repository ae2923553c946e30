//! Decodes the elements of the node's sets and maps; `element` is the inverse.
//!
//! Every function is total: bytes that no ruleset contains decode to `None`, so that the table counts as drifted.

use std::net::IpAddr;

use proxy_core::address::Family;
use proxy_core::portal::{PortalKey, node_port_address};
use proxy_core::ruleset::node::{FrontendAction, NodeChain, NodeElement, TargetNumber};

use crate::nft::element::octets;
use crate::nft::node::element::{CONSTANT_CODES, code_key};
use crate::nft::node::schema::constant_chain;
use crate::nft::read::decode::{RawElement, address, portal, socket_address, source_entry};

/// An element of `picks`; the constant ones are `None` inside.
pub(crate) fn pick(raw: &RawElement) -> Option<Option<NodeElement>> {
    let constant = CONSTANT_CODES.into_iter().find(|code| raw.key == code_key(*code));
    if let Some(code) = constant {
        return (raw.chain == constant_chain(code)).then_some(None);
    }
    match NodeChain::parse(&raw.chain)? {
        NodeChain::Pick(count) if raw.key == code_key(count) => Some(Some(NodeElement::Pick(count))),
        _ => None,
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
pub(crate) fn frontend(raw: &RawElement, family: Family) -> Option<(PortalKey, FrontendAction)> {
    let (key, rest) = portal(&raw.key, family)?;
    (rest.is_empty() && !key.is_node_port()).then_some((key, action(raw)?))
}

/// An element of a map of node ports.
pub(crate) fn node_port(raw: &RawElement, family: Family) -> Option<(PortalKey, FrontendAction)> {
    let mut key = octets(node_port_address(family));
    key.extend_from_slice(&raw.key);
    let (key, rest) = portal(&key, family)?;
    rest.is_empty().then_some((key, action(raw)?))
}

fn action(raw: &RawElement) -> Option<FrontendAction> {
    FrontendAction::from_value(u32::from_ne_bytes(raw.data.as_slice().try_into().ok()?))
}

/// An element of `backends`.
pub(crate) fn backend(raw: &RawElement, family: Family) -> Option<NodeElement> {
    let (number, slot) = numbered(raw)?;
    Some(NodeElement::Backend(number, slot, socket_address(&raw.data, family)?))
}

/// An element of `ids`.
pub(crate) fn id(raw: &RawElement, family: Family) -> Option<NodeElement> {
    let (number, slot) = numbered(raw)?;
    let id = u32::from_ne_bytes(raw.data.as_slice().try_into().ok()?);
    Some(NodeElement::Id(family, number, u16::try_from(slot).ok()?, id))
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

/// An element of `guarded`.
pub(crate) fn guarded(raw: &RawElement, family: Family) -> Option<NodeElement> {
    let (key, rest) = portal(&raw.key, family)?;
    rest.is_empty().then_some(NodeElement::Guarded(key))
}

/// An element of `sources`.
pub(crate) fn source(raw: &RawElement, family: Family) -> Option<NodeElement> {
    source_entry(raw, family).map(|(key, cidr)| NodeElement::Source(key, cidr))
}
