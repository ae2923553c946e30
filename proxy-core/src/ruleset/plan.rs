//! `Plan`: the ordered operations that turn the applied ruleset into the desired one.
//!
//! A plan is one transaction: all of it or nothing. There is one path: programming a new network
//! namespace is `plan(&Ruleset::empty(), &desired)`. Where it is known which portals were touched,
//! `plan_changed` looks at those alone and gives the same plan.
//!
//! The order is what the kernel needs within a transaction: a chain before the elements that lead to it,
//! an element's removal before a new one with the same key, a chain's removal last. Nothing is removed
//! that is not there, since that would abort the whole transaction.

use std::collections::BTreeSet;

use crate::routing::portal::ChangedPortals;
use crate::ruleset::dispatch::DispatchKey;
use crate::ruleset::{Element, Ruleset, Settings};

/// One operation of a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Op {
    /// Remove the table with all that is in it.
    DeleteTable,
    /// Make the table: its maps, its sets and the chains that are always there.
    AddTable(Settings),
    /// Make the chain of a pick, and its element in `picks`.
    AddDispatch(DispatchKey),
    /// Remove an element.
    Delete(Element),
    /// Add an element.
    Add(Element),
    /// Remove the element of a pick from `picks`, and its chain.
    DeleteDispatch(DispatchKey),
}

impl Op {
    /// The element that it adds, if it adds one.
    #[must_use]
    pub fn added(self) -> Option<Element> {
        if let Self::Add(element) = self { Some(element) } else { None }
    }

    /// The element that it removes, if it removes one.
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
    /// The operations, in their order.
    #[must_use]
    pub fn ops(&self) -> &[Op] {
        &self.ops
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }
}

/// The plan that turns `applied` into `desired`, whatever the two have in common.
#[must_use]
pub fn plan(applied: &Ruleset, desired: &Ruleset) -> Plan {
    let touched = applied.rules().chain(desired.rules()).map(|(key, _)| *key).collect();
    plan_changed(applied, desired, &touched)
}

/// The plan that turns `applied` into `desired`, which differ at the touched portals only.
#[must_use]
pub fn plan_changed(applied: &Ruleset, desired: &Ruleset, touched: &ChangedPortals) -> Plan {
    let Some(settings) = desired.settings() else {
        return Plan { ops: applied.settings().map(|_| Op::DeleteTable).into_iter().collect() };
    };
    if applied.settings() == Some(settings) {
        return Plan { ops: difference(applied, desired, touched) };
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

fn difference(applied: &Ruleset, desired: &Ruleset, touched: &ChangedPortals) -> Vec<Op> {
    let (mut deletes, mut adds) = (Vec::new(), Vec::new());
    let mut compare = |old: BTreeSet<Element>, new: BTreeSet<Element>| {
        deletes.extend(old.difference(&new).copied().map(Op::Delete));
        adds.extend(new.difference(&old).copied().map(Op::Add));
    };
    let changed = touched.iter().filter(|key| applied.rule(**key) != desired.rule(**key));
    let mut addresses = BTreeSet::new();
    for key in changed {
        let elements =
            |ruleset: &Ruleset| ruleset.rule(*key).into_iter().flat_map(|rule| rule.elements(*key)).collect();
        compare(elements(applied), elements(desired));
        addresses.insert(key.address);
    }
    let marked = |ruleset: &Ruleset| {
        addresses.iter().copied().filter(|ip| ruleset.has_address(*ip)).map(Element::Address).collect()
    };
    compare(marked(applied), marked(desired));
    if applied.ranges() != desired.ranges() {
        let ranges = |ruleset: &Ruleset| ruleset.ranges().iter().copied().map(Element::Range).collect();
        compare(ranges(applied), ranges(desired));
    }
    // Elements of one set stand together, so that they are written in one message.
    deletes.sort_unstable();
    adds.sort_unstable();
    let old_keys: BTreeSet<DispatchKey> = applied.dispatch_keys().collect();
    let new_keys: BTreeSet<DispatchKey> = desired.dispatch_keys().collect();
    let mut ops: Vec<Op> = new_keys.difference(&old_keys).copied().map(Op::AddDispatch).collect();
    ops.append(&mut deletes);
    ops.append(&mut adds);
    ops.extend(old_keys.difference(&new_keys).copied().map(Op::DeleteDispatch));
    ops
}

#[cfg(test)]
mod tests;
