//! `Table`: a model of the table in the kernel, element by element.
//!
//! A `Ruleset` groups elements by portal. A `Table` is flat, as in the kernel, and can represent tables that no ruleset
//! produces. `apply` does what the kernel does with a plan, and fails if the kernel would: tests check plans with it.
//! `netns-nft` reads a network namespace back as a `Table`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use thiserror::Error;

use crate::model::guest::GuestInterfaces;
use crate::routing::portal::PortalKey;
use crate::ruleset::dispatch::DispatchKey;
use crate::ruleset::plan::{Op, Plan};
use crate::ruleset::{Element, Ruleset, Settings};

/// The content of a table in the kernel.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table {
    /// The settings; `None` if there is no table.
    pub settings: Option<Settings>,
    /// The map `picks`: the dispatch keys that have a chain.
    pub dispatch_keys: BTreeSet<DispatchKey>,
    /// The map `portals`.
    pub portals: BTreeMap<PortalKey, DispatchKey>,
    /// The map `backends`.
    pub backends: BTreeMap<(PortalKey, u32), SocketAddr>,
    /// The map `ids`.
    pub ids: BTreeMap<(PortalKey, u16), u32>,
    /// The set `addresses`.
    pub addresses: BTreeSet<IpAddr>,
    /// The set `sources`.
    pub sources: BTreeSet<(PortalKey, IpNet)>,
    /// The set `ranges`.
    pub ranges: BTreeSet<IpNet>,
    /// The set `guests`, which depends on the pod and is not part of a ruleset.
    pub guests: GuestInterfaces,
}

/// The operation of a plan that cannot be applied to a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("failed to apply operation {index} of a plan: {op:?} does not match the table")]
pub struct ApplyError {
    /// The index of the operation.
    pub index: usize,
    /// The operation.
    pub op: Op,
}

impl From<&Ruleset> for Table {
    fn from(ruleset: &Ruleset) -> Self {
        let mut table = Self {
            settings: ruleset.settings(),
            dispatch_keys: ruleset.dispatch_keys().collect(),
            ..Self::default()
        };
        for element in ruleset.elements() {
            table.add(element);
        }
        table
    }
}

/// Applies a plan as the kernel does: an element that does not exist cannot be deleted, an element that exists cannot
/// be added, and a failure has no effect.
///
/// # Errors
/// If an operation fails.
pub fn apply(plan: &Plan, applied: &Table) -> Result<Table, ApplyError> {
    let mut table = applied.clone();
    for (index, op) in plan.ops().iter().enumerate() {
        if !table.apply_op(*op) {
            return Err(ApplyError { index, op: *op });
        }
    }
    Ok(table)
}

impl Table {
    fn apply_op(&mut self, op: Op) -> bool {
        match op {
            Op::AddTable(settings) => self.settings.replace(settings).is_none(),
            _ if self.settings.is_none() => false,
            Op::DeleteTable => {
                *self = Self::default();
                true
            }
            Op::AddDispatch(dispatch) => self.dispatch_keys.insert(dispatch),
            Op::DeleteDispatch(dispatch) => {
                !self.portals.values().any(|referenced| *referenced == dispatch)
                    && self.dispatch_keys.remove(&dispatch)
            }
            Op::Add(Element::Portal(_, dispatch)) if !self.dispatch_keys.contains(&dispatch) => false,
            Op::Add(element) => self.add(element),
            Op::Delete(element) => self.delete(element),
        }
    }

    fn add(&mut self, element: Element) -> bool {
        match element {
            Element::Portal(key, dispatch) => self.portals.insert(key, dispatch).is_none(),
            Element::Backend(key, number, backend) => self.backends.insert((key, number), backend).is_none(),
            Element::Id(key, slot, id) => self.ids.insert((key, slot), id).is_none(),
            Element::Address(address) => self.addresses.insert(address),
            Element::Source(key, net) => self.sources.insert((key, net)),
            Element::Range(net) => self.ranges.insert(net),
        }
    }

    fn delete(&mut self, element: Element) -> bool {
        match element {
            Element::Portal(key, dispatch) => self.portals.remove(&key) == Some(dispatch),
            Element::Backend(key, number, backend) => self.backends.remove(&(key, number)) == Some(backend),
            Element::Id(key, slot, id) => self.ids.remove(&(key, slot)) == Some(id),
            Element::Address(address) => self.addresses.remove(&address),
            Element::Source(key, net) => self.sources.remove(&(key, net)),
            Element::Range(net) => self.ranges.remove(&net),
        }
    }
}
