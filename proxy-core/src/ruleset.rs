//! `Ruleset`: the desired nftables table of one network namespace.
//!
//! The layout is flat: the number of chains does not depend on the number of services, and a change affects only
//! elements of maps. Each family has
//!
//! * `portals`: address . protocol . port -> verdict, as a number (`DispatchKey::code`),
//! * `backends`: address . protocol . port . slot -> backend; with session affinity, the backend's id instead of the
//!   slot,
//! * `ids`: address . protocol . port . slot -> the backend's id, with session affinity: entries of clients contain the
//!   id, which does not change if the slot does,
//! * `addresses`: the cluster addresses, whose other ports are rejected,
//! * `sources`: address . protocol . port . source range, for portals with source ranges,
//! * `ranges`: the service ranges, whose unallocated addresses are dropped,
//!
//! and both share one small verdict map, `picks`: number -> chain. Large maps contain no verdicts, because the kernel
//! validates a verdict map at each commit. So there is one look-up, whatever the number of different backend counts
//! (measured against one rule per count: docs/benchmarks.md).
//!
//! An on-demand table (`on_demand`) contains few portals; other traffic to a service range is relayed. `render::nft`
//! and `netns-nft` write the elements, as text and as netlink messages.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;
use rpds::{RedBlackTreeMapSync as Map, RedBlackTreeSetSync as Set};
use serde::Serialize;

use crate::model::address::Family;
use crate::model::digest::digest;
use crate::model::service::AFFINITY_S_MAX;
use crate::routing::portal::{ChangedPortals, Portal, PortalKey, Portals, TableKind, Verdict};
use crate::ruleset::dispatch::{Action, DispatchKey, ROUND_ROBIN_CHAINS_MAX};

pub use rule::Rule;
use rule::{chain_size, relayed, rule};

/// The settings of a table, in addition to portals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Settings {
    /// The priority of the NAT chain; -99 is after the rules of a service-mesh sidecar.
    pub nat_priority: i32,
    /// The relay's port in the network namespace. 0 means that it does not listen, and its connections are rejected.
    pub relay_port: u16,
    /// Whether the table contains only active and pinned portals. Other traffic to a service range is redirected to the
    /// relay, and the elements of portals have counters.
    pub on_demand: bool,
    /// Whether the elements of portals and backends have counters.
    pub counters: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self { nat_priority: -99, relay_port: 15_999, on_demand: false, counters: false }
    }
}

impl Settings {
    /// Whether the relay listens in the network namespace.
    #[must_use]
    pub const fn has_relay(self) -> bool {
        self.relay_port != 0
    }
}

/// An element of a map or set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Element {
    /// `portals`: the verdict of a portal.
    Portal(PortalKey, DispatchKey),
    /// `backends`: the backend in a slot of a portal, or with an id if the portal has session affinity.
    Backend(PortalKey, u32, SocketAddr),
    /// `ids`: the id of the backend in a slot of a portal with session affinity.
    Id(PortalKey, u16, u32),
    /// `addresses`: a cluster address.
    Address(IpAddr),
    /// `sources`: a source range with access to a portal.
    Source(PortalKey, IpNet),
    /// `ranges`: a service range.
    Range(IpNet),
}

impl Element {
    /// Returns the name of its map or set.
    #[must_use]
    pub const fn set(&self) -> &'static str {
        match (self, self.family()) {
            (Self::Portal(..), Family::V4) => "portals4",
            (Self::Portal(..), Family::V6) => "portals6",
            (Self::Backend(..), Family::V4) => "backends4",
            (Self::Backend(..), Family::V6) => "backends6",
            (Self::Id(..), Family::V4) => "ids4",
            (Self::Id(..), Family::V6) => "ids6",
            (Self::Address(_), Family::V4) => "addresses4",
            (Self::Address(_), Family::V6) => "addresses6",
            (Self::Source(..), Family::V4) => "sources4",
            (Self::Source(..), Family::V6) => "sources6",
            (Self::Range(_), Family::V4) => "ranges4",
            (Self::Range(_), Family::V6) => "ranges6",
        }
    }

    /// Returns the family of its map or set.
    #[must_use]
    pub const fn family(&self) -> Family {
        match self {
            Self::Portal(key, _) | Self::Backend(key, ..) | Self::Id(key, ..) | Self::Source(key, _) => {
                Family::of(key.address)
            }
            Self::Address(address) => Family::of(*address),
            Self::Range(net) => Family::of_net(net),
        }
    }
}

/// The table of one network namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ruleset {
    /// `None` if there is no table.
    settings: Option<Settings>,
    rules: Map<PortalKey, Rule>,
    ranges: Arc<[IpNet]>,
    /// The dispatch keys, each of which has a chain, and the number of portals that use each.
    dispatch_keys: BTreeMap<DispatchKey, usize>,
    /// The active addresses of an on-demand table.
    active: Set<IpAddr>,
    /// The number of elements, and for chains of single portals the number with the same memory.
    size: usize,
}

/// The form in which a table contains a portal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// With its backends.
    Whole,
    /// As one element that redirects to the relay.
    Relayed,
}

impl Ruleset {
    /// Returns the state of a new network namespace: no table.
    #[must_use]
    pub fn empty() -> Self {
        Self::default()
    }

    /// Returns the table for these portals; on demand, with the pinned ones only.
    #[must_use]
    pub fn new(portals: &Portals, settings: Settings) -> Self {
        let ranges = portals.service_ranges().into();
        let mut ruleset = Self { settings: Some(settings), ranges, ..Self::default() };
        for portal in portals.iter() {
            if let Some(form) = ruleset.form(portals, portal) {
                ruleset.put(portal, form);
            }
        }
        ruleset
    }

    /// Returns the table for a network namespace in which the relay does not listen.
    #[must_use]
    pub fn without_relay(&self) -> Self {
        let settings = self.settings.map(|settings| Settings { relay_port: 0, ..settings });
        Self { settings, ..self.clone() }
    }

    /// Updates the rules of changed portals, and returns the portals whose rules changed. Remaining backends keep their
    /// slots, so one changed endpoint is one or two changed elements.
    pub fn refresh(&mut self, portals: &Portals, changed: &ChangedPortals) -> ChangedPortals {
        let are_ranges_new = *self.ranges != *portals.service_ranges();
        if are_ranges_new {
            self.ranges = portals.service_ranges().into();
        }
        if self.is_on_demand() {
            return self.refresh_on_demand(portals, changed, are_ranges_new);
        }
        changed.iter().copied().filter(|key| self.update(portals, *key)).collect()
    }

    /// Updates the rule of a portal. Returns whether it changed.
    fn update(&mut self, portals: &Portals, key: PortalKey) -> bool {
        let portal = portals.get(key);
        match portal.and_then(|portal| Some((portal, self.form(portals, portal)?))) {
            Some((portal, form)) => self.put(portal, form),
            None => self.remove(key),
        }
    }

    /// Returns the form of a portal; `None` if the table does not contain it.
    fn form(&self, portals: &Portals, portal: &Portal) -> Option<Form> {
        if self.is_on_demand() {
            return self.form_on_demand(portals, portal);
        }
        portals.fits_share(TableKind::Full, portal).then_some(Form::Whole)
    }

    /// Returns the settings; `None` if there is no table.
    #[must_use]
    pub fn settings(&self) -> Option<Settings> {
        self.settings
    }

    /// Returns the number of elements; the chain of a single portal counts as many as take the same memory.
    #[must_use]
    pub fn size(&self) -> usize {
        self.size
    }

    /// Returns the number of portals.
    #[must_use]
    pub fn portal_count(&self) -> usize {
        self.rules.size()
    }

    /// Returns the rules of all portals in the order of their keys.
    pub fn rules(&self) -> impl Iterator<Item = (&PortalKey, &Rule)> {
        self.rules.iter()
    }

    /// Returns the rule of a portal.
    #[must_use]
    pub fn rule(&self, key: PortalKey) -> Option<&Rule> {
        self.rules.get(&key)
    }

    /// Returns the cluster addresses in order.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        let mut previous = None;
        let marked = self.rules.iter().filter(|(_, rule)| rule.is_cluster_ip).map(|(key, _)| key.address);
        marked.filter(move |address| previous.replace(*address) != Some(*address))
    }

    /// Whether this is a cluster address, whose ports without a portal are rejected.
    #[must_use]
    pub fn has_address(&self, address: IpAddr) -> bool {
        self.rules_at(address).any(|(_, rule)| rule.is_cluster_ip)
    }

    fn rules_at(&self, address: IpAddr) -> impl Iterator<Item = (&PortalKey, &Rule)> {
        self.rules.range(PortalKey::first(address)..).take_while(move |(key, _)| key.address == address)
    }

    /// Returns the service ranges.
    #[must_use]
    pub fn ranges(&self) -> &[IpNet] {
        &self.ranges
    }

    /// Returns the dispatch keys, each of which has a chain.
    pub fn dispatch_keys(&self) -> impl Iterator<Item = DispatchKey> {
        self.dispatch_keys.keys().copied()
    }

    /// Returns the elements, one map or set after another.
    pub fn elements(&self) -> impl Iterator<Item = Element> {
        let portals = self.rules.iter().map(|(key, rule)| Element::Portal(*key, rule.dispatch));
        let backends = self.rules.iter().flat_map(|(key, rule)| rule.backend_elements(*key));
        let ids = self.rules.iter().flat_map(|(key, rule)| rule.id_elements(*key));
        let addresses = self.addresses().map(Element::Address);
        let sources = self.rules.iter().flat_map(|(key, rule)| rule.source_elements(*key));
        let ranges = self.ranges.iter().copied().map(Element::Range);
        portals.chain(backends).chain(ids).chain(addresses).chain(sources).chain(ranges)
    }

    fn put(&mut self, portal: &Portal, form: Form) -> bool {
        let old = self.rules.get(&portal.key);
        let action = self.action(portal, old);
        let is_forwarded = matches!(action, Action::Forward { .. } | Action::RoundRobin { .. });
        let new = match form {
            Form::Relayed if is_forwarded => relayed(portal),
            Form::Relayed | Form::Whole => rule(portal, old, action),
        };
        if old == Some(&new) {
            return false;
        }
        let had_address = old.is_some_and(|old| old.is_cluster_ip);
        let is_new_address = new.is_cluster_ip && !had_address && !self.has_address(portal.key.address);
        self.size = self.size + new.size() + usize::from(is_new_address) - old.map_or(0, Rule::size);
        let (old, dispatch, is_cluster_ip) = (old.map(|old| old.dispatch), new.dispatch, new.is_cluster_ip);
        let users = self.dispatch_keys.entry(dispatch).or_default();
        *users += 1;
        if *users == 1 {
            self.size += chain_size(dispatch);
        }
        self.rules.insert_mut(portal.key, new);
        self.release(old);
        if had_address && !is_cluster_ip {
            self.size -= usize::from(!self.has_address(portal.key.address));
        }
        true
    }

    fn action(&self, portal: &Portal, old: Option<&Rule>) -> Action {
        match portal.verdict {
            _ if portal.is_relayed() => Action::Relay,
            Verdict::Reject => Action::Reject,
            Verdict::Drop => Action::Drop,
            Verdict::Forward => match u16::try_from(portal.backends.len()) {
                Ok(count @ 1..) => {
                    let number = if portal.is_round_robin() && count > 1 {
                        self.round_robin_chain(portal.key, old)
                    } else {
                        None
                    };
                    let affinity_s = portal.affinity_s.map_or(0, |affinity_s| affinity_s.min(AFFINITY_S_MAX));
                    number.map_or(Action::Forward { count, affinity_s }, |number| Action::RoundRobin {
                        number,
                        count,
                    })
                }
                _ => Action::Reject,
            },
        }
    }

    /// Returns the number of the portal's round-robin chain: its present one, or the first free one after the portal's
    /// digest. If none is free, the portal is balanced at random.
    fn round_robin_chain(&self, key: PortalKey, old: Option<&Rule>) -> Option<u16> {
        if let Some(Action::RoundRobin { number, .. }) = old.map(|old| old.dispatch.action) {
            return Some(number);
        }
        let first = u16::try_from(digest(key) % u64::from(ROUND_ROBIN_CHAINS_MAX)).ok()?;
        (0..ROUND_ROBIN_CHAINS_MAX)
            .map(|step| (first + step) % ROUND_ROBIN_CHAINS_MAX)
            .find(|number| !self.has_round_robin_chain(*number))
    }

    fn has_round_robin_chain(&self, number: u16) -> bool {
        let dispatch = |count, guarded| DispatchKey { action: Action::RoundRobin { number, count }, guarded };
        self.dispatch_keys.range(dispatch(0, false)..=dispatch(u16::MAX, true)).next().is_some()
    }

    fn remove(&mut self, key: PortalKey) -> bool {
        let Some(old) = self.rules.get(&key) else { return false };
        let (dispatch, had_address) = (old.dispatch, old.is_cluster_ip);
        self.size -= old.size();
        self.release(Some(dispatch));
        self.rules.remove_mut(&key);
        self.size -= usize::from(had_address && !self.has_address(key.address));
        true
    }

    fn release(&mut self, dispatch: Option<DispatchKey>) {
        let Some(dispatch) = dispatch else { return };
        if let Some(users) = self.dispatch_keys.get_mut(&dispatch) {
            *users -= 1;
            if *users == 0 {
                self.dispatch_keys.remove(&dispatch);
                self.size -= chain_size(dispatch);
            }
        }
    }
}

pub mod dispatch;
pub mod kernel_model;
pub mod node;
mod on_demand;
pub mod plan;
mod rule;
#[cfg(test)]
mod tests;
