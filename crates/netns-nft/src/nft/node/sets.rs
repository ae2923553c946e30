//! The sets and maps of the node's table, as netlink messages.

use proxy_core::address::Family;
use proxy_core::guest::INTERFACE_BYTES;
use proxy_core::ruleset::node::TargetNumber;

use crate::netlink::attributes::MessageBuffer;
use crate::netlink::uapi::*;
use crate::nft::names::per_family;
use crate::nft::node::names::{clients, set};
use crate::nft::set_type::{
    HostEndian, REGISTER_BYTES, SetType, address_type, datatype, put_data_type, put_field_lengths,
    put_host_byte_order, put_verdict_type,
};
use crate::nft::table_writer::TableWriter;

use datatype::{INET_PROTOCOL, INET_SERVICE, MARK, concatenation};

/// The bytes of protocol and port in a key.
const PORT_BYTES: u32 = 2 * REGISTER_BYTES;

/// Adds all sets and maps that do not depend on targets, without elements.
pub(crate) fn add_sets(table: &mut TableWriter<'_>) {
    for family in Family::BOTH {
        add_maps(table, family);
        add_plain_sets(table, family);
    }
    let current = SetType { flags: NFT_SET_MAP, key_type: datatype::NFPROTO, key_bytes: 1 };
    table.add_set(crate::nft::names::set::CURRENT, current, put_verdict_type);
    let numbers = SetType { flags: NFT_SET_MAP, key_type: MARK, key_bytes: REGISTER_BYTES };
    for name in [set::PICKS, set::CODES, set::OWN] {
        table.add_set(name, numbers, |buffer| {
            put_verdict_type(buffer);
            put_host_byte_order(buffer, HostEndian::Keys);
        });
    }
    let interfaces = SetType {
        flags: NFT_SET_INTERVAL,
        key_type: datatype::IFNAME,
        key_bytes: u32::from(INTERFACE_BYTES),
    };
    table.add_set(set::POD_INTERFACES, interfaces, |buffer| put_host_byte_order(buffer, HostEndian::Keys));
}

fn add_maps(table: &mut TableWriter<'_>, family: Family) {
    let (address, address_bytes) = address_type(family);
    let number = |buffer: &mut MessageBuffer| {
        put_data_type(buffer, MARK, REGISTER_BYTES);
        put_host_byte_order(buffer, HostEndian::Data);
    };
    let frontend = SetType {
        flags: NFT_SET_MAP,
        key_type: concatenation(&[address, INET_PROTOCOL, INET_SERVICE]),
        key_bytes: address_bytes + PORT_BYTES,
    };
    let node_port = SetType {
        key_type: concatenation(&[INET_PROTOCOL, INET_SERVICE]),
        key_bytes: PORT_BYTES,
        ..frontend
    };
    for (name, set) in [
        (set::SERVICES, frontend),
        (set::SHORT, frontend),
        (set::NODE_PORTS, node_port),
        (set::SHORT_PORTS, node_port),
    ] {
        table.add_set(&per_family(name, family), set, number);
    }
    let numbered =
        SetType { flags: NFT_SET_MAP, key_type: concatenation(&[MARK, MARK]), key_bytes: 2 * REGISTER_BYTES };
    table.add_set(&per_family(set::BACKENDS, family), numbered, |buffer| {
        put_data_type(buffer, concatenation(&[address, INET_SERVICE]), address_bytes + REGISTER_BYTES);
    });
    table.add_set(&per_family(set::IDS, family), numbered, number);
    let sources = SetType {
        flags: NFT_SET_INTERVAL | NFT_SET_CONCAT,
        key_type: concatenation(&[address, INET_PROTOCOL, INET_SERVICE, address]),
        key_bytes: 2 * address_bytes + PORT_BYTES,
    };
    table.add_set(&per_family(set::SOURCES, family), sources, |buffer| {
        // The lengths of address, protocol, port and address.
        put_field_lengths(buffer, &[address_bytes, 1, 2, address_bytes]);
    });
}

fn add_plain_sets(table: &mut TableWriter<'_>, family: Family) {
    let (address, address_bytes) = address_type(family);
    let addresses = SetType { flags: 0, key_type: address, key_bytes: address_bytes };
    for name in [set::ADDRESSES, set::NODE_ADDRESSES, set::LOCAL_ENDPOINTS] {
        table.add_set(&per_family(name, family), addresses, |_| {});
    }
    let ranges = SetType { flags: NFT_SET_INTERVAL, ..addresses };
    for name in [set::RANGES, set::PODS] {
        table.add_set(&per_family(name, family), ranges, |_| {});
    }
    let hairpin =
        SetType { flags: 0, key_type: concatenation(&[address, address]), key_bytes: 2 * address_bytes };
    table.add_set(&per_family(set::HAIRPIN, family), hairpin, |_| {});
}

/// Adds the map of a target's clients. Without a declared size, the kernel allows 65,535 entries.
pub(crate) fn add_clients(table: &mut TableWriter<'_>, family: Family, number: TargetNumber) {
    let (address, address_bytes) = address_type(family);
    let clients_of = SetType {
        flags: NFT_SET_MAP | NFT_SET_TIMEOUT | NFT_SET_EVAL,
        key_type: address,
        key_bytes: address_bytes,
    };
    table.add_set(&clients(family, number), clients_of, |buffer| {
        put_data_type(buffer, MARK, REGISTER_BYTES);
        put_host_byte_order(buffer, HostEndian::Data);
    });
}
