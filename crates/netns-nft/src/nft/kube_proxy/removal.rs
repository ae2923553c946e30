//! Removes what `kube-proxy --cleanup` removes, in one transaction: all of it or nothing.
//!
//! A chain cannot be deleted while a rule jumps to it, so the jumps from the chains of iptables are deleted first. A
//! jump from another chain belongs to another program, and is an error.

use std::io::ErrorKind;

use crate::error::Error;
use crate::netlink::attributes::{Attributes, MessageBuffer, nfgenmsg};
use crate::netlink::batch::{Batch, BatchOp, BatchWriter};
use crate::netlink::socket::Socket;
use crate::netlink::uapi::*;
use crate::nft::kube_proxy::{KubeProxyRules, TABLE};
use crate::nft::read::reader::failed_to_read;

/// The chains of iptables from which kube-proxy jumps to its own.
const BUILT_IN: [&str; 5] = ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"];
/// Other programs can change the rules between their listing and the transaction.
const ATTEMPTS: usize = 5;

/// A rule that jumps to a chain of kube-proxy.
#[derive(Debug)]
struct JumpRule {
    family: &'static str,
    table: &'static str,
    chain: String,
    handle: u64,
}

impl Socket {
    /// Removes the rules of kube-proxy's nftables and iptables modes, and returns them.
    ///
    /// # Errors
    /// `KubeProxyInUse` if it has rules that cannot be removed here, or another program uses them; in that case nothing
    /// is removed. Or if the kernel rejects the transaction.
    pub fn remove_kube_proxy_rules(&self) -> Result<KubeProxyRules, Error> {
        let mut attempt = 1;
        loop {
            let rules = KubeProxyRules::of(&self.chains()?);
            if rules.has_ipvs {
                return Err(Error::KubeProxyInUse("they are those of the ipvs mode".to_owned()));
            }
            if rules.is_empty() {
                return Ok(rules);
            }
            let jumps = self.jumps_to(&rules)?;
            match self.apply(&removal(&rules, &jumps)) {
                Err(Error::Rejected { source, .. })
                    if attempt < ATTEMPTS
                        && matches!(source.kind(), ErrorKind::NotFound | ErrorKind::ResourceBusy) =>
                {
                    attempt += 1;
                }
                result => return result.map(|()| rules),
            }
        }
    }

    /// Lists the rules of iptables that jump to chains of kube-proxy.
    fn jumps_to(&self, rules: &KubeProxyRules) -> Result<Vec<JumpRule>, Error> {
        let (mut jumps, mut foreign) = (Vec::new(), None);
        for ((family, table), own) in &rules.chains {
            let kind = NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETRULE;
            let header = nfgenmsg(family_number(family), 0);
            let request = MessageBuffer::message(kind, NLM_F_REQUEST | NLM_F_DUMP, &header, |buffer| {
                buffer.put_string(NFTA_RULE_TABLE, table);
            });
            let result = self.request(&request, |message| {
                let attributes = Attributes::of_netfilter(message.body);
                let chain = attributes.string(NFTA_RULE_CHAIN);
                let Some(target) = jump_target(attributes).filter(|target| own.contains(target)) else {
                    return;
                };
                if own.contains(&chain) {
                    return;
                }
                if !BUILT_IN.contains(&&*chain) {
                    foreign
                        .get_or_insert(format!("chain {chain} of table {family} {table} jumps to {target}"));
                }
                let handle = attributes.u64(NFTA_RULE_HANDLE).unwrap_or_default();
                jumps.push(JumpRule { family, table, chain, handle });
            });
            result
                .map_err(|source| failed_to_read(&format!("the rules of table {family} {table}"), source))?;
        }
        foreign.map_or(Ok(jumps), |why| Err(Error::KubeProxyInUse(why)))
    }
}

/// The chain to which a rule jumps.
fn jump_target(rule: Attributes<'_>) -> Option<String> {
    let expressions = rule.nested(NFTA_RULE_EXPRESSIONS).filter(|(kind, _)| *kind == NFTA_LIST_ELEM);
    expressions.map(|(_, expression)| Attributes(expression)).find_map(|expression| {
        let data = expression.nested(NFTA_EXPR_DATA).nested(NFTA_IMMEDIATE_DATA);
        let verdict = data.nested(NFTA_DATA_VERDICT);
        let is_immediate = expression.string(NFTA_EXPR_NAME) == "immediate";
        is_immediate.then(|| verdict.string(NFTA_VERDICT_CHAIN)).filter(|chain| !chain.is_empty())
    })
}

fn removal(rules: &KubeProxyRules, jumps: &[JumpRule]) -> Batch {
    BatchWriter::batch(|batch| {
        batch.op = Some(BatchOp::Table("the deletion of kube-proxy's table"));
        for family in &rules.tables {
            batch.message_of(family_number(family), NFT_MSG_DELTABLE, |buffer| {
                buffer.put_string(NFTA_TABLE_NAME, TABLE);
            });
        }
        batch.op = Some(BatchOp::Table("the deletion of a jump to kube-proxy's chains"));
        for JumpRule { family, table, chain, handle } in jumps {
            batch.message_of(family_number(family), NFT_MSG_DELRULE, |buffer| {
                buffer.put_string(NFTA_RULE_TABLE, table);
                buffer.put_string(NFTA_RULE_CHAIN, chain);
                buffer.put_u64(NFTA_RULE_HANDLE, *handle);
            });
        }
        batch.op = Some(BatchOp::Table("the deletion of kube-proxy's chains"));
        // Without a handle, all rules of the chain are deleted.
        for ((family, table), chain) in chains(rules) {
            batch.message_of(family_number(family), NFT_MSG_DELRULE, |buffer| {
                buffer.put_string(NFTA_RULE_TABLE, table);
                buffer.put_string(NFTA_RULE_CHAIN, chain);
            });
        }
        for ((family, table), chain) in chains(rules) {
            batch.message_of(family_number(family), NFT_MSG_DELCHAIN, |buffer| {
                buffer.put_string(NFTA_CHAIN_TABLE, table);
                buffer.put_string(NFTA_CHAIN_NAME, chain);
            });
        }
    })
}

fn chains(rules: &KubeProxyRules) -> impl Iterator<Item = ((&'static str, &'static str), &String)> {
    rules.chains.iter().flat_map(|(at, chains)| chains.iter().map(move |chain| (*at, chain)))
}

/// The number of a family of kube-proxy's rules.
fn family_number(family: &str) -> u8 {
    if family == "ip6" { NFPROTO_IPV6 } else { NFPROTO_IPV4 }
}
