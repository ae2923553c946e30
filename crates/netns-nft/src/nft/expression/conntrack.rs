//! The expressions that read the state of the packet's connection (`ct`).
//!
//! The state exists before the first NAT chain, so these expressions need no packet mark of another chain.

use proxy_core::address::Family;

use crate::netlink::uapi::*;
use crate::nft::expression::{KEY_REGISTER, RuleBuilder};

/// A field of a packet before its translation.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Original {
    DestinationAddress(Family),
    DestinationPort,
}

impl RuleBuilder<'_> {
    /// Continues with packets only whose destination was translated, or only with the others (`ct status dnat`,
    /// `ct status ! dnat`).
    pub(crate) fn match_translated(&mut self, is_translated: bool) -> &mut Self {
        self.expression("ct", |buffer| {
            buffer.put_u32(NFTA_CT_DREG, KEY_REGISTER);
            buffer.put_u32(NFTA_CT_KEY, NFT_CT_STATUS);
        });
        self.mask(KEY_REGISTER, IPS_DST_NAT.to_ne_bytes(), KEY_REGISTER);
        self.compare(if is_translated { NFT_CMP_NEQ } else { NFT_CMP_EQ }, &[0; 4]);
        self
    }

    /// Loads the destination address and port of the packet before it was translated, each into whole registers (`ct
    /// original ip daddr`, `ct original ip6 daddr`, `ct original proto-dst`). Returns the next free register.
    pub(crate) fn load_original(&mut self, register: u32, original: Original) -> u32 {
        let (key, bytes) = match original {
            Original::DestinationAddress(Family::V4) => (NFT_CT_DST_IP, 4),
            Original::DestinationAddress(Family::V6) => (NFT_CT_DST_IP6, 16),
            Original::DestinationPort => (NFT_CT_PROTO_DST, 2),
        };
        self.expression("ct", |buffer| {
            buffer.put_u32(NFTA_CT_DREG, register);
            buffer.put_u32(NFTA_CT_KEY, key);
            buffer.put(NFTA_CT_DIRECTION, &[IP_CT_DIR_ORIGINAL]);
        });
        register + u32::div_ceil(bytes, NFT_REG32_SIZE)
    }

    /// Loads the protocol and the original destination port, from this register on.
    pub(crate) fn load_original_port(&mut self, register: u32) -> &mut Self {
        self.load_meta(NFT_META_L4PROTO, register);
        self.load_original(register + 1, Original::DestinationPort);
        self
    }
}
