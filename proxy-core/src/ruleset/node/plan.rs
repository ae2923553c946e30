//! `NodePlan`: the ordered operations that turn the node's applied table into the desired one, in one transaction.
//!
//! The order is what the kernel requires: chains and maps are added before the elements and rules that reference them,
//! an element is deleted before another with the same key is added, and chains and maps are deleted last.

use std::collections::BTreeSet;

use super::chain::{BackendSelection, NodeChain, OwnChain};
use super::element::NodeElement;
use super::settings::NodeSettings;
use super::target::TargetNumber;
use super::{NodeChanges, NodeRuleset};
use crate::model::address::Family;

/// An operation of a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum NodeOp {
    /// Deletes the table with its content.
    DeleteTable,
    /// Creates the table: its maps, its sets and the constant chains.
    AddTable(NodeSettings),
    /// Creates the map of a target's clients.
    AddClients(Family, TargetNumber),
    /// Creates a chain with its rules.
    AddChain(NodeChain),
    /// Deletes an element.
    Delete(NodeElement),
    /// Adds an element.
    Add(NodeElement),
    /// Deletes a chain.
    DeleteChain(NodeChain),
    /// Deletes the map of a target's clients.
    DeleteClients(Family, TargetNumber),
}

impl NodeOp {
    /// Returns the element that it adds.
    #[must_use]
    pub fn added(self) -> Option<NodeElement> {
        if let Self::Add(element) = self { Some(element) } else { None }
    }

    /// Returns the element that it deletes.
    #[must_use]
    pub fn deleted(self) -> Option<NodeElement> {
        if let Self::Delete(element) = self { Some(element) } else { None }
    }
}

/// The ordered operations of one transaction.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodePlan {
    ops: Vec<NodeOp>,
}

impl NodePlan {
    /// Returns the operations in order.
    #[must_use]
    pub fn ops(&self) -> &[NodeOp] {
        &self.ops
    }

    /// Whether there are no operations.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }
}

/// Computes the plan that turns `applied` into `desired`, which differ only in these changes.
#[must_use]
pub fn node_plan(applied: &NodeRuleset, desired: &NodeRuleset, changes: &NodeChanges) -> NodePlan {
    let Some(settings) = desired.settings() else {
        return NodePlan { ops: applied.settings().map(|_| NodeOp::DeleteTable).into_iter().collect() };
    };
    if applied.settings() == Some(settings) {
        let mut old = applied.elements_of(changes);
        let mut new = desired.elements_of(changes);
        old.sort_unstable();
        new.sort_unstable();
        return NodePlan { ops: difference(&old, &new) };
    }
    let mut ops = Vec::with_capacity(desired.size() + 2);
    if applied.settings().is_some() {
        ops.push(NodeOp::DeleteTable);
    }
    ops.push(NodeOp::AddTable(settings));
    let chains: Vec<NodeChain> = desired.chains.keys().copied().collect();
    ops.extend(
        clients(chains.iter().copied())
            .into_iter()
            .map(|(family, number)| NodeOp::AddClients(family, number)),
    );
    ops.extend(chains.into_iter().map(NodeOp::AddChain));
    desired.for_each_element(|element| ops.push(NodeOp::Add(element)));
    NodePlan { ops }
}

/// Computes the operations between two sorted lists of elements.
fn difference(old: &[NodeElement], new: &[NodeElement]) -> Vec<NodeOp> {
    let missing_in = |all: &[NodeElement], elements: &[NodeElement]| -> Vec<NodeElement> {
        elements.iter().filter(|element| all.binary_search(element).is_err()).copied().collect()
    };
    let (deleted, added) = (missing_in(new, old), missing_in(old, new));
    let chains = |elements: &[NodeElement]| -> Vec<NodeChain> {
        elements.iter().filter_map(NodeElement::chain).collect()
    };
    let (old_clients, new_clients) = (clients(chains(old)), clients(chains(new)));
    let clients_op = |op: fn(Family, TargetNumber) -> NodeOp| {
        move |(family, number): &(Family, TargetNumber)| op(*family, *number)
    };
    let mut ops: Vec<NodeOp> = Vec::with_capacity(deleted.len() + added.len());
    ops.extend(new_clients.difference(&old_clients).map(clients_op(NodeOp::AddClients)));
    ops.extend(chains(&added).into_iter().map(NodeOp::AddChain));
    ops.extend(deleted.iter().copied().map(NodeOp::Delete));
    ops.extend(added.iter().copied().map(NodeOp::Add));
    ops.extend(chains(&deleted).into_iter().map(NodeOp::DeleteChain));
    ops.extend(old_clients.difference(&new_clients).map(clients_op(NodeOp::DeleteClients)));
    ops
}

/// Returns the targets that have a map of clients.
fn clients(chains: impl IntoIterator<Item = NodeChain>) -> BTreeSet<(Family, TargetNumber)> {
    let own = chains.into_iter().filter_map(|chain| match chain {
        NodeChain::Own(OwnChain { number, family, selection: BackendSelection::Affinity(_), .. }) => {
            Some((family, number))
        }
        _ => None,
    });
    own.collect()
}
