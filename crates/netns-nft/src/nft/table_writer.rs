//! `TableWriter`: writes the parts of one table (its chains, rules, sets and elements) into a batch.
//!
//! The parts name their table in each message, so the writer holds the name. The tables of a batch differ only in the
//! name and in what they contain: that is in `schema` for a pod's table, and in `anchor` for the anchor.

use crate::netlink::attributes::MessageBuffer;
use crate::netlink::batch::BatchWriter;
use crate::netlink::uapi::*;
use crate::nft::element::{ELEMENT_BYTES_MAX, put_verdict_element};
use crate::nft::expression::RuleBuilder;
use crate::nft::set_type::SetType;

/// A type of chain that only the first packet of a connection passes.
pub(crate) const NAT_CHAIN: &str = "nat";
/// A type of chain after which the kernel looks up the route again if the packet's addresses changed.
pub(crate) const ROUTE_CHAIN: &str = "route";
pub(crate) const FILTER_CHAIN: &str = "filter";
/// The type of nft's user data of a table that contains its comment (`NFTNL_UDATA_TABLE_COMMENT`).
const TABLE_COMMENT: u8 = 0;

/// A change of the elements of a set.
#[derive(Debug, Clone, Copy)]
pub(crate) enum ElementChange {
    Add,
    Delete,
}

impl ElementChange {
    /// The type and the flags of its messages.
    fn message(self) -> (u16, u16) {
        match self {
            Self::Add => (NFT_MSG_NEWSETELEM, NLM_F_CREATE),
            Self::Delete => (NFT_MSG_DELSETELEM, 0),
        }
    }
}

/// Writes the parts of a table.
pub(crate) struct TableWriter<'a> {
    pub(crate) batch: &'a mut BatchWriter,
    table: &'static str,
    /// Each set has an id within the transaction.
    next_set_id: u32,
}

impl<'a> TableWriter<'a> {
    pub(crate) fn new(batch: &'a mut BatchWriter, table: &'static str) -> Self {
        Self { batch, table, next_set_id: 1 }
    }

    /// Deletes the table, whether it exists or not. The kernel rejects the deletion of a missing table, so the table
    /// is created first.
    pub(crate) fn clear(&mut self) {
        self.batch
            .message(NFT_MSG_NEWTABLE, NLM_F_CREATE, |buffer| buffer.put_string(NFTA_TABLE_NAME, self.table));
        self.delete();
    }

    pub(crate) fn delete(&mut self) {
        self.batch.message(NFT_MSG_DELTABLE, 0, |buffer| buffer.put_string(NFTA_TABLE_NAME, self.table));
    }

    /// Adds the table with a comment, which is shorter than 255 bytes.
    pub(crate) fn add(&mut self, comment: &str) {
        self.add_with_flags(comment, 0);
    }

    /// As `add`, with flags.
    pub(crate) fn add_with_flags(&mut self, comment: &str, flags: u32) {
        let length = u8::try_from(comment.len() + 1).expect("the comment of a table is below 255 bytes");
        let mut data = vec![TABLE_COMMENT, length];
        data.extend_from_slice(comment.as_bytes());
        data.push(0);
        self.batch.message(NFT_MSG_NEWTABLE, NLM_F_CREATE, |buffer| {
            buffer.put_string(NFTA_TABLE_NAME, self.table);
            if flags != 0 {
                buffer.put_u32(NFTA_TABLE_FLAGS, flags);
            }
            buffer.put(NFTA_TABLE_USERDATA, &data);
        });
    }

    pub(crate) fn add_chain(&mut self, name: &str) {
        self.batch.message(NFT_MSG_NEWCHAIN, NLM_F_CREATE, |buffer| {
            buffer.put_string(NFTA_CHAIN_TABLE, self.table);
            buffer.put_string(NFTA_CHAIN_NAME, name);
        });
    }

    /// Adds a NAT chain that accepts at the end.
    pub(crate) fn add_base_chain(&mut self, name: &str, hook: u32, priority: i32) {
        self.add_base_chain_of(NAT_CHAIN, name, hook, priority);
    }

    /// Adds a chain of this type that accepts at the end.
    pub(crate) fn add_base_chain_of(&mut self, chain_type: &str, name: &str, hook: u32, priority: i32) {
        self.batch.message(NFT_MSG_NEWCHAIN, NLM_F_CREATE, |buffer| {
            buffer.put_string(NFTA_CHAIN_TABLE, self.table);
            buffer.put_string(NFTA_CHAIN_NAME, name);
            buffer.nest(NFTA_CHAIN_HOOK, |buffer| {
                buffer.put_u32(NFTA_HOOK_HOOKNUM, hook);
                buffer.put(NFTA_HOOK_PRIORITY, &priority.to_be_bytes());
            });
            buffer.put_string(NFTA_CHAIN_TYPE, chain_type);
            buffer.put_u32(NFTA_CHAIN_POLICY, NF_ACCEPT);
        });
    }

    pub(crate) fn delete_chain(&mut self, name: &str) {
        self.batch.message(NFT_MSG_DELCHAIN, 0, |buffer| {
            buffer.put_string(NFTA_CHAIN_TABLE, self.table);
            buffer.put_string(NFTA_CHAIN_NAME, name);
        });
    }

    /// Adds a rule with the expressions that `fill` writes.
    pub(crate) fn add_rule(&mut self, chain: &str, fill: impl FnOnce(&mut RuleBuilder<'_>)) {
        self.batch.message(NFT_MSG_NEWRULE, NLM_F_CREATE | NLM_F_APPEND, |buffer| {
            buffer.put_string(NFTA_RULE_TABLE, self.table);
            buffer.put_string(NFTA_RULE_CHAIN, chain);
            buffer.nest(NFTA_RULE_EXPRESSIONS, |buffer| fill(&mut RuleBuilder(buffer)));
        });
    }

    /// Adds a set or map without elements. `fill` writes the attributes after its key.
    pub(crate) fn add_set(&mut self, name: &str, set: SetType, fill: impl FnOnce(&mut MessageBuffer)) {
        let id = self.next_set_id;
        self.next_set_id += 1;
        self.batch.message(NFT_MSG_NEWSET, NLM_F_CREATE, |buffer| {
            buffer.put_string(NFTA_SET_TABLE, self.table);
            buffer.put_string(NFTA_SET_NAME, name);
            buffer.put_u32(NFTA_SET_FLAGS, set.flags);
            buffer.put_u32(NFTA_SET_KEY_TYPE, set.key_type);
            buffer.put_u32(NFTA_SET_KEY_LEN, set.key_bytes);
            buffer.put_u32(NFTA_SET_ID, id);
            fill(buffer);
        });
    }

    pub(crate) fn delete_set(&mut self, name: &str) {
        self.batch.message(NFT_MSG_DELSET, 0, |buffer| {
            buffer.put_string(NFTA_SET_TABLE, self.table);
            buffer.put_string(NFTA_SET_NAME, name);
        });
    }

    /// Adds or deletes elements of a set in one message, as far as they fit; `put` writes an element. Returns their
    /// number.
    pub(crate) fn put_elements<E>(
        &mut self,
        change: ElementChange,
        set: &str,
        elements: impl Iterator<Item = E>,
        put: impl Fn(&mut MessageBuffer, &E),
    ) -> usize {
        let (kind, flags) = change.message();
        let message = self.batch.begin(kind, flags);
        let buffer = &mut self.batch.buffer;
        buffer.put_string(NFTA_SET_ELEM_LIST_TABLE, self.table);
        buffer.put_string(NFTA_SET_ELEM_LIST_SET, set);
        let list = buffer.begin_nest(NFTA_SET_ELEM_LIST_ELEMENTS);
        let mut count = 0;
        for element in elements {
            // An interval consists of two elements.
            if !buffer.has_room(&list, 2 * ELEMENT_BYTES_MAX) {
                break;
            }
            put(buffer, &element);
            count += 1;
        }
        buffer.end_nest(&list);
        self.batch.end(message);
        count
    }

    /// Deletes all elements of a set.
    pub(crate) fn flush_set(&mut self, set: &str) {
        self.batch.message(NFT_MSG_DELSETELEM, 0, |buffer| {
            buffer.put_string(NFTA_SET_ELEM_LIST_TABLE, self.table);
            buffer.put_string(NFTA_SET_ELEM_LIST_SET, set);
        });
    }

    /// Adds or deletes an element of a map of verdicts.
    pub(crate) fn put_verdict(
        &mut self,
        change: ElementChange,
        map: &str,
        key: &[u8],
        (code, chain): (i32, &str),
    ) {
        self.put_elements(change, map, [key].into_iter(), |buffer, key| {
            put_verdict_element(buffer, key, code, chain);
        });
    }
}
