//! The sets and maps of the table, as netlink messages.
//!
//! nft needs more than the kernel to list a set: the type of each part of a key, and the byte order. The kernel stores
//! both for it.

use proxy_core::address::Family;
use proxy_core::guest::INTERFACE_BYTES;
use proxy_core::ruleset::Settings;

use crate::netlink::attributes::MessageBuffer;
use crate::netlink::batch::BatchWriter;
use crate::netlink::uapi::*;
use crate::nft::names::{TABLE, per_family, set};

/// The expression that counts the lookups of an element.
const COUNTER: &str = "counter";
/// The bytes of a port, a protocol or a number in a key, each of which fills a register.
const REGISTER_BYTES: u32 = NFT_REG32_SIZE;
/// The bytes of protocol and port in the key of a portal.
const PROTOCOL_AND_PORT_BYTES: u32 = 2 * REGISTER_BYTES;

/// The number of a data type in nft (`enum datatypes` in its include/datatype.h). The kernel stores it for nft.
mod datatype {
    pub(super) const NFPROTO: u32 = 2;
    pub(super) const IPADDR: u32 = 7;
    pub(super) const IP6ADDR: u32 = 8;
    pub(super) const INET_PROTOCOL: u32 = 12;
    pub(super) const INET_SERVICE: u32 = 13;
    pub(super) const MARK: u32 = 19;
    pub(super) const IFNAME: u32 = 41;
    /// The width of one type in the number of a concatenation.
    const CONCAT_BITS: u32 = 6;

    /// The number of a concatenation of types.
    pub(super) fn concatenation(types: &[u32]) -> u32 {
        types.iter().fold(0, |number, datatype| number << CONCAT_BITS | datatype)
    }
}

/// User data of nft: type, length, value.
mod userdata {
    /// The byte order of the keys of a set (`NFTNL_UDATA_SET_KEYBYTEORDER`).
    pub(super) const SET_KEY_BYTE_ORDER: u8 = 0;
    /// The byte order of the data of a set (`NFTNL_UDATA_SET_DATABYTEORDER`).
    pub(super) const SET_DATA_BYTE_ORDER: u8 = 1;
    /// nft's `BYTEORDER_HOST_ENDIAN`.
    const HOST_ENDIAN: u32 = 1;

    /// The note that keys or data are in the byte order of the host.
    pub(super) fn host_byte_order(kind: u8) -> [u8; 6] {
        let [first, second, third, fourth] = HOST_ENDIAN.to_ne_bytes();
        [kind, 4, first, second, third, fourth]
    }
}

/// Adds all sets and maps, without elements.
pub(crate) fn add_sets(writer: &mut BatchWriter, settings: Settings) {
    let mut sets = SetWriter { writer, next_id: 1 };
    for family in Family::BOTH {
        sets.add_of_family(family, settings);
    }
    let verdict_map = |buffer: &mut MessageBuffer| buffer.put_u32(NFTA_SET_DATA_TYPE, NFT_DATA_VERDICT);
    sets.add(set::CURRENT, NFT_SET_MAP, datatype::NFPROTO, 1, verdict_map);
    sets.add(set::DISPATCH, NFT_SET_MAP, datatype::MARK, REGISTER_BYTES, verdict_map);
    // Each pod has its own guests, so the elements are not part of the ruleset: see `Batch::with_guests`.
    sets.add(set::GUESTS, NFT_SET_INTERVAL, datatype::IFNAME, u32::from(INTERFACE_BYTES), |buffer| {
        buffer.put(NFTA_SET_USERDATA, &userdata::host_byte_order(userdata::SET_KEY_BYTE_ORDER));
    });
}

/// Adds sets; each has an id within the transaction.
struct SetWriter<'a> {
    writer: &'a mut BatchWriter,
    next_id: u32,
}

impl SetWriter<'_> {
    fn add(
        &mut self,
        name: &str,
        flags: u32,
        key_type: u32,
        key_bytes: u32,
        fill: impl FnOnce(&mut MessageBuffer),
    ) {
        let id = self.next_id;
        self.next_id += 1;
        self.writer.message(NFT_MSG_NEWSET, NLM_F_CREATE, |buffer| {
            buffer.put_string(NFTA_SET_TABLE, TABLE);
            buffer.put_string(NFTA_SET_NAME, name);
            buffer.put_u32(NFTA_SET_FLAGS, flags);
            buffer.put_u32(NFTA_SET_KEY_TYPE, key_type);
            buffer.put_u32(NFTA_SET_KEY_LEN, key_bytes);
            buffer.put_u32(NFTA_SET_ID, id);
            fill(buffer);
        });
    }

    fn add_of_family(&mut self, family: Family, settings: Settings) {
        use datatype::{INET_PROTOCOL, INET_SERVICE, MARK, concatenation};
        let (address, address_bytes) = match family {
            Family::V4 => (datatype::IPADDR, 4),
            Family::V6 => (datatype::IP6ADDR, 16),
        };
        let portal_bytes = address_bytes + PROTOCOL_AND_PORT_BYTES;
        let numbered_bytes = portal_bytes + REGISTER_BYTES;
        let number = |buffer: &mut MessageBuffer| {
            buffer.put_u32(NFTA_SET_DATA_TYPE, MARK);
            buffer.put_u32(NFTA_SET_DATA_LEN, REGISTER_BYTES);
        };
        let portal = concatenation(&[address, INET_PROTOCOL, INET_SERVICE]);
        self.add(&per_family(set::PORTALS, family), NFT_SET_MAP, portal, portal_bytes, |buffer| {
            number(buffer);
            put_counter(buffer, settings.counts_portals());
        });
        let numbered = concatenation(&[address, INET_PROTOCOL, INET_SERVICE, MARK]);
        self.add(&per_family(set::BACKENDS, family), NFT_SET_MAP, numbered, numbered_bytes, |buffer| {
            buffer.put_u32(NFTA_SET_DATA_TYPE, concatenation(&[address, INET_SERVICE]));
            buffer.put_u32(NFTA_SET_DATA_LEN, address_bytes + REGISTER_BYTES);
            put_counter(buffer, settings.counters);
        });
        self.add(&per_family(set::IDS, family), NFT_SET_MAP, numbered, numbered_bytes, |buffer| {
            number(buffer);
            buffer.put(NFTA_SET_USERDATA, &userdata::host_byte_order(userdata::SET_DATA_BYTE_ORDER));
        });
        let client = concatenation(&[INET_PROTOCOL, INET_SERVICE, address]);
        let with_timeout = NFT_SET_MAP | NFT_SET_TIMEOUT | NFT_SET_EVAL;
        // Without a declared size: the kernel has a limit, and would allocate a declared size at once (4 MB, 12 ms).
        self.add(&per_family(set::CLIENTS, family), with_timeout, client, portal_bytes, number);
        self.add(&per_family(set::ADDRESSES, family), 0, address, address_bytes, |_| {});
        let source = concatenation(&[address, INET_PROTOCOL, INET_SERVICE, address]);
        let ranges = NFT_SET_INTERVAL | NFT_SET_CONCAT;
        let source_bytes = portal_bytes + address_bytes;
        self.add(&per_family(set::SOURCES, family), ranges, source, source_bytes, |buffer| {
            // The lengths of address, protocol, port and address.
            put_field_lengths(buffer, [address_bytes, 1, 2, address_bytes]);
        });
        self.add(&per_family(set::RANGES, family), NFT_SET_INTERVAL, address, address_bytes, |_| {});
    }
}

/// Describes the fields of a concatenation of intervals.
fn put_field_lengths(buffer: &mut MessageBuffer, lengths: [u32; 4]) {
    buffer.nest(NFTA_SET_DESC, |buffer| {
        buffer.nest(NFTA_SET_DESC_CONCAT, |buffer| {
            for length in lengths {
                buffer.nest(NFTA_LIST_ELEM, |buffer| buffer.put_u32(NFTA_SET_FIELD_LEN, length));
            }
        });
    });
}

/// Makes each lookup that finds an element count in the element; only the first packet of a connection looks up.
fn put_counter(buffer: &mut MessageBuffer, is_enabled: bool) {
    if is_enabled {
        buffer.nest(NFTA_SET_EXPR, |buffer| {
            buffer.put_string(NFTA_EXPR_NAME, COUNTER);
            buffer.nest(NFTA_EXPR_DATA, |_| {});
        });
    }
}
