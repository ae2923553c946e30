//! `ChainSummary`: the chains of all tables of a network namespace, of which other programs have most.
//!
//! With this list, `portico check` finds firewalls that drop forwarded packets, and the agent finds rules of other
//! proxies. It includes the chains of iptables if its rules are in nf_tables (iptables-nft).

use std::ops::ControlFlow;

use crate::error::Error;
use crate::netlink::attributes::{Attributes, MessageBuffer, nfgenmsg};
use crate::netlink::socket::Socket;
use crate::netlink::uapi::*;
use crate::nft::names::ANCHOR_TABLE;
use crate::nft::node::names::NODE_TABLE;
use crate::nft::read::reader::failed_to_read;
use crate::nft::table_writer::NAT_CHAIN;

/// A chain of any table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainSummary {
    /// The family of its table, as nft writes it.
    pub family: &'static str,
    /// The name of its table.
    pub table: String,
    /// Its name.
    pub name: String,
    /// Whether it filters forwarded packets, and drops those that no rule of it accepts.
    pub drops_forwarded: bool,
    /// The priority, if it translates destinations: a NAT chain at the hook prerouting or output.
    pub destination_nat: Option<i32>,
    /// Whether it is a NAT chain at any hook.
    pub is_nat: bool,
}

impl ChainSummary {
    /// Whether it is in one of the node's tables of Portico.
    #[must_use]
    pub fn is_own(&self) -> bool {
        self.family == "inet" && [NODE_TABLE, ANCHOR_TABLE].contains(&&*self.table)
    }

    /// Whether it keeps NAT registered in a family (`ip` or `ip6`), so that the kernel translates the packets of open
    /// connections.
    #[must_use]
    pub fn keeps_nat(&self, family: &str) -> bool {
        self.is_nat && (self.family == family || self.family == "inet")
    }
}

impl Socket {
    /// Lists the chains of all tables.
    ///
    /// # Errors
    /// If the kernel does not report them.
    pub fn chains(&self) -> Result<Vec<ChainSummary>, Error> {
        let mut chains = Vec::new();
        let result = self.request(&list_request(), |message| chains.push(summary(message.body)));
        result.map_err(|source| failed_to_read("the chains", source))?;
        Ok(chains)
    }

    /// Whether one of the first `limit` chains matches: a pod can create any number of chains. The socket can only be
    /// closed afterwards.
    ///
    /// # Errors
    /// If the kernel does not report the chains.
    pub fn any_chain(self, limit: usize, matches: impl Fn(&ChainSummary) -> bool) -> Result<bool, Error> {
        let (mut count, mut is_found) = (0, false);
        let result = self.request_while(&list_request(), &mut |message| {
            count += 1;
            is_found = matches(&summary(message.body));
            if is_found || count >= limit { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        result.map_err(|source| failed_to_read("the chains", source))?;
        Ok(is_found)
    }
}

fn list_request() -> Vec<u8> {
    let kind = NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETCHAIN;
    MessageBuffer::message(kind, NLM_F_REQUEST | NLM_F_DUMP, &nfgenmsg(NFPROTO_UNSPEC, 0), |_| {})
}

fn summary(body: &[u8]) -> ChainSummary {
    let attributes = Attributes::of_netfilter(body);
    let family = body.first().copied().unwrap_or_default();
    let hook = attributes.nested(NFTA_CHAIN_HOOK);
    let number = hook.u32(NFTA_HOOK_HOOKNUM);
    let is_routed = [NFPROTO_INET, NFPROTO_IPV4, NFPROTO_IPV6].contains(&family);
    let drops = attributes.u32(NFTA_CHAIN_POLICY) == Some(NF_DROP.unsigned_abs());
    let is_nat = attributes.string(NFTA_CHAIN_TYPE) == NAT_CHAIN;
    let is_destination =
        number.is_some_and(|number| [NF_INET_PRE_ROUTING, NF_INET_LOCAL_OUT].contains(&number));
    let priority = hook.u32(NFTA_HOOK_PRIORITY).map(u32::cast_signed);
    ChainSummary {
        family: family_name(family),
        table: attributes.string(NFTA_CHAIN_TABLE),
        name: attributes.string(NFTA_CHAIN_NAME),
        drops_forwarded: number == Some(NF_INET_FORWARD) && is_routed && drops,
        destination_nat: priority.filter(|_| is_nat && is_destination),
        is_nat,
    }
}

fn family_name(family: u8) -> &'static str {
    match family {
        NFPROTO_INET => "inet",
        NFPROTO_IPV4 => "ip",
        NFPROTO_IPV6 => "ip6",
        // Bridges, ARP and devices: no portal depends on them.
        _ => "other",
    }
}
