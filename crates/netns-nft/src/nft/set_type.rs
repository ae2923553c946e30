//! `SetType`: the flags and the key of a set, and the attributes of sets and maps that nft needs to list them.
//!
//! nft needs more than the kernel to list a set: the type of each part of a key, and the byte order. The kernel stores
//! both for it.

use std::time::Duration;

use proxy_core::address::Family;

use crate::netlink::attributes::MessageBuffer;
use crate::netlink::uapi::*;

/// The expression that counts the lookups of an element.
const COUNTER: &str = "counter";
/// The bytes of a port, a protocol or a number in a key, each of which fills a register.
pub(crate) const REGISTER_BYTES: u32 = NFT_REG32_SIZE;

/// The number of a data type in nft (`enum datatypes` in its include/datatype.h). The kernel stores it for nft.
pub(crate) mod datatype {
    pub(crate) const NFPROTO: u32 = 2;
    pub(crate) const IPADDR: u32 = 7;
    pub(crate) const IP6ADDR: u32 = 8;
    pub(crate) const INET_PROTOCOL: u32 = 12;
    pub(crate) const INET_SERVICE: u32 = 13;
    pub(crate) const MARK: u32 = 19;
    pub(crate) const IFNAME: u32 = 41;
    /// The width of one type in the number of a concatenation.
    const CONCAT_BITS: u32 = 6;

    /// The number of a concatenation of types.
    pub(crate) fn concatenation(types: &[u32]) -> u32 {
        types.iter().fold(0, |number, datatype| number << CONCAT_BITS | datatype)
    }
}

/// The type and the bytes of an address.
pub(crate) const fn address_type(family: Family) -> (u32, u32) {
    match family {
        Family::V4 => (datatype::IPADDR, 4),
        Family::V6 => (datatype::IP6ADDR, 16),
    }
}

/// The values whose byte order is that of the host (user data of nft).
#[derive(Debug, Clone, Copy)]
pub(crate) enum HostEndian {
    /// The keys of a set (`NFTNL_UDATA_SET_KEYBYTEORDER`).
    Keys = 0,
    /// The data of a map (`NFTNL_UDATA_SET_DATABYTEORDER`).
    Data = 1,
}

/// A set or map: its flags, and the type and length of its keys.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SetType {
    pub(crate) flags: u32,
    pub(crate) key_type: u32,
    pub(crate) key_bytes: u32,
}

/// Makes a map one of verdicts.
pub(crate) fn put_verdict_type(buffer: &mut MessageBuffer) {
    buffer.put_u32(NFTA_SET_DATA_TYPE, NFT_DATA_VERDICT);
}

/// Sets the type and the length of a map's data.
pub(crate) fn put_data_type(buffer: &mut MessageBuffer, data_type: u32, data_bytes: u32) {
    buffer.put_u32(NFTA_SET_DATA_TYPE, data_type);
    buffer.put_u32(NFTA_SET_DATA_LEN, data_bytes);
}

/// Records for nft that keys or data are in the byte order of the host.
pub(crate) fn put_host_byte_order(buffer: &mut MessageBuffer, values: HostEndian) {
    /// nft's `BYTEORDER_HOST_ENDIAN`.
    const HOST_ENDIAN: u32 = 1;
    let [first, second, third, fourth] = HOST_ENDIAN.to_ne_bytes();
    buffer.put(NFTA_SET_USERDATA, &[values as u8, 4, first, second, third, fourth]);
}

/// Sets the timeout of elements, and the interval at which the kernel frees expired elements.
pub(crate) fn put_timeout(buffer: &mut MessageBuffer, timeout: Duration, gc_interval: Duration) {
    let milliseconds = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    buffer.put_u64(NFTA_SET_TIMEOUT, milliseconds(timeout));
    buffer.put_u32(NFTA_SET_GC_INTERVAL, u32::try_from(gc_interval.as_millis()).unwrap_or(u32::MAX));
}

/// Describes the fields of a concatenation of intervals.
pub(crate) fn put_field_lengths(buffer: &mut MessageBuffer, lengths: &[u32]) {
    buffer.nest(NFTA_SET_DESC, |buffer| {
        buffer.nest(NFTA_SET_DESC_CONCAT, |buffer| {
            for length in lengths {
                buffer.nest(NFTA_LIST_ELEM, |buffer| buffer.put_u32(NFTA_SET_FIELD_LEN, *length));
            }
        });
    });
}

/// Makes each lookup that finds an element count in the element; only the first packet of a connection looks up.
pub(crate) fn put_counter(buffer: &mut MessageBuffer, is_enabled: bool) {
    if is_enabled {
        buffer.nest(NFTA_SET_EXPR, |buffer| {
            buffer.put_string(NFTA_EXPR_NAME, COUNTER);
            buffer.nest(NFTA_EXPR_DATA, |_| {});
        });
    }
}
