//! `NodeRuleset`: the desired nftables table of the node's own network namespace.
//!
//! Connections arrive here from other hosts, from pods without portals of their own, and from processes of the node. As
//! in pods, the layout is flat: a change of a service affects elements of maps only. Each family has
//!
//! * `services`: address . protocol . port -> action; `nodeports`: protocol . port -> action,
//! * `short`, `shortports`: the same for frontends with `externalTrafficPolicy: Local`, for clients in the cluster,
//! * `backends`: target . slot -> backend; `ids`: target . slot -> id, with session affinity,
//! * `addresses`, `ranges`, `sources`, `node-addresses`, `pods`, `hairpin`, `local-endpoints`: plain sets,
//!
//! and both share `codes` and `picks` (number of backends -> chain), `own` (target -> its own chain) and `pod-interfaces`. Frontends
//! lead to targets (`target`), so a cluster address and a node port share their backends. A frontend is looked up once, by
//! address before node ports; flags in its value lead to the other look-ups that it needs.
//!
//! Slots and numbers depend on history. `NodeTable::to_ruleset` returns the table as it was read from the kernel: after
//! a restart it is refreshed with the current portals, so that nothing is written unless something changed.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use rpds::{RedBlackTreeMapSync as Map, RedBlackTreeSetSync as Set};

use crate::routing::portal::{ChangedPortals, Portal, PortalKey, PortalKind, Portals, TableKind};

pub use chain::{BackendSelection, NodeChain, OwnChain};
pub use changes::NodeChanges;
pub use element::NodeElement;
pub use plan::{NodeOp, NodePlan, node_plan};
pub use settings::{NodeEnvironment, NodeSettings, PodDetection};
pub use table::NodeTable;
pub use target::{FrontendAction, FrontendValue, TARGETS_MAX, Target, TargetNumber, code};
use target::{Requirement, TargetKey};

/// What a connection to an address and port, or to a node port, leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frontend {
    /// What happens to connections; with `short`, only to those from outside the cluster.
    pub action: FrontendAction,
    /// What happens to connections from the cluster, with `externalTrafficPolicy: Local`.
    pub short: Option<FrontendAction>,
    /// The source ranges with access; `None` means all.
    pub sources: Option<Arc<[IpNet]>>,
    /// Whether this is a cluster address.
    pub is_cluster_ip: bool,
    /// The addresses of its endpoints on this node.
    local: Arc<[IpAddr]>,
}

impl Frontend {
    /// Returns what the maps of frontends contain.
    fn value(&self) -> FrontendValue {
        FrontendValue {
            action: self.action,
            has_short: self.short.is_some(),
            is_guarded: self.sources.is_some(),
        }
    }

    fn targets(&self) -> impl Iterator<Item = TargetNumber> {
        [Some(self.action), self.short].into_iter().flatten().filter_map(FrontendAction::target)
    }
}

/// The table of the node's network namespace.
#[derive(Debug, Clone, Default)]
pub struct NodeRuleset {
    /// `None` if there is no table.
    settings: Option<NodeSettings>,
    environment: NodeEnvironment,
    ranges: Arc<[IpNet]>,
    frontends: Map<PortalKey, Frontend>,
    targets: Map<TargetNumber, Target>,
    /// The numbers of targets that have another one than their preferred number.
    other_numbers: Map<TargetKey, TargetNumber>,
    /// The chains, and the number of targets that use each.
    chains: Map<NodeChain, usize>,
    /// Frontends with `externalTrafficPolicy: Local` that serve clients outside the cluster by all endpoints for a while,
    /// because the last endpoint on this node was removed.
    graceful: Set<PortalKey>,
    /// The endpoints on this node, and the number of frontends that lead to each.
    endpoints: Map<IpAddr, usize>,
}

impl NodeRuleset {
    /// Returns the state without a table.
    #[must_use]
    pub fn empty() -> Self {
        Self::default()
    }

    /// Returns the table for these portals.
    #[must_use]
    pub fn new(portals: &Portals, settings: NodeSettings, environment: NodeEnvironment) -> Self {
        let mut ruleset = Self { settings: Some(settings), ..Self::default() };
        ruleset.refresh_all(portals, environment);
        ruleset
    }

    /// Updates everything, for example after the table was read from the kernel. Returns what can differ.
    pub fn refresh_all(&mut self, portals: &Portals, environment: NodeEnvironment) -> NodeChanges {
        let mut changes = NodeChanges::default();
        self.refresh_ranges(portals, &mut changes);
        let mut removed: ChangedPortals = self.frontends.keys().copied().collect();
        for portal in portals.iter() {
            removed.remove(&portal.key);
            self.update(
                portal.key,
                Some(portal).filter(|portal| portals.fits_share(TableKind::Full, portal)),
                &mut changes,
            );
        }
        removed.into_iter().for_each(|key| self.update(key, None, &mut changes));
        // Targets that were read from the kernel, and that nothing uses.
        let unused: Vec<TargetNumber> =
            self.targets.iter().filter(|(_, target)| target.users == 0).map(|(number, _)| *number).collect();
        for number in unused {
            self.remove_target(number, &mut changes);
        }
        // Which frontend has which local endpoint is not recorded in the kernel.
        changes.endpoints.extend(self.endpoints.keys());
        let mut endpoints = Map::default();
        for address in self.frontends.values().flat_map(|frontend| frontend.local.iter()) {
            change_count(&mut endpoints, *address, 1);
        }
        changes.endpoints.extend(endpoints.keys());
        self.endpoints = endpoints;
        changes.append(self.set_environment(environment));
        changes
    }

    /// Updates the frontends of changed portals. Returns what can differ.
    pub fn refresh(&mut self, portals: &Portals, changed: &ChangedPortals) -> NodeChanges {
        let mut changes = NodeChanges::default();
        self.refresh_ranges(portals, &mut changes);
        for key in changed {
            let portal = portals.get(*key).filter(|portal| portals.fits_share(TableKind::Full, portal));
            self.update(*key, portal, &mut changes);
        }
        changes
    }

    fn refresh_ranges(&mut self, portals: &Portals, changes: &mut NodeChanges) {
        if *self.ranges != *portals.service_ranges() {
            self.ranges = portals.service_ranges().into();
            changes.environment = true;
        }
    }

    /// Replaces the addresses and interfaces of the node.
    pub fn set_environment(&mut self, environment: NodeEnvironment) -> NodeChanges {
        let has_changed = self.environment != environment;
        self.environment = environment;
        NodeChanges { environment: has_changed, ..NodeChanges::default() }
    }

    /// Starts or ends the grace of frontends: the time in which all endpoints serve clients outside the cluster. Returns
    /// what can differ.
    pub fn set_grace(&mut self, portals: &Portals, keys: &ChangedPortals, is_graceful: bool) -> NodeChanges {
        for key in keys {
            if is_graceful {
                self.graceful.insert_mut(*key);
            } else {
                self.graceful.remove_mut(key);
            }
        }
        self.refresh(portals, keys)
    }

    fn update(&mut self, key: PortalKey, portal: Option<&Portal>, changes: &mut NodeChanges) {
        let old = self.frontends.get(&key).cloned();
        let new = portal.and_then(|portal| self.frontend(portal, old.as_ref(), changes));
        if old == new {
            return;
        }
        changes.portals.insert(key);
        // New users first, so that a target that remains in use is not removed.
        for number in new.iter().flat_map(Frontend::targets) {
            self.change_users(number, 1);
        }
        for number in old.iter().flat_map(Frontend::targets) {
            if self.change_users(number, -1) == 0 {
                self.remove_target(number, changes);
            }
        }
        let local = |frontend: &Option<Frontend>| frontend.as_ref().map(|frontend| frontend.local.clone());
        if local(&old) != local(&new) {
            for (frontend, by) in [(&new, 1), (&old, -1)] {
                for address in frontend.iter().flat_map(|frontend| frontend.local.iter()) {
                    change_count(&mut self.endpoints, *address, by);
                    changes.endpoints.insert(*address);
                }
            }
        }
        let is_cluster_ip = |frontend: &Option<Frontend>| frontend.as_ref().is_some_and(|f| f.is_cluster_ip);
        if is_cluster_ip(&old) != is_cluster_ip(&new) {
            changes.addresses.insert(key.address);
        }
        match new {
            Some(frontend) => self.frontends.insert_mut(key, frontend),
            None => {
                self.frontends.remove_mut(&key);
            }
        }
    }

    /// Returns the frontend of a portal; `None` if no target has a free number.
    fn frontend(
        &mut self,
        portal: &Portal,
        old: Option<&Frontend>,
        changes: &mut NodeChanges,
    ) -> Option<Frontend> {
        let in_cluster = Requirement::in_cluster(portal);
        let external = Requirement::external(portal).filter(|external| {
            !matches!(external, Requirement::Drop) || !self.graceful.contains(&portal.key)
        });
        let (old_action, old_short) = (old.map(|old| old.action), old.and_then(|old| old.short));
        let (action, short) = match external {
            None => (self.action(&in_cluster, old_action, changes)?, None),
            Some(external) => {
                let short = self.action(&in_cluster, old_short, changes)?;
                (self.action(&external, old_action, changes)?, Some(short))
            }
        };
        let local = portal.node.as_ref().map(|node| node.local.as_slice().into()).unwrap_or_default();
        let is_cluster_ip = portal.kind == PortalKind::ClusterIp;
        Some(Frontend { action, short, sources: portal.sources.clone(), is_cluster_ip, local })
    }

    /// Updates the target of a requirement, and returns the action that leads to it.
    fn action(
        &mut self,
        requirement: &Requirement,
        old: Option<FrontendAction>,
        changes: &mut NodeChanges,
    ) -> Option<FrontendAction> {
        let desired = match requirement {
            Requirement::Reject => return Some(FrontendAction::Reject),
            Requirement::Drop => return Some(FrontendAction::Drop),
            Requirement::Forward(desired) => desired,
        };
        let number = self.number(&desired.key, old.and_then(FrontendAction::target))?;
        let before = self.targets.get(&number);
        let target = Target::new(desired, before);
        let action = target.action(number);
        if before != Some(&target) {
            let (old_chain, new_chain) = (before.map(|before| before.chain(number)), target.chain(number));
            if old_chain != Some(new_chain) {
                self.change_chain(new_chain, 1, changes);
                old_chain.into_iter().for_each(|chain| self.change_chain(chain, -1, changes));
            }
            changes.targets.insert(number);
            self.targets.insert_mut(number, target);
        }
        Some(action)
    }

    /// Returns the number of a target: its present one, that of the frontend in the kernel, or the first free one after
    /// the preferred one.
    fn number(&mut self, key: &TargetKey, in_kernel: Option<TargetNumber>) -> Option<TargetNumber> {
        let preferred = key.preferred();
        if self.targets.get(&preferred).is_some_and(|target| target.key.as_ref() == Some(key)) {
            return Some(preferred);
        }
        if let Some(number) = self.other_numbers.get(key) {
            return Some(*number);
        }
        let is_unclaimed = |number: &TargetNumber| {
            self.targets.get(number).is_some_and(|target| target.key.is_none() && target.family == key.family)
        };
        let number = match in_kernel.filter(is_unclaimed) {
            Some(number) => number,
            None if self.targets.size() >= TARGETS_MAX as usize => return None,
            None => {
                let mut number = preferred;
                while self.targets.contains_key(&number) {
                    number = number.next();
                }
                number
            }
        };
        if number != preferred {
            self.other_numbers.insert_mut(key.clone(), number);
        }
        Some(number)
    }

    fn change_users(&mut self, number: TargetNumber, by: isize) -> usize {
        let Some(target) = self.targets.get_mut(&number) else { return 0 };
        target.users = target.users.saturating_add_signed(by);
        target.users
    }

    fn remove_target(&mut self, number: TargetNumber, changes: &mut NodeChanges) {
        let Some(target) = self.targets.get(&number).cloned() else { return };
        self.targets.remove_mut(&number);
        if let Some(key) = &target.key {
            self.other_numbers.remove_mut(key);
        }
        changes.targets.insert(number);
        self.change_chain(target.chain(number), -1, changes);
    }

    fn change_chain(&mut self, chain: NodeChain, by: isize, changes: &mut NodeChanges) {
        let before = self.chains.get(&chain).copied().unwrap_or_default();
        let users = change_count(&mut self.chains, chain, by);
        if (before == 0) != (users == 0) {
            changes.chains.insert(chain);
        }
    }

    /// Returns the settings; `None` if there is no table.
    #[must_use]
    pub fn settings(&self) -> Option<NodeSettings> {
        self.settings
    }

    /// Replaces the settings, which replaces the table.
    pub fn set_settings(&mut self, settings: NodeSettings) {
        self.settings = Some(settings);
    }

    /// Returns the addresses and interfaces of the node.
    #[must_use]
    pub fn environment(&self) -> &NodeEnvironment {
        &self.environment
    }

    /// Returns the frontends in the order of their keys.
    pub fn frontends(&self) -> impl Iterator<Item = (&PortalKey, &Frontend)> {
        self.frontends.iter()
    }

    /// Returns the number of frontends.
    #[must_use]
    pub fn frontend_count(&self) -> usize {
        self.frontends.size()
    }

    /// Returns a frontend.
    #[must_use]
    pub fn frontend_at(&self, key: PortalKey) -> Option<&Frontend> {
        self.frontends.get(&key)
    }

    /// Returns a target.
    #[must_use]
    pub fn target(&self, number: TargetNumber) -> Option<&Target> {
        self.targets.get(&number)
    }

    /// Whether this is a cluster address, whose ports without a service are rejected.
    #[must_use]
    pub fn has_address(&self, address: IpAddr) -> bool {
        let at = self.frontends.range(PortalKey::first(address)..);
        at.take_while(|(key, _)| key.address == address).any(|(_, frontend)| frontend.is_cluster_ip)
    }

    /// Whether an endpoint of a service is on this node.
    #[must_use]
    pub fn is_local_endpoint(&self, address: IpAddr) -> bool {
        self.endpoints.contains_key(&address)
    }

    /// Returns the service ranges.
    #[must_use]
    pub fn ranges(&self) -> &[IpNet] {
        &self.ranges
    }
}

/// Changes the number of users of something, and returns it. What has no users is removed.
fn change_count<K: Ord + Clone>(counts: &mut Map<K, usize>, key: K, by: isize) -> usize {
    let count = counts.get(&key).copied().unwrap_or_default().saturating_add_signed(by);
    if count == 0 {
        counts.remove_mut(&key);
    } else {
        counts.insert_mut(key, count);
    }
    count
}

mod chain;
mod changes;
mod element;
mod elements;
mod plan;
mod settings;
mod table;
mod target;
#[cfg(test)]
mod tests;
