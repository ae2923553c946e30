//! The expressions that read the state of the packet's connection (`ct`).
//!
//! The state exists before the first NAT chain, so these expressions need no packet mark of another chain.

use crate::netlink::uapi::*;
use crate::nft::expression::{KEY_REGISTER, RuleBuilder};

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
}
