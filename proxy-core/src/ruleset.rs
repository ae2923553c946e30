//! `Ruleset`: the table of one network namespace, as a value.
//!
//! The layout is flat: whatever the number of services, there are a handful of chains, and a change
//! touches map elements only. Each family has
//!
//! * `portals`: address . protocol . port -> what to do, as a number (`DispatchKey::code`),
//! * `backends`: address . protocol . port . slot -> backend; at portals with sticky clients, the backend's
//!   number instead of the slot,
//! * `ids`: address . protocol . port . slot -> the number of the backend, where clients are sticky: a client
//!   holds the number, which stays the backend's own when slots move,
//! * `addresses`: the cluster addresses, whose other ports are refused,
//! * `sources`: address . protocol . port . source range, for portals that not everyone may use,
//! * `ranges`: the service ranges, whose free addresses lead nowhere,
//!
//! and both share one small verdict map, `picks`: number -> chain. Big maps hold no verdicts: the kernel
//! walks a map of verdicts again at each commit. One look-up therefore decides, however many different
//! backend counts there are (measured against one rule per count: docs/benchmarks.md).
//!
//! A table on demand (`on_demand`) holds a few portals only; what else comes to a service range is relayed.
//!
//! What must not go in here: how elements are written, in text (`nft`) or in netlink bytes.

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

/// What a ruleset depends on besides portals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Settings {
    /// The priority of the chain that translates addresses. -99 stays behind a mesh sidecar's rules.
    pub nat_priority: i32,
    /// The port on which the relay listens inside the network namespace; 0: it does not listen, and connections that
    /// it would serve are refused.
    pub relay_port: u16,
    /// Whether the table holds only those portals that are used or that nobody else could serve: what else
    /// comes to a service range is handed to the relay, and the kernel counts what comes to each portal.
    pub on_demand: bool,
    /// Whether the kernel counts what comes to each portal and what goes to each backend.
    pub counters: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self { nat_priority: -99, relay_port: 15_999, on_demand: false, counters: false }
    }
}

impl Settings {
    /// Whether the relay listens inside the network namespace.
    #[must_use]
    pub const fn has_relay(self) -> bool {
        self.relay_port != 0
    }
}

/// One element of one of the maps and sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Element {
    /// `portals`: what to do with a portal.
    Portal(PortalKey, DispatchKey),
    /// `backends`: the backend in a slot of a portal, or with this number where clients are sticky.
    Backend(PortalKey, u32, SocketAddr),
    /// `ids`: the number of the backend in a slot of a portal whose clients are sticky.
    Id(PortalKey, u16, u32),
    /// `addresses`: a cluster address.
    Address(IpAddr),
    /// `sources`: a range that may use a portal.
    Source(PortalKey, IpNet),
    /// `ranges`: a service range.
    Range(IpNet),
}

impl Element {
    /// The name of the map or set it is in.
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

    /// The family whose map or set it is in.
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
    /// None: there is no table at all.
    settings: Option<Settings>,
    rules: Map<PortalKey, Rule>,
    ranges: Arc<[IpNet]>,
    /// The picks in use, and by how many portals: each has a chain.
    dispatch_keys: BTreeMap<DispatchKey, usize>,
    /// The addresses whose portals are here because they are used; empty unless the table is on demand.
    active: Set<IpAddr>,
    /// What it holds: elements, and chains as so many elements as they have memory.
    size: usize,
}

/// How much of a portal a table holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// All of it.
    Whole,
    /// One element that leads to the relay instead of to backends.
    Relayed,
}

impl Ruleset {
    /// No table: what a new network namespace holds.
    #[must_use]
    pub fn empty() -> Self {
        Self::default()
    }

    /// The table for these portals; on demand, of those that are always there.
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

    /// The same table for a network namespace in which the relay does not listen.
    #[must_use]
    pub fn without_relay(&self) -> Self {
        let settings = self.settings.map(|settings| Settings { relay_port: 0, ..settings });
        Self { settings, ..self.clone() }
    }

    /// Follows the portals by the keys that were touched, and says whose rules are others now. Slots that
    /// keep their backend keep it, so that one changed endpoint is one or two changed elements.
    pub fn refresh(&mut self, portals: &Portals, touched: &ChangedPortals) -> ChangedPortals {
        let are_ranges_new = *self.ranges != *portals.service_ranges();
        if are_ranges_new {
            self.ranges = portals.service_ranges().into();
        }
        if self.is_on_demand() {
            return self.refresh_on_demand(portals, touched, are_ranges_new);
        }
        touched.iter().copied().filter(|key| self.follow(portals, *key)).collect()
    }

    /// Holds what is to be held of the portal at a key; true where the rule is another one now.
    fn follow(&mut self, portals: &Portals, key: PortalKey) -> bool {
        let portal = portals.get(key);
        match portal.and_then(|portal| Some((portal, self.form(portals, portal)?))) {
            Some((portal, form)) => self.put(portal, form),
            None => self.remove(key),
        }
    }

    /// How much of a portal in force is to be held.
    fn form(&self, portals: &Portals, portal: &Portal) -> Option<Form> {
        if self.is_on_demand() {
            return self.form_on_demand(portals, portal);
        }
        portals.fits_share(TableKind::Full, portal).then_some(Form::Whole)
    }

    /// The settings; none where there is no table.
    #[must_use]
    pub fn settings(&self) -> Option<Settings> {
        self.settings
    }

    /// How many elements it has; a chain that is one portal's own counts as so many as it has memory.
    #[must_use]
    pub fn size(&self) -> usize {
        self.size
    }

    /// How many portals it holds.
    #[must_use]
    pub fn portal_count(&self) -> usize {
        self.rules.size()
    }

    /// All portals and their rules, in the order of their keys.
    pub fn rules(&self) -> impl Iterator<Item = (&PortalKey, &Rule)> {
        self.rules.iter()
    }

    /// What the table holds for a portal.
    #[must_use]
    pub fn rule(&self, key: PortalKey) -> Option<&Rule> {
        self.rules.get(&key)
    }

    /// The cluster addresses, in order.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        let mut previous = None;
        let marked = self.rules.iter().filter(|(_, rule)| rule.is_cluster_ip).map(|(key, _)| key.address);
        marked.filter(move |address| previous.replace(*address) != Some(*address))
    }

    /// Whether this is a cluster address: ports of it that are no portal are refused, not passed on.
    #[must_use]
    pub fn has_address(&self, address: IpAddr) -> bool {
        self.rules_at(address).any(|(_, rule)| rule.is_cluster_ip)
    }

    fn rules_at(&self, address: IpAddr) -> impl Iterator<Item = (&PortalKey, &Rule)> {
        self.rules.range(PortalKey::first(address)..).take_while(move |(key, _)| key.address == address)
    }

    /// The service ranges.
    #[must_use]
    pub fn ranges(&self) -> &[IpNet] {
        &self.ranges
    }

    /// The picks in use: each has a chain.
    pub fn dispatch_keys(&self) -> impl Iterator<Item = DispatchKey> {
        self.dispatch_keys.keys().copied()
    }

    /// All elements of all maps and sets, one set after the other.
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
                    let number =
                        if portal.is_round_robin() && count > 1 { self.turn(portal.key, old) } else { None };
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

    /// The number of the chain that gives connections to the portal's backends in turn: the one it has, or
    /// the first free one from where the portal's digest points. None is left: connections are balanced at
    /// random.
    fn turn(&self, key: PortalKey, old: Option<&Rule>) -> Option<u16> {
        if let Some(Action::RoundRobin { number, .. }) = old.map(|old| old.dispatch.action) {
            return Some(number);
        }
        let first = u16::try_from(digest(key) % u64::from(ROUND_ROBIN_CHAINS_MAX)).ok()?;
        (0..ROUND_ROBIN_CHAINS_MAX)
            .map(|step| (first + step) % ROUND_ROBIN_CHAINS_MAX)
            .find(|number| !self.has_turn(*number))
    }

    fn has_turn(&self, number: u16) -> bool {
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
mod on_demand;
pub mod plan;
mod rule;
#[cfg(test)]
mod tests;
