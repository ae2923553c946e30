//! `NodeState`: the portals of the node, the desired table and what the kernel has. Without I/O and without a clock.
//!
//! The kernel's table is read before the first write, and again whenever another process changed it: the numbers and
//! slots that it has are kept, so a restart writes only what changed.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use netns_nft::{Batch, NodeTableState, encode_node, encode_node_fresh};
use proxy_core::node::Node;
use proxy_core::portal::{ChangedPortals, NodeContext, PortalKey, Portals, portals};
use proxy_core::ruleset::node::{
    NodeChanges, NodeEnvironment, NodeRuleset, NodeSettings, PodDetection, node_plan,
};
use proxy_core::service::Protocol;
use proxy_core::snapshot::{ChangedServices, Snapshot};

use crate::event::UdpBackends;
use crate::node_portals::detect_local::DetectLocal;
use crate::node_portals::grace::Grace;
use crate::node_portals::node_addresses::NodePortAddresses;

/// What the state depends on in addition to services and the node.
#[derive(Debug, Clone)]
pub(crate) struct NodeOptions {
    /// The context of the portals, with the node as far as it is known at the start.
    pub(crate) context: NodeContext,
    /// The settings of the table; whether pods are detected follows from `detect_local`.
    pub(crate) settings: NodeSettings,
    /// The addresses that serve node ports.
    pub(crate) addresses: NodePortAddresses,
    /// How pods are detected.
    pub(crate) detect_local: DetectLocal,
    /// How long all endpoints serve clients of `externalTrafficPolicy: Local` after the last local one was removed.
    pub(crate) grace: Duration,
}

/// What is known about the kernel's table.
#[derive(Debug)]
enum Applied {
    /// It must be read.
    Unknown,
    /// It equals this ruleset.
    Known(NodeRuleset),
    /// It is missing, has another layout, or was changed by another process; it must be replaced.
    Foreign,
}

/// What to do next.
#[derive(Debug)]
pub(crate) enum Work {
    /// Read the table.
    Read,
    /// Apply this transaction.
    Apply(Batch),
}

/// The state of the node's portals.
#[derive(Debug)]
pub(crate) struct NodeState {
    options: NodeOptions,
    /// The addresses of the network namespace.
    local: BTreeSet<IpAddr>,
    snapshot: Snapshot,
    /// `None` before the initial sync.
    portals: Option<Portals>,
    desired: NodeRuleset,
    applied: Applied,
    /// What can differ between `desired` and `applied`.
    pending: NodeChanges,
    grace: Grace,
    /// UDP portals whose flows were not checked since they changed.
    stale_udp: ChangedPortals,
}

impl NodeState {
    /// A state before the initial sync.
    pub(crate) fn new(options: NodeOptions) -> Self {
        Self {
            grace: Grace::new(options.grace),
            options,
            local: BTreeSet::new(),
            snapshot: Snapshot::new(),
            portals: None,
            desired: NodeRuleset::empty(),
            applied: Applied::Unknown,
            pending: NodeChanges::default(),
            stale_udp: ChangedPortals::new(),
        }
    }

    /// Applies changes of services. The first snapshot has no `changed`.
    pub(crate) fn set_services(
        &mut self,
        snapshot: Snapshot,
        changed: Option<&ChangedServices>,
        now: Instant,
    ) {
        self.snapshot = snapshot;
        match (&mut self.portals, changed) {
            (Some(portals), Some(changed)) => {
                let changed = portals.refresh(&self.snapshot, &self.options.context, changed);
                let candidates = self.grace.candidates(&self.desired, &changed);
                self.pending.append(self.desired.refresh(portals, &changed));
                let graceful = self.grace.start(portals, &candidates, now);
                self.pending.append(self.desired.set_grace(portals, &graceful, true));
                self.stale_udp.extend(changed.iter().filter(|key| key.protocol == Protocol::Udp));
            }
            _ => self.rebuild(),
        }
    }

    /// Ends the grace of frontends for which it is due.
    pub(crate) fn end_grace(&mut self, now: Instant) {
        let ended = self.grace.take_ended(now);
        if let Some(portals) = &self.portals {
            self.pending.append(self.desired.set_grace(portals, &ended, false));
        }
    }

    /// Returns the next time at which a grace ends.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.grace.deadline()
    }

    /// Replaces the node object.
    pub(crate) fn set_node(&mut self, node: Node) {
        let has_same_portals = self.options.context.node.has_same_portals(&node);
        self.options.context.node = node;
        if self.portals.is_some() && !has_same_portals {
            self.rebuild();
        }
        self.update_environment();
    }

    /// Replaces the addresses of the network namespace.
    pub(crate) fn set_local_addresses(&mut self, local: BTreeSet<IpAddr>) {
        self.local = local;
        self.update_environment();
    }

    /// Redirects connections to node ports at the loopback addresses to this port.
    pub(crate) fn set_loopback_port(&mut self, port: u16) {
        self.options.settings.loopback_port = port;
        self.update_environment();
    }

    fn rebuild(&mut self) {
        let portals = portals(&self.snapshot, &self.options.context);
        self.pending.append(self.desired.refresh_all(&portals, self.environment()));
        self.stale_udp
            .extend(portals.iter().map(|portal| portal.key).filter(|key| key.protocol == Protocol::Udp));
        self.portals = Some(portals);
        self.update_environment();
    }

    fn update_environment(&mut self) {
        let environment = self.environment();
        let detects_pods = PodDetection::of(&environment);
        self.desired.set_settings(NodeSettings { detects_pods, ..self.options.settings });
        self.pending.append(self.desired.set_environment(environment));
    }

    fn environment(&self) -> NodeEnvironment {
        let node = &self.options.context.node;
        let ranges: Vec<IpNet> = self.options.detect_local.pod_ranges(node);
        NodeEnvironment {
            addresses: Arc::new(self.options.addresses.select(node, &self.local)),
            pod_ranges: Arc::new(IpNet::aggregate(&ranges).into_iter().collect()),
            pod_interfaces: Arc::new(self.options.detect_local.pod_interfaces().collect()),
        }
    }

    /// Returns what must be done; `None` if the kernel has the desired table, or before the initial sync.
    pub(crate) fn work(&mut self) -> Option<Work> {
        self.portals.as_ref()?;
        match &self.applied {
            Applied::Unknown => Some(Work::Read),
            Applied::Foreign => Some(Work::Apply(encode_node_fresh(&self.desired))),
            Applied::Known(applied) => {
                if self.pending.is_empty() && applied.settings() == self.desired.settings() {
                    return None;
                }
                let plan = node_plan(applied, &self.desired, &self.pending);
                if plan.is_empty() {
                    self.pending = NodeChanges::default();
                    return None;
                }
                Some(Work::Apply(encode_node(&plan)))
            }
        }
    }

    /// Records the table in the kernel. Returns why it must be replaced, if another process changed it.
    pub(crate) fn on_read(&mut self, table: NodeTableState) -> Option<String> {
        let (recovered, why) = match table {
            NodeTableState::Missing => (None, None),
            NodeTableState::Drifted(why) => (None, Some(why)),
            NodeTableState::Intact(table) => {
                let recovered = table.to_ruleset();
                let is_foreign = recovered.is_none();
                (recovered, is_foreign.then(|| "its elements are not those of a ruleset".to_owned()))
            }
        };
        let Some(recovered) = recovered else {
            self.applied = Applied::Foreign;
            return why;
        };
        let mut desired = recovered.clone();
        if let Some(portals) = &self.portals {
            // First, because the kernel's table does not record grace.
            self.pending = desired.set_grace(portals, &self.grace.frontends(), true);
            self.pending.append(desired.refresh_all(portals, self.environment()));
        }
        desired.set_settings(self.desired.settings().unwrap_or_default());
        self.desired = desired;
        self.applied = Applied::Known(recovered);
        None
    }

    /// Records that the kernel committed the last transaction.
    pub(crate) fn on_applied(&mut self) {
        self.applied = Applied::Known(self.desired.clone());
        self.pending = NodeChanges::default();
    }

    /// Records that the kernel's table can differ from what was applied.
    pub(crate) fn mark_unknown(&mut self) {
        self.applied = Applied::Unknown;
    }

    /// Records that there is no table to keep up to date. The next `work` reads the kernel's table.
    pub(crate) fn forget_table(&mut self) {
        self.applied = Applied::Unknown;
        self.pending = NodeChanges::default();
        self.stale_udp.clear();
    }

    /// Whether the kernel has the desired table.
    pub(crate) fn is_applied(&self) -> bool {
        let is_known = |applied: &NodeRuleset| applied.settings() == self.desired.settings();
        self.pending.is_empty() && matches!(&self.applied, Applied::Known(applied) if is_known(applied))
    }

    /// Returns the changed UDP portals with their backends: flows to other backends must be deleted.
    pub(crate) fn take_stale_udp(&mut self) -> Option<UdpBackends> {
        if self.stale_udp.is_empty() || !self.is_applied() {
            return None;
        }
        let stale = std::mem::take(&mut self.stale_udp);
        let entries = stale.into_iter().flat_map(|key| {
            let backends = self.backends(key);
            self.keys_of(key).into_iter().map(move |key| (key, Arc::clone(&backends))).collect::<Vec<_>>()
        });
        Some(Arc::new(entries.collect()))
    }

    /// Returns the keys by which conntrack knows a frontend: those of a node port have the node's addresses, unless another
    /// service has the address and port.
    fn keys_of(&self, key: PortalKey) -> Vec<PortalKey> {
        if !key.is_node_port() {
            return vec![key];
        }
        let addresses = self.desired.environment().addresses.iter();
        let of_family = addresses.filter(|address| address.is_ipv4() == key.address.is_ipv4());
        let keys = of_family.map(|address| PortalKey { address: *address, ..key });
        keys.filter(|key| self.desired.frontend_at(*key).is_none()).collect()
    }

    /// Returns the backends to which flows to a frontend may go.
    fn backends(&self, key: PortalKey) -> Arc<[SocketAddr]> {
        let frontend = self.desired.frontend_at(key);
        let targets = frontend.into_iter().flat_map(|frontend| {
            [Some(frontend.action), frontend.short].into_iter().flatten().filter_map(|action| action.target())
        });
        targets
            .filter_map(|number| self.desired.target(number))
            .flat_map(|t| t.backends.iter().copied())
            .collect()
    }

    /// Returns the portals.
    pub(crate) fn portals(&self) -> Option<&Portals> {
        self.portals.as_ref()
    }

    /// Returns the snapshot of services.
    pub(crate) fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// Returns the node.
    pub(crate) fn node(&self) -> &Node {
        &self.options.context.node
    }

    /// Returns the addresses of the node, those of the node object first: the sources of routes to service ranges.
    pub(crate) fn addresses(&self) -> Vec<IpAddr> {
        self.node().addresses.iter().chain(&self.local).copied().collect()
    }

    /// Returns the desired table.
    pub(crate) fn desired(&self) -> &NodeRuleset {
        &self.desired
    }
}

#[cfg(test)]
mod tests;
