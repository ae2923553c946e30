//! `WatchedNode`: Portico's table of a node, from the objects of an API server.
//!
//! It applies each change as the agent does: to the snapshot, the portals and the ruleset. `kube-source` watches the API
//! server.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use kube_source::{Event, WatchScope, client, watch_cluster};
use proxy_core::node::Node;
use proxy_core::node_trace::{NodePacket, NodeTrace, SeenSource, node_port_key, trace_node};
use proxy_core::portal::{ExternalPolicy, NodeContext, Place, Portals, portals};
use proxy_core::ruleset::node::{BackendSelection, Frontend, FrontendAction, NodeRuleset};
use proxy_core::service::ServiceKey;
use proxy_core::snapshot::{Change, Snapshot};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc::{Receiver, channel};

use super::node_profile::{NODE_NAME, NodeProfile};
use super::outcome::{PacketOutcome, Seen};
use super::probe::Probe;
use super::random_cluster::RandomCluster;
use crate::apiserver::ApiServer;

const TIMEOUT: Duration = Duration::from_secs(60);

/// The table of a node.
pub struct WatchedNode {
    pub ruleset: NodeRuleset,
    snapshot: Snapshot,
    portals: Portals,
    context: NodeContext,
    is_synced: bool,
    /// The addresses of the node's network namespace.
    local: BTreeSet<IpAddr>,
    events: Receiver<Event>,
    runtime: Runtime,
}

impl WatchedNode {
    /// Watches the API server until the initial sync. `select` selects the addresses of node ports by the value of
    /// `--nodeport-addresses`, the node, and the addresses of its network namespace.
    pub fn start(
        api: &ApiServer,
        profile: &NodeProfile,
        select: fn(&[&str], &Node, &BTreeSet<IpAddr>) -> BTreeSet<IpAddr>,
    ) -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let client = runtime.block_on(client(Some(api.kubeconfig()))).expect("a client");
        let (sender, events) = channel(16);
        let scope = WatchScope::Proxy { node: Some(NODE_NAME.to_owned()), has_names: false };
        runtime.spawn(watch_cluster(client, scope, sender));
        let context =
            NodeContext { place: Place::Node, external: ExternalPolicy::all(), ..NodeContext::default() };
        let mut watched = Self {
            ruleset: NodeRuleset::empty(),
            snapshot: Snapshot::new(),
            portals: Portals::default(),
            context,
            is_synced: false,
            local: NodeProfile::local_addresses(),
            events,
            runtime,
        };
        while !watched.is_synced {
            watched.next();
        }
        let addresses = select(profile.node_port_addresses, &watched.context.node, &watched.local);
        watched.portals = portals(&watched.snapshot, &watched.context);
        let environment = profile.environment(addresses);
        watched.ruleset = NodeRuleset::new(&watched.portals, profile.settings(&environment), environment);
        watched
    }

    /// Applies changes up to those of a snapshot.
    pub fn follow(&mut self, snapshot: u16) {
        let port = RandomCluster::sentinel_port(snapshot);
        let sentinel = ServiceKey::new("default", "sentinel");
        let is_current = |watched: &Self| {
            let service = watched.snapshot.service(&sentinel).map(|service| service.ports[0].port);
            let slices = watched.snapshot.slices_of(&sentinel).map(|slice| slice.ports[0].port);
            service == Some(port) && slices.eq([port; 2])
        };
        while !is_current(self) {
            self.next();
        }
    }

    fn next(&mut self) {
        let received = async { tokio::time::timeout(TIMEOUT, self.events.recv()).await };
        let event = self.runtime.block_on(received).expect("an event in time").expect("the watch continues");
        match event {
            Event::Changes(changes) => changes.into_iter().for_each(|change| self.apply(change)),
            Event::Node(node) => self.context.node = node,
            Event::Synced => self.is_synced = true,
            Event::Recovered => {}
            Event::Outage(why) => panic!("{why}"),
            Event::Rejected(rejected) => panic!("a stored object is rejected: {rejected:?}"),
        }
    }

    fn apply(&mut self, change: Change) {
        let changed = self.snapshot.apply(change);
        if self.is_synced {
            let changed = self.portals.refresh(&self.snapshot, &self.context, &changed);
            self.ruleset.refresh(&self.portals, &changed);
        }
    }

    /// Returns what the table does with a packet.
    pub fn outcome(&self, probe: &Probe) -> PacketOutcome {
        let mut backends: BTreeMap<SocketAddr, Seen> = BTreeMap::new();
        let packet = NodePacket {
            source: probe.client.source,
            interface: probe.client.interface,
            destination: probe.destination,
            is_on_loopback: false,
        };
        for draw in 0.. {
            match trace_node(&self.ruleset, &packet, draw) {
                NodeTrace::Forward { backend, source } => {
                    // A connection to the node itself is not masqueraded.
                    let seen = match source {
                        SeenSource::NodeAddress if !probe.is_local(backend.ip(), &self.local) => Seen::Node,
                        _ => Seen::Client,
                    };
                    // The random numbers select the backends in a cycle.
                    if backends.insert(backend, seen).is_some() {
                        return PacketOutcome::Forward { backends, affinity_s: self.affinity_s(probe) };
                    }
                }
                NodeTrace::Reject | NodeTrace::WrongPort => return PacketOutcome::Reject,
                NodeTrace::Drop(_) => return PacketOutcome::Drop,
                NodeTrace::Pass => return PacketOutcome::Pass,
                NodeTrace::Loopback => panic!("{probe}: no listener is configured"),
            }
        }
        unreachable!("the number of backends is limited")
    }

    fn affinity_s(&self, probe: &Probe) -> Option<u32> {
        let frontend = |key| self.ruleset.frontend_at(key);
        let frontend = frontend(probe.destination).or_else(|| frontend(node_port_key(probe.destination)));
        let Frontend { action, short, .. } = frontend.expect("a frontend that forwards");
        let targets = [Some(*action), *short].into_iter().flatten().filter_map(FrontendAction::target);
        targets.into_iter().find_map(|number| match self.ruleset.target(number)?.selection {
            BackendSelection::Affinity(seconds) => Some(seconds),
            _ => None,
        })
    }
}
