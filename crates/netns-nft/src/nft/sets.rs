//! The sets and maps of a pod's table, as netlink messages.
//!
//! Those of addresses exist once per IP family. The types of keys and data are a part of the layout, because the kernel
//! stores them for nft.

use proxy_core::address::Family;
use proxy_core::guest::INTERFACE_BYTES;
use proxy_core::ruleset::Settings;

use crate::netlink::attributes::MessageBuffer;
use crate::netlink::uapi::*;
use crate::nft::names::{per_family, set};
use crate::nft::set_type::{
    HostEndian, REGISTER_BYTES, SetType, address_type, datatype, put_counter, put_data_type,
    put_field_lengths, put_host_byte_order, put_verdict_type,
};
use crate::nft::table_writer::TableWriter;

/// The bytes of protocol and port in the key of a portal.
const PROTOCOL_AND_PORT_BYTES: u32 = 2 * REGISTER_BYTES;

/// Adds all sets and maps, without elements.
pub(crate) fn add_sets(table: &mut TableWriter<'_>, settings: Settings) {
    for family in Family::BOTH {
        add_of_family(table, family, settings);
    }
    let current = SetType { flags: NFT_SET_MAP, key_type: datatype::NFPROTO, key_bytes: 1 };
    table.add_set(set::CURRENT, current, put_verdict_type);
    let dispatch = SetType { flags: NFT_SET_MAP, key_type: datatype::MARK, key_bytes: REGISTER_BYTES };
    table.add_set(set::DISPATCH, dispatch, put_verdict_type);
    // Each pod has its own guests, so the elements are not part of the ruleset: see `Batch::with_guests`.
    let guests = SetType {
        flags: NFT_SET_INTERVAL,
        key_type: datatype::IFNAME,
        key_bytes: u32::from(INTERFACE_BYTES),
    };
    table.add_set(set::GUESTS, guests, |buffer| put_host_byte_order(buffer, HostEndian::Keys));
}

fn add_of_family(table: &mut TableWriter<'_>, family: Family, settings: Settings) {
    use datatype::{INET_PROTOCOL, INET_SERVICE, MARK, concatenation};
    let (address, address_bytes) = address_type(family);
    let portal_bytes = address_bytes + PROTOCOL_AND_PORT_BYTES;
    let number = |buffer: &mut MessageBuffer| put_data_type(buffer, MARK, REGISTER_BYTES);
    let portal = SetType {
        flags: NFT_SET_MAP,
        key_type: concatenation(&[address, INET_PROTOCOL, INET_SERVICE]),
        key_bytes: portal_bytes,
    };
    table.add_set(&per_family(set::PORTALS, family), portal, |buffer| {
        number(buffer);
        put_counter(buffer, settings.counts_portals());
    });
    let numbered = SetType {
        flags: NFT_SET_MAP,
        key_type: concatenation(&[address, INET_PROTOCOL, INET_SERVICE, MARK]),
        key_bytes: portal_bytes + REGISTER_BYTES,
    };
    table.add_set(&per_family(set::BACKENDS, family), numbered, |buffer| {
        put_data_type(buffer, concatenation(&[address, INET_SERVICE]), address_bytes + REGISTER_BYTES);
        put_counter(buffer, settings.counters);
    });
    table.add_set(&per_family(set::IDS, family), numbered, |buffer| {
        number(buffer);
        put_host_byte_order(buffer, HostEndian::Data);
    });
    // Without a declared size: the kernel has a limit, and would allocate a declared size at once (4 MB, 12 ms).
    let clients = SetType {
        flags: NFT_SET_MAP | NFT_SET_TIMEOUT | NFT_SET_EVAL,
        key_type: concatenation(&[INET_PROTOCOL, INET_SERVICE, address]),
        key_bytes: portal_bytes,
    };
    table.add_set(&per_family(set::CLIENTS, family), clients, number);
    let addresses = SetType { flags: 0, key_type: address, key_bytes: address_bytes };
    table.add_set(&per_family(set::ADDRESSES, family), addresses, |_| {});
    let sources = SetType {
        flags: NFT_SET_INTERVAL | NFT_SET_CONCAT,
        key_type: concatenation(&[address, INET_PROTOCOL, INET_SERVICE, address]),
        key_bytes: portal_bytes + address_bytes,
    };
    table.add_set(&per_family(set::SOURCES, family), sources, |buffer| {
        // The lengths of address, protocol, port and address.
        put_field_lengths(buffer, &[address_bytes, 1, 2, address_bytes]);
    });
    let ranges = SetType { flags: NFT_SET_INTERVAL, ..addresses };
    table.add_set(&per_family(set::RANGES, family), ranges, |_| {});
}
