//! Encodes the elements of sets and maps; `read::decode` is the inverse.
//!
//! The parts of a concatenated key fill whole registers of 32 bits. Addresses and ports are in network byte order,
//! slots and backend ids in that of the host.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use nix::libc;
use proxy_core::address::Family;
use proxy_core::dispatch::DispatchKey;
use proxy_core::portal::PortalKey;
use proxy_core::ruleset::Element;
use proxy_core::service::Protocol;

use crate::netlink::attributes::MessageBuffer;
use crate::netlink::uapi::*;
use crate::nft::value_bytes::ValueBytes;

/// An upper bound of the encoded size of an element.
pub(crate) const ELEMENT_BYTES_MAX: usize = 160;

/// The kernel's number of a family.
pub(crate) const fn family_number(family: Family) -> u8 {
    match family {
        Family::V4 => NFPROTO_IPV4,
        Family::V6 => NFPROTO_IPV6,
    }
}

/// The number of a protocol in the IP header.
pub(crate) const fn protocol_number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => libc::IPPROTO_TCP as u8,
        Protocol::Udp => libc::IPPROTO_UDP as u8,
        Protocol::Sctp => libc::IPPROTO_SCTP as u8,
    }
}

/// The bytes of an address in network byte order.
pub(crate) fn octets(address: IpAddr) -> ValueBytes {
    match address {
        IpAddr::V4(v4) => ValueBytes::new(&v4.octets()),
        IpAddr::V6(v6) => ValueBytes::new(&v6.octets()),
    }
}

/// The first address after a CIDR; none if the CIDR ends with the last address of the family.
pub(crate) fn next_address_after(cidr: &IpNet) -> Option<IpAddr> {
    match cidr.broadcast() {
        IpAddr::V4(v4) => u32::from(v4).checked_add(1).map(|next| IpAddr::V4(next.into())),
        IpAddr::V6(v6) => u128::from(v6).checked_add(1).map(|next| IpAddr::V6(next.into())),
    }
}

/// Writes an element of the desired state.
pub(crate) fn put_element(buffer: &mut MessageBuffer, element: &Element) {
    match element {
        Element::Portal(key, dispatch) => put_mapping(buffer, &portal_key(key, &[]), &dispatch_key(dispatch)),
        Element::Backend(key, number, backend) => {
            put_mapping(buffer, &portal_key(key, &number.to_ne_bytes()), &socket_address(backend));
        }
        Element::Id(key, slot, id) => {
            put_mapping(buffer, &portal_key(key, &u32::from(*slot).to_ne_bytes()), &id.to_ne_bytes());
        }
        Element::Address(address) => put_key(buffer, &octets(*address)),
        Element::Source(key, cidr) => put_key_range(
            buffer,
            &portal_key(key, &octets(cidr.network())),
            &portal_key(key, &octets(cidr.broadcast())),
        ),
        Element::Range(cidr) => {
            let end = next_address_after(cidr).map(octets);
            put_interval(buffer, &octets(cidr.network()), end.as_deref());
        }
    }
}

/// Writes an element of a set.
pub(crate) fn put_key(buffer: &mut MessageBuffer, key: &[u8]) {
    buffer.nest(NFTA_LIST_ELEM, |buffer| put_value(buffer, NFTA_SET_ELEM_KEY, key));
}

/// Writes a range of a concatenated key as one element, with its first and its last key.
pub(crate) fn put_key_range(buffer: &mut MessageBuffer, first: &[u8], last: &[u8]) {
    buffer.nest(NFTA_LIST_ELEM, |buffer| {
        put_value(buffer, NFTA_SET_ELEM_KEY, first);
        put_value(buffer, NFTA_SET_ELEM_KEY_END, last);
    });
}

/// Writes an interval as two elements: the first key, and the first key after the interval. Without `end` it includes
/// the last key of all.
pub(crate) fn put_interval(buffer: &mut MessageBuffer, first: &[u8], end: Option<&[u8]>) {
    put_key(buffer, first);
    if let Some(end) = end {
        buffer.nest(NFTA_LIST_ELEM, |buffer| {
            put_value(buffer, NFTA_SET_ELEM_KEY, end);
            buffer.put_u32(NFTA_SET_ELEM_FLAGS, NFT_SET_ELEM_INTERVAL_END);
        });
    }
}

/// Writes an element of a map of verdicts.
pub(crate) fn put_verdict_element(buffer: &mut MessageBuffer, key: &[u8], code: i32, chain: &str) {
    buffer.nest(NFTA_LIST_ELEM, |buffer| {
        put_value(buffer, NFTA_SET_ELEM_KEY, key);
        buffer.nest(NFTA_SET_ELEM_DATA, |buffer| put_verdict(buffer, code, Some(chain)));
    });
}

/// Writes a verdict as data.
pub(crate) fn put_verdict(buffer: &mut MessageBuffer, code: i32, chain: Option<&str>) {
    buffer.nest(NFTA_DATA_VERDICT, |buffer| {
        buffer.put(NFTA_VERDICT_CODE, &code.to_be_bytes());
        if let Some(chain) = chain {
            buffer.put_string(NFTA_VERDICT_CHAIN, chain);
        }
    });
}

/// Writes a value as data, in an attribute of this type.
pub(crate) fn put_value(buffer: &mut MessageBuffer, kind: u16, value: &[u8]) {
    buffer.nest(kind, |buffer| buffer.put(NFTA_DATA_VALUE, value));
}

pub(crate) fn put_mapping(buffer: &mut MessageBuffer, key: &[u8], data: &[u8]) {
    buffer.nest(NFTA_LIST_ELEM, |buffer| {
        put_value(buffer, NFTA_SET_ELEM_KEY, key);
        put_value(buffer, NFTA_SET_ELEM_DATA, data);
    });
}

/// A dispatch key, as data of `portals` and as key of `picks`. To the kernel it is four bytes; nft shows them in this
/// order.
pub(crate) fn dispatch_key(dispatch: &DispatchKey) -> [u8; 4] {
    dispatch.code().to_be_bytes()
}

/// Address, protocol and port, followed by `rest`.
pub(crate) fn portal_key(key: &PortalKey, rest: &[u8]) -> ValueBytes {
    let mut bytes = octets(key.address);
    bytes.extend_from_slice(&[protocol_number(key.protocol), 0, 0, 0]);
    bytes.extend_from_slice(&key.port.to_be_bytes());
    bytes.extend_from_slice(&[0, 0]);
    bytes.extend_from_slice(rest);
    bytes
}

pub(crate) fn socket_address(backend: &SocketAddr) -> ValueBytes {
    let mut bytes = octets(backend.ip());
    bytes.extend_from_slice(&backend.port().to_be_bytes());
    bytes.extend_from_slice(&[0, 0]);
    bytes
}
