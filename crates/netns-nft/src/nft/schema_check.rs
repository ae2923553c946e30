//! `TableSchema`: the sets and chains of a table, and the number of rules in each chain.
//!
//! The messages that create a table and the kernel's replies about it have the same attributes, so one parser reads
//! both, and `schema` alone defines the desired state. The expressions of rules are not compared, because kernels list
//! them in different forms.

use std::collections::BTreeMap;

use proxy_core::dispatch::DispatchKey;
use proxy_core::ruleset::Settings;

use crate::netlink::attributes::Attributes;
use crate::netlink::batch::BatchWriter;
use crate::netlink::socket::{Message, split_message};
use crate::netlink::uapi::*;
use crate::nft::names::TABLE;
use crate::nft::schema;
use crate::nft::table_writer::TableWriter;

/// The parts of a table, without elements.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct TableSchema {
    sets: BTreeMap<String, Set>,
    chains: BTreeMap<String, Chain>,
    rules: usize,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Set {
    flags: u32,
    key_type: Option<u32>,
    data_type: Option<u32>,
    /// The expression in each element, such as a counter.
    expression: String,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Chain {
    hook: Option<u32>,
    priority: Option<u32>,
    policy: Option<u32>,
    rules: usize,
}

impl TableSchema {
    /// The schema of a pod's table with these settings and dispatch keys.
    pub(crate) fn new(settings: Settings, dispatch_keys: impl Iterator<Item = DispatchKey>) -> Self {
        Self::written(TABLE, |desired| {
            schema::add_table(desired, settings);
            dispatch_keys.for_each(|dispatch| schema::add_dispatch_key(desired, dispatch));
        })
    }

    /// The schema of the table that `write` writes.
    pub(crate) fn written(table_name: &'static str, write: impl FnOnce(&mut TableWriter<'_>)) -> Self {
        let mut writer = BatchWriter::default();
        write(&mut TableWriter::new(&mut writer, table_name));
        let (mut table, mut rest) = (Self::default(), &writer.buffer.0[..]);
        while let Some((message, after)) = split_message(rest) {
            table.insert(table_name, &message);
            rest = after;
        }
        table
    }

    /// Records the set, chain or rule in a message. Messages about other tables have no effect.
    pub(crate) fn insert(&mut self, table: &str, message: &Message<'_>) {
        const NEWSET: u16 = NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_NEWSET;
        const NEWCHAIN: u16 = NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_NEWCHAIN;
        const NEWRULE: u16 = NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_NEWRULE;
        let attributes = Attributes::of_netfilter(message.body);
        let is_of_table = |kind| attributes.string(kind) == table;
        match message.kind {
            NEWSET if is_of_table(NFTA_SET_TABLE) => {
                let set = Set {
                    flags: attributes.u32(NFTA_SET_FLAGS).unwrap_or(0),
                    key_type: attributes.u32(NFTA_SET_KEY_TYPE),
                    data_type: attributes.u32(NFTA_SET_DATA_TYPE),
                    expression: attributes.nested(NFTA_SET_EXPR).string(NFTA_EXPR_NAME),
                };
                self.sets.insert(attributes.string(NFTA_SET_NAME), set);
            }
            NEWCHAIN if is_of_table(NFTA_CHAIN_TABLE) => {
                let hook = attributes.nested(NFTA_CHAIN_HOOK);
                let chain = self.chains.entry(attributes.string(NFTA_CHAIN_NAME)).or_default();
                chain.hook = hook.u32(NFTA_HOOK_HOOKNUM);
                chain.priority = hook.u32(NFTA_HOOK_PRIORITY);
                chain.policy = attributes.u32(NFTA_CHAIN_POLICY);
            }
            NEWRULE if is_of_table(NFTA_RULE_TABLE) => {
                self.chains.entry(attributes.string(NFTA_RULE_CHAIN)).or_default().rules += 1;
                self.rules += 1;
            }
            _ => {}
        }
    }

    /// The names of the chains.
    pub(crate) fn chains(&self) -> impl Iterator<Item = &str> {
        self.chains.keys().map(String::as_str)
    }

    /// The names of the sets.
    pub(crate) fn sets(&self) -> impl Iterator<Item = &str> {
        self.sets.keys().map(String::as_str)
    }

    /// The number of sets, chains and rules.
    pub(crate) fn counts(&self) -> [usize; 3] {
        [self.sets.len(), self.chains.len(), self.rules]
    }

    /// Describes the first set or chain that differs from the desired schema.
    pub(crate) fn first_mismatch(&self, desired: &Self) -> Option<String> {
        let describe = |kind: &str, name: &str, exists: bool, is_desired: bool| match (exists, is_desired) {
            (true, true) => format!("{kind} {name:?} differs from the layout"),
            (true, false) => format!("{kind} {name:?} is not part of the layout"),
            _ => format!("{kind} {name:?} is missing"),
        };
        if let Some((name, exists, is_desired)) = first_difference(&self.sets, &desired.sets) {
            return Some(describe("set", name, exists, is_desired));
        }
        let (name, exists, is_desired) = first_difference(&self.chains, &desired.chains)?;
        Some(describe("chain", name, exists, is_desired))
    }
}

/// The first key at which two maps differ, and whether the first and the second one contain it.
fn first_difference<'a, T: PartialEq>(
    first: &'a BTreeMap<String, T>,
    second: &'a BTreeMap<String, T>,
) -> Option<(&'a str, bool, bool)> {
    let name = first.keys().chain(second.keys()).find(|name| first.get(*name) != second.get(*name))?;
    Some((name, first.contains_key(name), second.contains_key(name)))
}
