//! `Plan`: the ordered operations that turn the applied ruleset into the desired one.
//!
//! A plan is one transaction. There is one code path: a new network namespace is `plan(&Ruleset::empty(), &desired)`.
//! If the changed portals are known, `plan_changed` compares only those, with the same result.
//!
//! The order is what the kernel requires in a transaction: a chain is added before the elements that reference it, an
//! element is deleted before another with the same key is added, and a chain is deleted last. A plan deletes nothing
//! that does not exist, because that would abort the transaction.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::routing::portal::{ChangedPortals, PortalKey};
use crate::ruleset::dispatch::DispatchKey;
use crate::ruleset::{Element, Ruleset, Settings};

/// An operation of a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Op {
    /// Deletes the table with its content.
    DeleteTable,
    /// Creates the table: its maps, its sets and the constant chains.
    AddTable(Settings),
    /// Creates the chain of a dispatch key, and its element in `picks`.
    AddDispatch(DispatchKey),
    /// Deletes an element.
    Delete(Element),
    /// Adds an element.
    Add(Element),
    /// Deletes the element of a dispatch key from `picks`, and its chain.
    DeleteDispatch(DispatchKey),
}

impl Op {
    /// Returns the element that it adds.
    #[must_use]
    pub fn added(self) -> Option<Element> {
        if let Self::Add(element) = self { Some(element) } else { None }
    }

    /// Returns the element that it deletes.
    #[must_use]
    pub fn deleted(self) -> Option<Element> {
        if let Self::Delete(element) = self { Some(element) } else { None }
    }
}

/// The ordered operations of one transaction.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    ops: Vec<Op>,
}

impl Plan {
    /// Returns the operations in order.
    #[must_use]
    pub fn ops(&self) -> &[Op] {
        &self.ops
    }

    /// Whether there are no operations.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }
}

/// Computes the plan that turns `applied` into `desired`.
#[must_use]
pub fn plan(applied: &Ruleset, desired: &Ruleset) -> Plan {
    let changed = applied.rules().chain(desired.rules()).map(|(key, _)| *key).collect();
    plan_changed(applied, desired, &changed)
}

/// Computes the plan that turns `applied` into `desired`, which differ only in the changed portals.
#[must_use]
pub fn plan_changed(applied: &Ruleset, desired: &Ruleset, changed: &ChangedPortals) -> Plan {
    let Some(settings) = desired.settings() else {
        return Plan { ops: applied.settings().map(|_| Op::DeleteTable).into_iter().collect() };
    };
    if applied.settings() == Some(settings) {
        return Plan { ops: difference(applied, desired, changed) };
    }
    let mut ops = Vec::new();
    if applied.settings().is_some() {
        ops.push(Op::DeleteTable);
    }
    ops.push(Op::AddTable(settings));
    ops.extend(desired.dispatch_keys().map(Op::AddDispatch));
    ops.extend(desired.elements().map(Op::Add));
    Plan { ops }
}

/// Computes the operations between two tables with the same settings, in the order of the kernel's dependencies.
fn difference(applied: &Ruleset, desired: &Ruleset, changed: &ChangedPortals) -> Vec<Op> {
    let old_keys: BTreeSet<DispatchKey> = applied.dispatch_keys().collect();
    let new_keys: BTreeSet<DispatchKey> = desired.dispatch_keys().collect();
    let (deletes, adds) = element_changes(applied, desired, changed);
    let mut ops: Vec<Op> = new_keys.difference(&old_keys).copied().map(Op::AddDispatch).collect();
    ops.extend(deletes.into_iter().map(Op::Delete));
    ops.extend(adds.into_iter().map(Op::Add));
    ops.extend(old_keys.difference(&new_keys).copied().map(Op::DeleteDispatch));
    ops
}

/// Returns the elements to delete and to add. Elements of one set follow each other, so that they are in one message.
fn element_changes(
    applied: &Ruleset,
    desired: &Ruleset,
    changed: &ChangedPortals,
) -> (Vec<Element>, Vec<Element>) {
    let keys: Vec<&PortalKey> =
        changed.iter().filter(|key| applied.rule(**key) != desired.rule(**key)).collect();
    let addresses: BTreeSet<IpAddr> = keys.iter().map(|key| key.address).collect();
    let have_ranges_changed = applied.ranges() != desired.ranges();
    let elements = |ruleset: &Ruleset| {
        let mut elements: Vec<Element> = Vec::new();
        for key in &keys {
            elements.extend(ruleset.rule(**key).into_iter().flat_map(|rule| rule.elements(**key)));
        }
        let cluster_ips = addresses.iter().filter(|address| ruleset.has_address(**address));
        elements.extend(cluster_ips.copied().map(Element::Address));
        if have_ranges_changed {
            elements.extend(ruleset.ranges().iter().copied().map(Element::Range));
        }
        elements.sort_unstable();
        elements
    };
    let (old, new) = (elements(applied), elements(desired));
    let missing_in = |all: &[Element], elements: &[Element]| {
        elements.iter().filter(|element| all.binary_search(element).is_err()).copied().collect()
    };
    (missing_in(&new, &old), missing_in(&old, &new))
}

#[cfg(test)]
mod tests;
