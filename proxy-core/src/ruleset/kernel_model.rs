//! `Table`: what stands in the kernel, element by element.
//!
//! A `Ruleset` groups what belongs to a portal; a `Table` is flat, as the kernel is, and may hold
//! anything that a kernel may hold. `run` does to it what the kernel does with a plan, and refuses what
//! the kernel refuses: it is the yardstick for plans, and the form in which a network namespace is read
//! back.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use thiserror::Error;

use crate::model::guest::GuestInterfaces;
use crate::routing::portal::PortalKey;
use crate::ruleset::dispatch::DispatchKey;
use crate::ruleset::plan::{Op, Plan};
use crate::ruleset::{Element, Ruleset, Settings};

/// What stands in the kernel.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table {
    /// The settings; none where there is no table.
    pub settings: Option<Settings>,
    /// The picks that have a chain.
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
    /// The set `guests`, which is a pod's own and part of no ruleset.
    pub guests: GuestInterfaces,
}

/// Why a plan does not fit a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("run operation {index} of a plan: {op:?} does not fit what is there")]
pub struct ApplyError {
    /// Which operation.
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

/// Runs a plan as the kernel would: what is not there cannot be removed, what is there cannot be added,
/// and one misfit undoes all.
///
/// # Errors
/// Where an operation does not fit.
pub fn apply(plan: &Plan, applied: &Table) -> Result<Table, ApplyError> {
    let mut table = applied.clone();
    for (index, op) in plan.ops().iter().enumerate() {
        if !table.step(*op) {
            return Err(ApplyError { index, op: *op });
        }
    }
    Ok(table)
}

impl Table {
    fn step(&mut self, op: Op) -> bool {
        match op {
            Op::AddTable(settings) => self.settings.replace(settings).is_none(),
            _ if self.settings.is_none() => false,
            Op::DeleteTable => {
                *self = Self::default();
                true
            }
            Op::AddDispatch(dispatch) => self.dispatch_keys.insert(dispatch),
            Op::DeleteDispatch(dispatch) => {
                !self.portals.values().any(|used| *used == dispatch) && self.dispatch_keys.remove(&dispatch)
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
