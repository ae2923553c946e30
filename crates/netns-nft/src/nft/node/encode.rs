//! Encodes a plan of the node's table as one batch, which the kernel applies as a whole or not at all.

use proxy_core::ruleset::node::{NodeChanges, NodeElement, NodeOp, NodePlan, NodeRuleset, node_plan};

use crate::error::Error;
use crate::netlink::batch::{Batch, BatchOp, BatchWriter};
use crate::netlink::socket::Socket;
use crate::nft::names::ANCHOR_TABLE;
use crate::nft::node::element::put_node_element;
use crate::nft::node::names::{NODE_TABLE, clients};
use crate::nft::node::schema;
use crate::nft::node::sets::add_clients;
use crate::nft::table_writer::{ElementChange, TableWriter};

/// Encodes a plan; a plan without operations results in an empty batch.
#[must_use]
pub fn encode_node(plan: &NodePlan) -> Batch {
    if plan.is_empty() {
        return Batch::default();
    }
    BatchWriter::batch(|batch| put_ops(&mut TableWriter::new(batch, NODE_TABLE), plan.ops()))
}

/// Encodes the transaction after which the node has exactly this table, whatever it had before.
#[must_use]
pub fn encode_node_fresh(ruleset: &NodeRuleset) -> Batch {
    BatchWriter::batch(|batch| {
        let mut table = TableWriter::new(batch, NODE_TABLE);
        table.batch.op = Some(BatchOp::Node(NodeOp::DeleteTable));
        table.clear();
        put_ops(&mut table, node_plan(&NodeRuleset::empty(), ruleset, &NodeChanges::default()).ops());
    })
}

impl Socket {
    /// Deletes the node's table, and the anchor table if no process owns it. Connections that these tables translate end
    /// unless another table has a NAT chain.
    ///
    /// # Errors
    /// If the kernel rejects the transaction, for example because an agent owns the anchor table.
    pub fn remove_node_tables(&self) -> Result<(), Error> {
        self.apply(&BatchWriter::batch(|batch| {
            batch.op = Some(BatchOp::Table("the deletion of the node's tables"));
            TableWriter::new(batch, NODE_TABLE).clear();
            TableWriter::new(batch, ANCHOR_TABLE).clear();
        }))
    }

    /// Deletes the node's table. Translated connections go on only while another table has a NAT chain, such as the anchor.
    ///
    /// # Errors
    /// If the kernel rejects the transaction.
    pub fn remove_node_table(&self) -> Result<(), Error> {
        self.apply(&BatchWriter::batch(|batch| {
            batch.op = Some(BatchOp::Table("the deletion of the node's table"));
            TableWriter::new(batch, NODE_TABLE).clear();
        }))
    }

    /// Whether the node has a table of Portico.
    ///
    /// # Errors
    /// If the kernel does not report it.
    pub fn has_node_table(&self) -> Result<bool, Error> {
        self.has_table(NODE_TABLE)
    }
}

fn put_ops(table: &mut TableWriter<'_>, mut ops: &[NodeOp]) {
    while let [first, ..] = ops {
        let count = put_op(table, *first, ops);
        ops = &ops[count..];
    }
}

/// Writes the first of `ops`, with those after it that share its message. Returns their number.
fn put_op(table: &mut TableWriter<'_>, op: NodeOp, ops: &[NodeOp]) -> usize {
    table.batch.op = Some(BatchOp::Node(op));
    match op {
        NodeOp::DeleteTable => table.delete(),
        NodeOp::AddTable(settings) => schema::add_table(table, settings),
        NodeOp::AddClients(family, number) => add_clients(table, family, number),
        NodeOp::AddChain(chain) => schema::add_target_chain(table, chain),
        NodeOp::DeleteChain(chain) => table.delete_chain(&chain.to_string()),
        NodeOp::DeleteClients(family, number) => table.delete_set(&clients(family, number)),
        NodeOp::Add(first) => return put_elements(table, ElementChange::Add, first, ops, NodeOp::added),
        NodeOp::Delete(first) => {
            return put_elements(table, ElementChange::Delete, first, ops, NodeOp::deleted);
        }
    }
    1
}

/// Writes a message with the first elements of `ops` that belong to the set of `first`, as far as they fit.
fn put_elements(
    table: &mut TableWriter<'_>,
    change: ElementChange,
    first: NodeElement,
    ops: &[NodeOp],
    element_of: fn(NodeOp) -> Option<NodeElement>,
) -> usize {
    let set = first.set();
    let elements = ops.iter().map_while(|op| element_of(*op)).take_while(|element| element.set() == set);
    table.put_elements(change, set, elements, put_node_element)
}
