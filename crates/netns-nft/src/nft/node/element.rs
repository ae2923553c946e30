//! Encodes the elements of the node's sets and maps; `decode` is the inverse.
//!
//! Numbers are in the byte order of the host, because the kernel computes with them.

use proxy_core::portal::PortalKey;
use proxy_core::ruleset::node::{NodeChain, NodeElement, TargetNumber, code};

use crate::netlink::attributes::MessageBuffer;
use crate::netlink::uapi::*;
use crate::nft::element::{
    next_address_after, octets, portal_key, protocol_number, put_interval, put_key, put_key_range,
    put_mapping, put_verdict_element, socket_address,
};
use crate::nft::node::names::chain;
use crate::nft::value_bytes::ValueBytes;

/// Writes an element.
pub(crate) fn put_node_element(buffer: &mut MessageBuffer, element: &NodeElement) {
    match element {
        NodeElement::Code(code) if code & code::FLAGS != 0 => {
            put_verdict_element(buffer, &code_key(*code), NFT_GOTO, chain::FLAGGED);
        }
        NodeElement::Pick(code) | NodeElement::Code(code) => {
            let chain = NodeChain::Pick(*code).to_string();
            put_verdict_element(buffer, &code_key(*code), NFT_GOTO, &chain);
        }
        NodeElement::Own(own) => {
            let chain = NodeChain::Own(*own).to_string();
            put_verdict_element(buffer, &own.number.key().to_ne_bytes(), NFT_GOTO, &chain);
        }
        NodeElement::Frontend(key, value) => {
            put_mapping(buffer, &frontend_key(key), &value.value().to_ne_bytes());
        }
        NodeElement::Short(key, action) => {
            put_mapping(buffer, &frontend_key(key), &action.value().to_ne_bytes());
        }
        NodeElement::Backend(number, slot, backend) => {
            put_mapping(buffer, &numbered_key(*number, *slot), &socket_address(backend));
        }
        NodeElement::Id(_, number, slot, id) => {
            put_mapping(buffer, &numbered_key(*number, u32::from(*slot)), &id.to_ne_bytes());
        }
        NodeElement::Address(address)
        | NodeElement::NodeAddress(address)
        | NodeElement::LocalEndpoint(address) => put_key(buffer, &octets(*address)),
        NodeElement::Hairpin(address) => put_key(buffer, &octets(*address).repeat(2)),
        NodeElement::Source(key, cidr) => put_key_range(
            buffer,
            &portal_key(key, &octets(cidr.network())),
            &portal_key(key, &octets(cidr.broadcast())),
        ),
        NodeElement::Range(cidr) | NodeElement::PodRange(cidr) => {
            let end = next_address_after(cidr).map(octets);
            put_interval(buffer, &octets(cidr.network()), end.as_deref());
        }
        NodeElement::PodInterface(pattern) => put_interval(buffer, &pattern.first(), Some(&pattern.end())),
    }
}

/// The codes of actions without a chain per number of backends.
pub(crate) const CONSTANT_CODES: [u16; 3] = [code::REJECT, code::OWN_CHAIN, code::DROP];

/// A code as a key of `picks`.
pub(crate) fn code_key(code: u16) -> [u8; 4] {
    u32::from(code).to_ne_bytes()
}

/// A frontend as a key; the address of a node port is not a part of it.
fn frontend_key(key: &PortalKey) -> ValueBytes {
    if !key.is_node_port() {
        return portal_key(key, &[]);
    }
    let [first, second] = key.port.to_be_bytes();
    ValueBytes::new(&[protocol_number(key.protocol), 0, 0, 0, first, second, 0, 0])
}

fn numbered_key(number: TargetNumber, slot: u32) -> [u8; 8] {
    let [a, b, c, d] = number.key().to_ne_bytes();
    let [e, f, g, h] = slot.to_ne_bytes();
    [a, b, c, d, e, f, g, h]
}
