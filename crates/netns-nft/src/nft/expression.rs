//! `RuleBuilder`: writes the expressions of one rule as the kernel expects them.
//!
//! An expression reads and writes registers of 32 bits. A value that was looked up stays in a register, which the text
//! form of nft cannot express: it passes such values through the packet mark. Which rules exist is in `schema`.

use std::net::{Ipv4Addr, Ipv6Addr};

use proxy_core::address::Family;

pub(crate) mod conntrack;
mod nat;
mod rewrite;

use crate::netlink::attributes::MessageBuffer;
use crate::netlink::uapi::*;
use crate::nft::element::{family_number, put_value, put_verdict};

/// The first register of a key; a concatenation fills this one and those after it.
pub(crate) const KEY_REGISTER: u32 = NFT_REG32_00;

/// The index of the loopback device, in every network namespace.
const LOOPBACK_INDEX: u32 = 1;
/// A port, and the offsets of the ports in the transport header.
const PORT_BYTES: u32 = 2;
const SOURCE_PORT_OFFSET: u32 = 0;
const DESTINATION_PORT_OFFSET: u32 = 2;
/// The flags in the header of TCP, and those by which the first segment of a connection differs from all others.
const TCP_FLAGS_BYTES: u32 = 1;
const TCP_FLAGS_OFFSET: u32 = 13;
const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// A header field of a packet, as a part of a key.
#[derive(Debug, Clone, Copy)]
pub(crate) enum HeaderField {
    DestinationAddress,
    SourceAddress,
    /// The transport protocol.
    Protocol,
    DestinationPort,
    SourcePort,
}

/// The place of a field in a packet: the header, and the offset and length in it.
#[derive(Debug, Clone, Copy)]
struct FieldPlace {
    base: u32,
    offset: u32,
    length: u32,
}

impl HeaderField {
    /// The place of the field in a packet of this family; none for the protocol, which can be in an extension header.
    fn place(self, family: Family) -> Option<FieldPlace> {
        use NFT_PAYLOAD_NETWORK_HEADER as NETWORK;
        use NFT_PAYLOAD_TRANSPORT_HEADER as TRANSPORT;
        let (base, offset, length) = match (self, family) {
            (Self::Protocol, _) => return None,
            (Self::SourcePort, _) => (TRANSPORT, SOURCE_PORT_OFFSET, PORT_BYTES),
            (Self::DestinationPort, _) => (TRANSPORT, DESTINATION_PORT_OFFSET, PORT_BYTES),
            (Self::SourceAddress, Family::V4) => (NETWORK, 12, 4),
            (Self::DestinationAddress, Family::V4) => (NETWORK, 16, 4),
            (Self::SourceAddress, Family::V6) => (NETWORK, 8, 16),
            (Self::DestinationAddress, Family::V6) => (NETWORK, 24, 16),
        };
        Some(FieldPlace { base, offset, length })
    }
}

/// How a number from 0 to `count - 1` is generated.
#[derive(Debug, Clone, Copy)]
pub(crate) enum NumberGenerator {
    /// With a uniform distribution.
    Random(u16),
    /// Incremented by each packet that passes the rule.
    Incremental(u16),
}

/// Writes the expressions of a rule.
pub(crate) struct RuleBuilder<'a>(pub(crate) &'a mut MessageBuffer);

impl RuleBuilder<'_> {
    fn expression(&mut self, name: &str, fill: impl FnOnce(&mut MessageBuffer)) {
        self.0.nest(NFTA_LIST_ELEM, |buffer| {
            buffer.put_string(NFTA_EXPR_NAME, name);
            buffer.nest(NFTA_EXPR_DATA, fill);
        });
    }

    fn load_meta(&mut self, key: u32, register: u32) {
        self.expression("meta", |buffer| {
            buffer.put_u32(NFTA_META_DREG, register);
            buffer.put_u32(NFTA_META_KEY, key);
        });
    }

    fn compare(&mut self, operator: u32, value: &[u8]) {
        self.expression("cmp", |buffer| {
            buffer.put_u32(NFTA_CMP_SREG, KEY_REGISTER);
            buffer.put_u32(NFTA_CMP_OP, operator);
            put_value(buffer, NFTA_CMP_DATA, value);
        });
    }

    fn load_payload(&mut self, register: u32, base: u32, offset: u32, length: u32) {
        self.expression("payload", |buffer| {
            buffer.put_u32(NFTA_PAYLOAD_DREG, register);
            buffer.put_u32(NFTA_PAYLOAD_BASE, base);
            buffer.put_u32(NFTA_PAYLOAD_OFFSET, offset);
            buffer.put_u32(NFTA_PAYLOAD_LEN, length);
        });
    }

    /// Continues with packets of this family only (`meta nfproto`).
    pub(crate) fn match_family(&mut self, family: Family) -> &mut Self {
        self.load_meta(NFT_META_NFPROTO, KEY_REGISTER);
        self.compare(NFT_CMP_EQ, &[family_number(family)]);
        self
    }

    /// Loads the number of the packet's family.
    pub(crate) fn load_family(&mut self) -> &mut Self {
        self.load_meta(NFT_META_NFPROTO, KEY_REGISTER);
        self
    }

    /// Continues with packets of this transport protocol only (`meta l4proto`).
    pub(crate) fn match_protocol(&mut self, number: u8) -> &mut Self {
        self.load_meta(NFT_META_L4PROTO, KEY_REGISTER);
        self.compare(NFT_CMP_EQ, &[number]);
        self
    }

    /// Continues with packets to this port only (`th dport`).
    pub(crate) fn match_port(&mut self, port: u16) -> &mut Self {
        self.load_payload(KEY_REGISTER, NFT_PAYLOAD_TRANSPORT_HEADER, DESTINATION_PORT_OFFSET, PORT_BYTES);
        self.compare(NFT_CMP_EQ, &port.to_be_bytes());
        self
    }

    /// Continues with TCP segments only that do not open a connection (`tcp flags & (fin | syn | rst | ack) != syn`).
    pub(crate) fn match_open_connection(&mut self) -> &mut Self {
        self.load_payload(KEY_REGISTER, NFT_PAYLOAD_TRANSPORT_HEADER, TCP_FLAGS_OFFSET, TCP_FLAGS_BYTES);
        self.mask(KEY_REGISTER, [FIN | SYN | RST | ACK], KEY_REGISTER);
        self.compare(NFT_CMP_NEQ, &[SYN]);
        self
    }

    /// Continues with packets only that leave through loopback, or only with the others (`oif lo`, `oif != lo`).
    pub(crate) fn match_loopback(&mut self, is_loopback: bool) -> &mut Self {
        self.load_meta(NFT_META_OIF, KEY_REGISTER);
        self.compare(if is_loopback { NFT_CMP_EQ } else { NFT_CMP_NEQ }, &LOOPBACK_INDEX.to_ne_bytes());
        self
    }

    /// Continues with packets only that arrived through another interface than loopback (`iif != lo`).
    pub(crate) fn match_input_from_outside(&mut self) -> &mut Self {
        self.load_meta(NFT_META_IIF, KEY_REGISTER);
        self.compare(NFT_CMP_NEQ, &LOOPBACK_INDEX.to_ne_bytes());
        self
    }

    /// Continues with packets only that this network namespace sends: they have no input interface (`iif 0`).
    pub(crate) fn match_no_input_interface(&mut self) -> &mut Self {
        self.load_meta(NFT_META_IIF, KEY_REGISTER);
        self.compare(NFT_CMP_EQ, &[0; 4]);
        self
    }

    /// Continues if the number that `store_in_priority` stored has this flag.
    pub(crate) fn match_flag(&mut self, flag: u16) -> &mut Self {
        self.load_from_priority(KEY_REGISTER);
        self.mask(KEY_REGISTER, u32::from(flag).to_ne_bytes(), KEY_REGISTER);
        self.compare(NFT_CMP_NEQ, &[0; 4]);
        self
    }

    /// Continues with packets to a loopback address only (127.0.0.0/8, ::1).
    pub(crate) fn match_loopback_address(&mut self, family: Family) -> &mut Self {
        self.load(family, &[HeaderField::DestinationAddress]);
        match family {
            Family::V4 => {
                self.mask(KEY_REGISTER, [u8::MAX, 0, 0, 0], KEY_REGISTER);
                self.compare(NFT_CMP_EQ, &[Ipv4Addr::LOCALHOST.octets()[0], 0, 0, 0]);
            }
            Family::V6 => self.compare(NFT_CMP_EQ, &Ipv6Addr::LOCALHOST.octets()),
        }
        self
    }

    /// Continues with packets only whose source or destination is a local address (`fib saddr type local`,
    /// `fib daddr type local`).
    pub(crate) fn match_local(&mut self, address: HeaderField) -> &mut Self {
        let address =
            if matches!(address, HeaderField::SourceAddress) { NFTA_FIB_F_SADDR } else { NFTA_FIB_F_DADDR };
        self.expression("fib", |buffer| {
            buffer.put_u32(NFTA_FIB_DREG, KEY_REGISTER);
            buffer.put_u32(NFTA_FIB_RESULT, NFT_FIB_RESULT_ADDRTYPE);
            buffer.put_u32(NFTA_FIB_FLAGS, address);
        });
        self.compare(NFT_CMP_EQ, &RTN_LOCAL.to_ne_bytes());
        self
    }

    /// Loads the name of the input interface, padded with zeros (`iifname`).
    pub(crate) fn load_input_interface(&mut self) -> &mut Self {
        self.load_meta(NFT_META_IIFNAME, KEY_REGISTER);
        self
    }

    /// Writes those bits of a register that the mask contains to another register. The mask has the length and the byte
    /// order of the value, which is at most one register long.
    pub(crate) fn mask<const BYTES: usize>(
        &mut self,
        source: u32,
        mask: [u8; BYTES],
        target: u32,
    ) -> &mut Self {
        let length = u32::try_from(BYTES).expect("a mask is at most one register long");
        self.expression("bitwise", |buffer| {
            buffer.put_u32(NFTA_BITWISE_SREG, source);
            buffer.put_u32(NFTA_BITWISE_DREG, target);
            buffer.put_u32(NFTA_BITWISE_LEN, length);
            put_value(buffer, NFTA_BITWISE_MASK, &mask);
            put_value(buffer, NFTA_BITWISE_XOR, &[0; BYTES]);
        });
        self
    }

    /// Loads header fields one after the other, each into whole registers. Returns the next free register.
    pub(crate) fn load(&mut self, family: Family, fields: &[HeaderField]) -> u32 {
        let mut register = KEY_REGISTER;
        for field in fields {
            let length = match field.place(family) {
                None => {
                    self.load_meta(NFT_META_L4PROTO, register);
                    NFT_REG32_SIZE
                }
                Some(FieldPlace { base, offset, length }) => {
                    self.load_payload(register, base, offset, length);
                    length
                }
            };
            register += u32::div_ceil(length, NFT_REG32_SIZE);
        }
        register
    }

    /// Looks the key up in a map, and writes the value to the registers from `target` on. The rule ends if the map
    /// does not contain the key.
    pub(crate) fn lookup(&mut self, map: &str, target: u32) -> &mut Self {
        self.expression("lookup", |buffer| {
            buffer.put_string(NFTA_LOOKUP_SET, map);
            buffer.put_u32(NFTA_LOOKUP_SREG, KEY_REGISTER);
            buffer.put_u32(NFTA_LOOKUP_DREG, target);
        });
        self
    }

    /// Passes a number through the packet's priority, which does not change the number.
    ///
    /// nft 1.0.6 aborts when it lists a rule that uses the result of a lookup as the key of another one, and that would
    /// break every tool that lists the rules of this namespace. `skb->priority` of a connection's first packet is safe
    /// to use as scratch space: routing, marks and service meshes do not read it.
    pub(crate) fn via_priority(&mut self, register: u32) -> &mut Self {
        self.store_in_priority(register);
        self.load_from_priority(register)
    }

    /// Stores a number in the packet's priority, for another chain.
    pub(crate) fn store_in_priority(&mut self, register: u32) -> &mut Self {
        self.expression("meta", |buffer| {
            buffer.put_u32(NFTA_META_KEY, NFT_META_PRIORITY);
            buffer.put_u32(NFTA_META_SREG, register);
        });
        self
    }

    /// Loads the number that `store_in_priority` stored.
    pub(crate) fn load_from_priority(&mut self, register: u32) -> &mut Self {
        self.load_meta(NFT_META_PRIORITY, register);
        self
    }

    /// Looks a number up in a map of verdicts, and executes the verdict.
    pub(crate) fn lookup_verdict(&mut self, map: &str, register: u32) {
        self.expression("lookup", |buffer| {
            buffer.put_string(NFTA_LOOKUP_SET, map);
            buffer.put_u32(NFTA_LOOKUP_SREG, register);
            buffer.put_u32(NFTA_LOOKUP_DREG, NFT_REG_VERDICT);
        });
    }

    /// Continues if the set contains the key.
    pub(crate) fn match_in(&mut self, set: &str) -> &mut Self {
        self.expression("lookup", |buffer| {
            buffer.put_string(NFTA_LOOKUP_SET, set);
            buffer.put_u32(NFTA_LOOKUP_SREG, KEY_REGISTER);
        });
        self
    }

    /// Continues if the set does not contain the key.
    pub(crate) fn match_not_in(&mut self, set: &str) -> &mut Self {
        self.expression("lookup", |buffer| {
            buffer.put_string(NFTA_LOOKUP_SET, set);
            buffer.put_u32(NFTA_LOOKUP_SREG, KEY_REGISTER);
            buffer.put_u32(NFTA_LOOKUP_FLAGS, NFT_LOOKUP_F_INV);
        });
        self
    }

    /// Generates a number.
    pub(crate) fn generate_number(&mut self, generator: NumberGenerator, register: u32) -> &mut Self {
        let (kind, count) = match generator {
            NumberGenerator::Incremental(count) => (NFT_NG_INCREMENTAL, count),
            NumberGenerator::Random(count) => (NFT_NG_RANDOM, count),
        };
        self.expression("numgen", |buffer| {
            buffer.put_u32(NFTA_NG_DREG, register);
            buffer.put_u32(NFTA_NG_MODULUS, u32::from(count));
            buffer.put_u32(NFTA_NG_TYPE, kind);
            buffer.put_u32(NFTA_NG_OFFSET, 0);
        });
        self
    }

    /// Writes a value to a register.
    pub(crate) fn load_immediate(&mut self, register: u32, value: &[u8]) -> &mut Self {
        self.expression("immediate", |buffer| {
            buffer.put_u32(NFTA_IMMEDIATE_DREG, register);
            put_value(buffer, NFTA_IMMEDIATE_DATA, value);
        });
        self
    }

    /// Adds the key with the value in a register to a map with timeouts, or renews its timeout.
    pub(crate) fn map_update(&mut self, map: &str, value: u32, timeout_s: u32) -> &mut Self {
        self.change_map(map, NFT_DYNSET_OP_UPDATE, value, Some(timeout_s))
    }

    /// Deletes the key from a map.
    pub(crate) fn map_delete(&mut self, map: &str, value: u32) -> &mut Self {
        self.change_map(map, NFT_DYNSET_OP_DELETE, value, None)
    }

    fn change_map(&mut self, map: &str, operation: u32, value: u32, timeout_s: Option<u32>) -> &mut Self {
        self.expression("dynset", |buffer| {
            buffer.put_string(NFTA_DYNSET_SET_NAME, map);
            buffer.put_u32(NFTA_DYNSET_OP, operation);
            buffer.put_u32(NFTA_DYNSET_SREG_KEY, KEY_REGISTER);
            buffer.put_u32(NFTA_DYNSET_SREG_DATA, value);
            if let Some(timeout_s) = timeout_s {
                buffer.put_u64(NFTA_DYNSET_TIMEOUT, u64::from(timeout_s) * 1_000);
            }
        });
        self
    }

    /// Rejects: TCP with a reset, other protocols as an unreachable port.
    pub(crate) fn reject(&mut self, is_tcp: bool) {
        let kind = if is_tcp { NFT_REJECT_TCP_RST } else { NFT_REJECT_ICMPX_UNREACH };
        self.expression("reject", |buffer| {
            buffer.put_u32(NFTA_REJECT_TYPE, kind);
            buffer.put(NFTA_REJECT_ICMP_CODE, &[NFT_REJECT_ICMPX_PORT_UNREACH]);
        });
    }

    /// Ends the rule with a verdict.
    pub(crate) fn verdict(&mut self, code: i32, chain: Option<&str>) {
        self.expression("immediate", |buffer| {
            buffer.put_u32(NFTA_IMMEDIATE_DREG, NFT_REG_VERDICT);
            buffer.nest(NFTA_IMMEDIATE_DATA, |buffer| put_verdict(buffer, code, chain));
        });
    }
}
