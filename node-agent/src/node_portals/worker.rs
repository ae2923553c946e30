//! `NodeWorker`: the thread that keeps the node's table up to date.
//!
//! It owns a `NodeState` and a socket to nf_tables. All events that have arrived are handled before one transaction, so
//! a burst of changes is coalesced while the previous transaction is being committed. Updates of pods never wait for it.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant, SystemTime};

use netns_nft::{Anchor, Error, Socket, TableChange, add_node_routes};
use proxy_core::node::Node;
use proxy_core::snapshot::{ChangedServices, Snapshot};
use relay::Relay;
use support::{Backoff, with_causes};
use tokio::sync::watch;

use crate::node_portals::health_check::{
    HealthCheck, HealthCheckServers, HealthChecks, PortClaims, ProxyHealth,
};
use crate::node_portals::node_status::NodeStatus;
use crate::node_portals::proxy_observer::{Observed, ProxyObserver};
use crate::node_portals::service_proxy::{KubeProxyState, ServiceProxyRole, TableDuty};
use crate::node_portals::state::{NodeState, Work};
use crate::node_portals::udp_flows::UdpFlows;
use crate::node_portals::verification::VerifiedPortals;

mod withdrawal;

/// The delays before another attempt after a failure.
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(10);
/// The minimum time between two readings of the table because of changes by other processes.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// The same after a deletion of the table, which interrupts services.
const RESTORE_INTERVAL: Duration = Duration::from_millis(50);
/// The time between two attempts to hand the node back.
const WITHDRAWAL_INTERVAL: Duration = Duration::from_secs(1);

/// An input of the worker.
#[derive(Debug)]
pub(crate) enum NodeEvent {
    /// Services changed. The first snapshot has no `changed`.
    Services { snapshot: Snapshot, changed: Option<ChangedServices>, since: Instant },
    /// The node object changed.
    Node(Node),
    /// The addresses of the network namespace changed.
    Addresses(BTreeSet<IpAddr>),
    /// Another process changed the table.
    Table(TableChange),
    /// A kube-proxy on the node started, is synced, or stopped.
    KubeProxy(KubeProxyState),
    /// The relay listens at the loopback addresses, with this port.
    LoopbackOpen(u16),
    /// It is time to check whether another process changed the table.
    Audit,
    /// The worker must end. The thread that watches the table has a sender, too, so the channel is not closed.
    Stop,
}

/// The parts of the worker that serve what it computes.
#[derive(Debug)]
pub(crate) struct Outputs {
    pub(crate) health: Arc<ProxyHealth>,
    pub(crate) servers: HealthCheckServers,
    pub(crate) relay: Arc<Relay>,
    /// Whether changes of the table by other processes are reported; otherwise audits find them.
    pub(crate) is_watched: bool,
    pub(crate) udp: UdpFlows,
    pub(crate) status: NodeStatus,
    /// Observes other service proxies, in the mode `label`.
    pub(crate) observer: Option<ProxyObserver>,
    pub(crate) claims: watch::Sender<PortClaims>,
}

/// Keeps the node's table up to date.
#[derive(Debug)]
pub(crate) struct NodeWorker {
    state: NodeState,
    socket: Socket,
    checks: HealthChecks,
    outputs: Outputs,
    /// The time of the first change that is not in the kernel.
    changed_since: Option<Instant>,
    backoff: Backoff,
    retry_at: Option<Instant>,
    /// When the table was last read because of other processes, and when it must be read again.
    checked_at: Option<Instant>,
    check_at: Option<Instant>,
    /// The generation of the rulesets after the last transaction or reading.
    generation: Option<u32>,
    anchor: AnchorState,
    /// Whether the node may lack a route to a service range.
    are_routes_due: bool,
    role: ServiceProxyRole,
    /// Whether the table was removed, because another proxy serves the node.
    is_withdrawn: bool,
}

/// The anchor table, which keeps translated connections alive if the ruleset is flushed.
#[derive(Debug)]
enum AnchorState {
    /// It is not wanted, or the kernel does not support it.
    Disabled,
    /// It must be created, or a previous agent still owns it.
    Wanted,
    /// The table is owned as long as its socket is open.
    Held(Anchor),
}

impl NodeWorker {
    /// A worker that writes with this socket.
    pub(crate) fn new(
        state: NodeState,
        socket: Socket,
        outputs: Outputs,
        has_anchor: bool,
        role: ServiceProxyRole,
    ) -> Self {
        Self {
            state,
            socket,
            checks: HealthChecks::default(),
            outputs,
            changed_since: None,
            backoff: Backoff::new(RETRY_FIRST, RETRY_MAX),
            retry_at: None,
            checked_at: None,
            check_at: None,
            generation: None,
            are_routes_due: true,
            role,
            is_withdrawn: false,
            anchor: if has_anchor { AnchorState::Wanted } else { AnchorState::Disabled },
        }
    }

    /// Handles events until the one that stops it.
    pub(crate) fn run(mut self, events: &Receiver<NodeEvent>) {
        loop {
            let due = [self.retry_at, self.check_at, self.state.deadline()].into_iter().flatten().min();
            let event = match due {
                None => events.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(at) => events.recv_timeout(at.saturating_duration_since(Instant::now())),
            };
            let first = match event {
                Ok(event) => Some(event),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            for event in first.into_iter().chain(events.try_iter()) {
                if self.handle(event).is_break() {
                    return;
                }
            }
            self.reconcile(Instant::now());
        }
    }

    fn handle(&mut self, event: NodeEvent) -> ControlFlow<()> {
        let now = Instant::now();
        match event {
            NodeEvent::Services { snapshot, changed, since } => {
                if self.state.portals().is_none() {
                    // Nothing could be applied before the lists were complete.
                    self.changed_since = None;
                }
                self.mark_changed(since);
                let all = || snapshot.services().map(|service| service.key.clone()).collect();
                let keys = changed.clone().unwrap_or_else(all);
                self.apply_checks(|checks, node| checks.refresh(&snapshot, node, &keys));
                self.are_routes_due |= self.state.snapshot().service_ranges() != snapshot.service_ranges();
                self.state.set_services(snapshot, changed.as_ref(), now);
            }
            NodeEvent::Node(node) => {
                self.are_routes_due = true;
                self.mark_changed(now);
                self.outputs.health.set_leaving(node.is_leaving);
                if self.role.set_label(node.service_proxy) {
                    self.retry_at = None;
                }
                self.update_claims();
                self.state.set_node(node);
                let snapshot = self.state.snapshot().clone();
                self.apply_checks(|checks, node| checks.refresh(&snapshot, node, &ChangedServices::new()));
            }
            NodeEvent::Addresses(addresses) => {
                self.are_routes_due = true;
                self.mark_changed(now);
                self.state.set_local_addresses(addresses);
            }
            NodeEvent::Table(TableChange::None) => {}
            NodeEvent::Table(TableChange::Deleted) => self.schedule_check(now, RESTORE_INTERVAL),
            NodeEvent::Table(TableChange::Changed | TableChange::Unknown) => {
                self.schedule_check(now, CHECK_INTERVAL);
            }
            NodeEvent::KubeProxy(state) => {
                self.role.set_kube_proxy(state);
                self.update_claims();
                self.retry_at = None;
            }
            NodeEvent::LoopbackOpen(port) => self.state.set_loopback_port(port),
            NodeEvent::Audit => {
                self.are_routes_due = true;
                if self.is_withdrawn {
                    // The anchor table can have become superfluous.
                    self.is_withdrawn = !matches!(self.anchor, AnchorState::Held(_));
                } else if self.role.duty() == TableDuty::Serve {
                    self.hold_anchor();
                }
                let reports = self.outputs.servers.reports();
                self.outputs.status.set_health_checks(reports, &self.checks);
                if !self.outputs.is_watched && self.socket.generation().ok() != self.generation {
                    self.schedule_check(now, CHECK_INTERVAL);
                }
            }
            NodeEvent::Stop => return ControlFlow::Break(()),
        }
        ControlFlow::Continue(())
    }

    fn apply_checks(
        &mut self,
        refresh: impl FnOnce(&mut HealthChecks, &Node) -> Vec<(u16, Option<HealthCheck>)>,
    ) {
        let changes = refresh(&mut self.checks, self.state.node());
        if !changes.is_empty() {
            self.outputs.servers.apply(changes);
            self.outputs.status.set_health_checks(self.outputs.servers.reports(), &self.checks);
        }
    }

    fn mark_changed(&mut self, since: Instant) {
        self.changed_since.get_or_insert(since);
        self.outputs.health.set_pending(since);
    }

    fn schedule_check(&mut self, now: Instant, interval: Duration) {
        let at = self.checked_at.map_or(now, |checked_at| now.max(checked_at + interval));
        self.check_at = Some(self.check_at.map_or(at, |check_at| check_at.min(at)));
    }

    /// Brings the kernel to the desired state.
    fn reconcile(&mut self, now: Instant) {
        self.state.end_grace(now);
        if self.check_at.is_some_and(|at| at <= now) {
            (self.check_at, self.checked_at) = (None, Some(now));
            self.state.mark_unknown();
        }
        if self.retry_at.is_some_and(|at| at > now) {
            return;
        }
        self.retry_at = None;
        self.outputs.status.set_desired(self.state.desired());
        match self.fulfil(now) {
            Ok(()) => self.report_to_observer(),
            Err(error) => {
                // The transaction may have been committed although its result is unknown.
                self.state.mark_unknown();
                let delay = self.backoff.next_delay();
                self.retry_at = Some(now + delay);
                let (error, retry_in_ms) = (with_causes(&error), delay.as_millis());
                tracing::warn!(error, retry_in_ms, "failed to program node portals; will retry");
                self.outputs.status.record_failure(error);
            }
        }
    }

    fn fulfil(&mut self, now: Instant) -> Result<(), Error> {
        match self.role.duty() {
            TableDuty::Wait => return Ok(()),
            TableDuty::Withdraw if self.withdraw()? => {
                self.backoff.reset();
                self.changed_since = None;
                return Ok(());
            }
            // Until another proxy serves the node, the table is maintained.
            TableDuty::Withdraw => self.retry_at = Some(now + WITHDRAWAL_INTERVAL),
            TableDuty::Serve => self.outputs.status.set_kept(None),
        }
        self.is_withdrawn = false;
        self.do_work()?;
        self.finish();
        Ok(())
    }

    /// Publishes the ports of kube-proxy that the agent has, or waits for.
    fn update_claims(&mut self) {
        let claims = self.role.claims();
        let previous = self.outputs.claims.send_replace(claims);
        if previous.health != claims.health {
            self.outputs.servers.set_paused(!claims.health);
        }
    }

    fn report_to_observer(&self) {
        let Some(observer) = self.outputs.observer.as_ref().filter(|_| self.role.label().is_some()) else {
            return;
        };
        let Some(portals) = self.state.portals() else { return };
        let desired = self.state.desired();
        let verified = VerifiedPortals {
            portals: portals.clone(),
            addresses: desired.environment().addresses.iter().copied().collect(),
            nat_priority: desired.settings().unwrap_or_default().nat_priority,
            is_serving: !self.is_withdrawn && self.state.is_applied(),
        };
        observer.update(Observed { node: self.state.node().clone(), verified });
    }

    fn do_work(&mut self) -> Result<(), Error> {
        while let Some(work) = self.state.work() {
            match work {
                Work::Read => {
                    let table = Socket::open()?.read_node_table()?;
                    if let Some(why) = self.state.on_read(table) {
                        tracing::warn!(why, "table of node portals has drifted; replacing it");
                        self.outputs.status.record_repair();
                    }
                }
                Work::Apply(batch) => {
                    self.socket.apply(&batch)?;
                    self.state.on_applied();
                    self.outputs.status.record_applied();
                }
            }
            self.generation = self.socket.generation().ok();
        }
        Ok(())
    }

    /// Adds a route to each service range that has none: without a route, the kernel rejects the node's own connections
    /// before it translates them. kube-proxy relies on a default route.
    fn add_routes(&mut self) {
        if !std::mem::take(&mut self.are_routes_due) {
            return;
        }
        match add_node_routes(&self.state.addresses(), self.state.desired().ranges()) {
            Ok(added) => added
                .iter()
                .for_each(|range| tracing::info!(%range, "added route to service range on the node")),
            Err(error) => {
                let error = with_causes(&error);
                tracing::warn!(
                    error,
                    "failed to add routes to service ranges on the node; the next audit will retry"
                );
            }
        }
    }

    /// Creates the anchor table, or owns the one of the previous agent.
    fn hold_anchor(&mut self) {
        if !matches!(self.anchor, AnchorState::Wanted) {
            return;
        }
        let error = match Socket::open().and_then(Anchor::hold) {
            Ok(anchor) => {
                self.anchor = AnchorState::Held(anchor);
                None
            }
            Err(error) => {
                if !error.is_transient() {
                    tracing::warn!(error = with_causes(&error), "failed to create the anchor table");
                    self.anchor = AnchorState::Disabled;
                }
                Some(with_causes(&error))
            }
        };
        self.outputs.status.set_anchor_error(error);
    }

    /// Publishes the state in the kernel, unless the initial sync is not complete.
    fn finish(&mut self) {
        self.backoff.reset();
        if !self.state.is_applied() {
            return;
        }
        self.add_routes();
        self.outputs.health.set_updated(SystemTime::now());
        let took = self.changed_since.take().map(|since| since.elapsed());
        if let Some(portals) = self.state.portals() {
            self.outputs.relay.set_node_portals(portals.clone());
            self.outputs.status.record_state(portals, self.state.desired(), took);
        }
        if let Some(stale) = self.state.take_stale_udp() {
            self.outputs.udp.check(stale);
        }
    }
}
