//! Portals in the node's network namespace: for traffic that arrives from outside, and for the node's own processes.
//!
//! ```text
//! reconciler ─ services, node ─┐
//! follow_addresses ────────────┼─ NodeEvent ─► NodeWorker (thread) ─► transactions, health checks, loopback listener
//! watch_table, audits ─────────┘               NodeState (pure)
//! ProxyObserver ◄─ state ─ NodeWorker          (mode label: other service proxies, requests of `portico migrate`)
//! ```
//! The parts do not depend on each other. `node_addresses` follows the addresses at which node ports are served, and
//! `health_check` answers load balancers and tools. Pods' updates never wait for the node's.

use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::Context;
use netns_nft::Socket;
use relay::Relay;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinSet;

use health_check::{HEALTH_TIMEOUT, HealthCheckServers, ProxyHealth, serve_proxy_pages};
use local_ports::LocalPortOverlap;
use loopback::open_loopback;
use node_addresses::follow_addresses;
use node_status::NodeStatus;
use proxy_observer::ProxyObserver;
use service_proxy::{NodePortalsMode, ServiceProxyRole};
use state::{NodeOptions, NodeState};
use table_watch::watch_table;
use udp_flows::UdpFlows;
use worker::{NodeWorker, Outputs};

pub(crate) use args::NodePortalsArgs;
pub use migration_report::{
    ConnectionReport, KubeProxyReport, MigrationReport, RuleRemovalReport, VerificationReport,
};
pub(crate) use node_metrics::add_node_metrics;
pub use node_status::{ConflictReport, HealthCheckPort, NodeReport, NodeSettingsReport};
pub(crate) use worker::NodeEvent;

mod args;
mod detect_local;
mod grace;
pub mod health_check;
pub mod kube_proxy_probe;
pub mod local_ports;
mod loopback;
mod migration_report;
pub mod node_addresses;
mod node_metrics;
mod node_status;
mod other_proxies;
mod proxy_observer;
mod service_proxy;
mod state;
mod table_watch;
mod udp_flows;
mod verification;
mod worker;

/// The options of node portals.
#[derive(Debug)]
pub(crate) struct NodePortalsOptions {
    pub(crate) mode: NodePortalsMode,
    pub(crate) state: NodeOptions,
    /// The port of the listener on the loopback addresses; 0: node ports are not served there.
    pub(crate) loopback_port: u16,
    pub(crate) has_anchor: bool,
    pub(crate) audit_interval: Duration,
}

/// The running parts of node portals. Dropping it ends them, so that another agent can take over; the rules stay in
/// place.
#[derive(Debug)]
pub(crate) struct NodePortals {
    events: Sender<NodeEvent>,
    status: NodeStatus,
    worker: Option<JoinHandle<()>>,
    _tasks: JoinSet<()>,
}

impl NodePortals {
    /// Starts all parts in this network namespace, which is that of the node.
    pub(crate) fn start(options: NodePortalsOptions, relay: &Arc<Relay>) -> anyhow::Result<Self> {
        let NodePortalsOptions { mode, mut state, loopback_port, has_anchor, audit_interval } = options;
        let role = ServiceProxyRole::new(mode);
        if let Some(LocalPortOverlap { ports }) = LocalPortOverlap::of_this_node() {
            let (first, last) = (ports.start(), ports.end());
            tracing::warn!(first, last, "local ports overlap with node ports; set ip_local_reserved_ports");
        }
        let (events, receiver) = channel();
        let runtime = Handle::current();
        let health = Arc::new(ProxyHealth::new(HEALTH_TIMEOUT));
        let status = NodeStatus::default();
        let socket = Socket::open().context("failed to open nf_tables socket of the node")?;
        let changes = events.clone();
        let watched = watch_table(&socket, move |change| changes.send(NodeEvent::Table(change)).is_ok());
        if let Err(error) = &watched {
            tracing::warn!(%error, "failed to watch the table of node portals; audits find its changes");
        }
        let mut tasks = JoinSet::new();
        let addresses = events.clone();
        tasks.spawn(async move {
            follow_addresses(move |local| drop(addresses.send(NodeEvent::Addresses(local)))).await;
        });
        let (claims, claimed) = watch::channel(role.claims());
        tasks.spawn(serve_proxy_pages(Arc::clone(&health), claimed));
        let audits = events.clone();
        tasks.spawn(async move {
            let mut interval = tokio::time::interval(audit_interval);
            while audits.send(NodeEvent::Audit).is_ok() {
                interval.tick().await;
            }
        });
        // Before the table is read, so that a restart finds the settings that it wrote.
        if loopback_port != 0 && relay.open_node(loopback_port).is_ok() {
            state.settings.loopback_port = loopback_port;
        } else if loopback_port != 0 {
            let (relay, opened) = (Arc::clone(relay), events.clone());
            tasks.spawn(async move {
                open_loopback(&relay, loopback_port).await;
                let _ = opened.send(NodeEvent::LoopbackOpen(loopback_port));
            });
        }
        let mut servers = HealthCheckServers::new(runtime, Arc::clone(&health));
        servers.set_paused(!role.claims().health);
        let observer = role.follows_label().then(|| ProxyObserver::start(events.clone(), status.clone()));
        let outputs = Outputs {
            servers,
            observer: observer.transpose().context("failed to start thread for other service proxies")?,
            claims,
            health,
            relay: Arc::clone(relay),
            is_watched: watched.is_ok(),
            udp: UdpFlows::start().context("failed to start thread for UDP flows of the node")?,
            status: status.clone(),
        };
        let worker = NodeWorker::new(NodeState::new(state), socket, outputs, has_anchor, role);
        let run = move || worker.run(&receiver);
        let worker = thread::Builder::new()
            .name("node-portals".to_owned())
            .spawn(run)
            .context("failed to start thread of node portals")?;
        Ok(Self { events, status, worker: Some(worker), _tasks: tasks })
    }

    /// Sends an event to the worker.
    pub(crate) fn send(&self, event: NodeEvent) {
        // The worker runs until this is dropped.
        let _ = self.events.send(event);
    }

    /// Returns the report.
    pub(crate) fn report(&self) -> NodeReport {
        self.status.report()
    }
}

impl Drop for NodePortals {
    /// Waits until the worker has ended: from then on, this agent neither writes the table nor holds its ports.
    fn drop(&mut self) {
        self.send(NodeEvent::Stop);
        if let Some(worker) = self.worker.take() {
            let _ = worker.join();
        }
    }
}
