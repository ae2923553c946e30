//! The expressions that translate addresses and ports.
//!
//! Connection tracking keeps the translation of a connection, so that only its first packet passes these expressions.

use proxy_core::address::Family;

use crate::netlink::uapi::*;
use crate::nft::element::family_number;
use crate::nft::expression::{KEY_REGISTER, RuleBuilder};

impl RuleBuilder<'_> {
    /// Translates the destination to the address and port in the key's registers.
    pub(crate) fn translate(&mut self, family: Family) {
        let address_registers = match family {
            Family::V4 => 1,
            Family::V6 => 4,
        };
        self.expression("nat", |buffer| {
            buffer.put_u32(NFTA_NAT_TYPE, NFT_NAT_DNAT);
            buffer.put_u32(NFTA_NAT_FAMILY, u32::from(family_number(family)));
            buffer.put_u32(NFTA_NAT_REG_ADDR_MIN, KEY_REGISTER);
            buffer.put_u32(NFTA_NAT_REG_PROTO_MIN, KEY_REGISTER + address_registers);
        });
    }

    /// Redirects the connection to a local port.
    pub(crate) fn redirect(&mut self, port: u16) {
        self.load_immediate(KEY_REGISTER, &port.to_be_bytes());
        self.expression("redir", |buffer| {
            buffer.put_u32(NFTA_REDIR_REG_PROTO_MIN, KEY_REGISTER);
            buffer.put_u32(NFTA_REDIR_FLAGS, NF_NAT_RANGE_PROTO_SPECIFIED);
        });
    }

    /// Translates the source to an address of the output interface, and to a random port.
    pub(crate) fn masquerade(&mut self) {
        self.expression("masq", |buffer| buffer.put_u32(NFTA_MASQ_FLAGS, NF_NAT_RANGE_PROTO_RANDOM_FULLY));
    }
}
