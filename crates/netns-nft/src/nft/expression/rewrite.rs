//! The expressions that match and rewrite header fields without connection tracking, and those on the priority of a
//! packet's socket.
//!
//! A rewritten packet has correct checksums: the kernel adjusts those of the IP and the transport header.

use proxy_core::address::Family;

use crate::netlink::uapi::*;
use crate::nft::expression::{FieldPlace, HeaderField, KEY_REGISTER, RuleBuilder};

/// The offsets of the checksums in the headers of IPv4 and UDP.
const IPV4_CHECKSUM_OFFSET: u32 = 10;
const UDP_CHECKSUM_OFFSET: u32 = 6;

impl RuleBuilder<'_> {
    /// Continues with packets only in which the field has this value.
    pub(crate) fn match_field(&mut self, family: Family, field: HeaderField, value: &[u8]) -> &mut Self {
        self.load(family, &[field]);
        self.compare(NFT_CMP_EQ, value);
        self
    }

    /// Continues with packets only of other transport protocols (`meta l4proto !=`).
    pub(crate) fn match_other_protocol(&mut self, number: u8) -> &mut Self {
        self.load_meta(NFT_META_L4PROTO, KEY_REGISTER);
        self.compare(NFT_CMP_NEQ, &[number]);
        self
    }

    /// Continues with packets only to other ports (`th dport !=`).
    pub(crate) fn match_other_port(&mut self, port: u16) -> &mut Self {
        self.load(Family::V4, &[HeaderField::DestinationPort]);
        self.compare(NFT_CMP_NEQ, &port.to_be_bytes());
        self
    }

    /// Continues with packets only of this priority (`meta priority`).
    pub(crate) fn match_priority(&mut self, priority: u32) -> &mut Self {
        self.load_from_priority(KEY_REGISTER);
        self.compare(NFT_CMP_EQ, &priority.to_ne_bytes());
        self
    }

    /// Exempts the packet from connection tracking.
    pub(crate) fn exempt_from_tracking(&mut self) -> &mut Self {
        self.expression("notrack", |_| {});
        self
    }

    /// Writes a value to a field of a UDP packet.
    pub(crate) fn rewrite_udp(&mut self, family: Family, field: HeaderField, value: &[u8]) -> &mut Self {
        let Some(FieldPlace { base, offset, length }) = field.place(family) else { return self };
        let (checksum, checksum_offset, flags) = match (base, family) {
            (NFT_PAYLOAD_TRANSPORT_HEADER, _) => (NFT_PAYLOAD_CSUM_INET, UDP_CHECKSUM_OFFSET, 0),
            (_, Family::V4) => (NFT_PAYLOAD_CSUM_INET, IPV4_CHECKSUM_OFFSET, NFT_PAYLOAD_L4CSUM_PSEUDOHDR),
            (_, Family::V6) => (NFT_PAYLOAD_CSUM_NONE, 0, NFT_PAYLOAD_L4CSUM_PSEUDOHDR),
        };
        self.load_immediate(KEY_REGISTER, value);
        self.expression("payload", |buffer| {
            buffer.put_u32(NFTA_PAYLOAD_SREG, KEY_REGISTER);
            buffer.put_u32(NFTA_PAYLOAD_BASE, base);
            buffer.put_u32(NFTA_PAYLOAD_OFFSET, offset);
            buffer.put_u32(NFTA_PAYLOAD_LEN, length);
            buffer.put_u32(NFTA_PAYLOAD_CSUM_TYPE, checksum);
            buffer.put_u32(NFTA_PAYLOAD_CSUM_OFFSET, checksum_offset);
            buffer.put_u32(NFTA_PAYLOAD_CSUM_FLAGS, flags);
        });
        self
    }
}
