//! `Reconciler`: brings every attached network namespace to its desired state. A pure state machine.
//!
//! ```text
//! Event ── step(now) ──► Effects        deadline() ──► when to call with Tick
//! ```
//! `Catalog` contains the services, `Fleet` the network namespaces, and `Timers` what is due at a time. Changes are
//! collected and published to the views at most once per interval, the first one immediately; each network namespace
//! follows its view at its own pace. There is no I/O, no clock and no logging.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use agent_ipc::Reply;
use ipnet::IpNet;
use kube_source::{Event as SourceEvent, RejectedObjects};
use netns_nft::NetnsId;
use proxy_core::node::Node;
use proxy_core::portal::{ExternalPolicy, PortalLimits, ServiceFilter};
use proxy_core::ruleset::Settings;
use proxy_core::service::{Mode, ServiceKey};
use proxy_core::snapshot::ChangedServices;

use crate::budget::Budget;
use crate::event::{Effect, Event, LogEvent, Operation, RequestId};
use crate::netns_state::NetnsState;
use crate::node_portals::NodeEvent;
use crate::on_demand::ProgrammingMode;
use crate::pod_dns::{DnsSettings, DnsState};
use crate::record_retries::RecordRetries;
use crate::report::Counts;
use crate::view::ViewState;
use catalog::Catalog;
use fleet::Fleet;
use timers::Timers;
use unserved::UnservedAttachments;

mod attachments;
mod catalog;
mod dns;
mod fleet;
mod memory;
mod on_demand;
mod outcomes;
mod status;
#[cfg(test)]
mod tests;
mod timers;
mod unserved;
mod views;

/// The settings of the operator.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    /// The node, as far as it is known at the start.
    pub(crate) node: Node,
    pub(crate) mode: Mode,
    pub(crate) settings: Settings,
    /// The namespaces whose services may be dialled from the node.
    pub(crate) dial_from_node: Vec<String>,
    /// Which portals are programmed.
    pub(crate) programming_mode: ProgrammingMode,
    /// The time after which an idle on-demand portal is evicted.
    pub(crate) portal_idle: Duration,
    /// Which external addresses of services become portals.
    pub(crate) external: ExternalPolicy,
    /// The limits of what services can add to tables.
    pub(crate) limits: PortalLimits,
    /// The kernel memory that tables can use.
    pub(crate) budget: Budget,
    /// Whether the node itself has portals.
    pub(crate) has_node_portals: bool,
    /// The settings of DNS in pods, if it is enabled.
    pub(crate) dns: Option<DnsSettings>,
    /// Service ranges in addition to those of the service source.
    pub(crate) service_ranges: Vec<IpNet>,
    /// The minimum time between two publications of changes.
    pub(crate) apply_interval: Duration,
    /// The interval of audits.
    pub(crate) audit_interval: Duration,
}

/// The rollout of one revision of a view.
#[derive(Debug)]
struct Rollout {
    revision: u64,
    /// The time of the first change.
    since: Instant,
    operations: usize,
    namespaces: usize,
    failed: usize,
    /// The network namespaces that do not have the revision yet.
    pending: BTreeSet<NetnsId>,
}

/// The reconciler.
#[derive(Debug)]
pub(crate) struct Reconciler {
    options: Options,
    catalog: Catalog,
    fleet: Fleet,
    unserved: UnservedAttachments,
    timers: Timers,
    views: BTreeMap<ServiceFilter, ViewState>,
    rollouts: BTreeMap<ServiceFilter, Rollout>,
    /// Why the service source cannot be read, during an outage.
    outage: Option<String>,
    objects_rejected: usize,
    /// Records that could not be written.
    records: RecordRetries,
    /// DNS in pods, if it is enabled.
    dns: Option<DnsState>,
    /// Whether it was logged that on-demand mode is unavailable.
    has_logged_on_demand: bool,
    /// Services whose refused portals were logged.
    refusals_logged: BTreeSet<ServiceKey>,
    counts: Counts,
    effects: Vec<Effect>,
}

impl Reconciler {
    /// A reconciler without services and network namespaces.
    pub(crate) fn new(options: Options, now: Instant) -> Self {
        Self {
            catalog: Catalog::new(&options),
            dns: options.dns.clone().map(DnsState::new),
            timers: Timers::new(now + options.audit_interval),
            options,
            fleet: Fleet::default(),
            unserved: UnservedAttachments::default(),
            views: BTreeMap::new(),
            rollouts: BTreeMap::new(),
            outage: None,
            objects_rejected: 0,
            records: RecordRetries::default(),
            has_logged_on_demand: false,
            refusals_logged: BTreeSet::new(),
            counts: Counts::default(),
            effects: Vec::new(),
        }
    }

    /// Returns the effects to execute before an event is handled: at the end of the initial sync the thread of node portals
    /// starts to program the node, while this one computes the views of pods.
    pub(crate) fn effects_before(&mut self, now: Instant, event: &Event) -> Vec<Effect> {
        if matches!(event, Event::Source(SourceEvent::Synced)) && !self.catalog.is_synced() {
            self.update_node(None, now);
        }
        std::mem::take(&mut self.effects)
    }

    /// Handles an event, and returns the effects to execute.
    pub(crate) fn step(&mut self, now: Instant, event: Event) -> Vec<Effect> {
        match event {
            Event::Source(event) => self.on_source_event(event, now),
            Event::Attach(id, attachment, netns) => self.attach(id, attachment, netns, now),
            Event::Recover(record) => self.recover(record, now),
            Event::Detach(id, key) => {
                self.end(key, "the pod was deleted", now);
                self.reply(id, Reply::Done);
            }
            Event::Check(id, netns) => self.check(id, netns),
            Event::Gc(id, network, valid) => self.gc(id, &network, &valid, now),
            Event::Ready(id) => {
                let reply = if self.catalog.is_synced() { Reply::Done } else { self.not_ready() };
                self.reply(id, reply);
            }
            Event::NetnsGone(netns) => self.remove_netns(netns, "the network namespace no longer exists"),
            Event::RelayListening(netns, error) => self.on_relay_listening(netns, error, now),
            Event::JobDone(netns, outcome) => self.on_job_done(netns, outcome, now),
            Event::RecordWritten(record, is_written) => self.records.finish(*record, is_written, now),
            Event::PortalUsed(netns, key) => self.on_portal_used(netns, key, now),
            Event::CleanupDone(netns, is_complete) => self.on_cleanup_done(netns, is_complete),
            Event::DnsFailed(netns, error) => self.on_dns_failed(netns, error, now),
            Event::Mesh(netns, is_present) => self.on_mesh(netns, is_present),
            Event::Tick => {}
        }
        self.tick(now);
        std::mem::take(&mut self.effects)
    }

    fn on_source_event(&mut self, event: SourceEvent, now: Instant) {
        match event {
            SourceEvent::Changes(changes) => {
                for service in self.catalog.apply(changes, now) {
                    self.log(LogEvent::DialIgnored(service));
                }
            }
            SourceEvent::Node(node) => {
                if self.options.has_node_portals {
                    self.effects.push(Effect::UpdateNode(NodeEvent::Node(node.clone())));
                }
                self.catalog.set_node(node, now);
            }
            SourceEvent::Synced => {
                if !self.catalog.is_synced() {
                    self.complete_sync(now);
                }
            }
            SourceEvent::Outage(reason) => {
                self.counts.outages += u64::from(self.outage.is_none());
                self.outage = Some(reason.clone());
                self.log(LogEvent::SourceOutage(reason));
            }
            SourceEvent::Recovered => {
                self.outage = None;
                self.log(LogEvent::SourceRecovered);
            }
            SourceEvent::Rejected(RejectedObjects { count, reason }) => {
                self.objects_rejected = count;
                if let Some(reason) = reason {
                    self.log(LogEvent::ObjectRejected { reason, count });
                }
            }
        }
    }

    /// Returns the next time at which something is due.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let publish = self.catalog.publish_at();
        let namespaces = self.fleet.iter().filter_map(|(_, namespace)| namespace.deadline());
        let dns = self.dns.as_ref().and_then(DnsState::deadline);
        let others = [publish, dns, self.records.deadline(), Some(self.timers.deadline())];
        namespaces.chain(others.into_iter().flatten()).min()
    }

    /// Whether the first attempt to program every network namespace ended, successfully or not.
    pub(crate) fn is_settled(&self) -> bool {
        self.catalog.is_synced() && self.fleet.iter().all(|(_, namespace)| namespace.is_settled())
    }

    fn log(&mut self, event: LogEvent) {
        self.effects.push(Effect::Log(event));
    }

    fn reply(&mut self, id: RequestId, reply: Reply) {
        self.effects.push(Effect::Reply(id, reply));
    }

    fn refuse(&mut self, id: RequestId, message: String, transient: bool) {
        self.reply(id, Reply::Refused { message, transient });
    }

    fn not_ready(&self) -> Reply {
        let reason = self.outage.as_deref().unwrap_or("the agent has just started");
        Reply::Refused { message: format!("initial sync not complete: {reason}"), transient: true }
    }

    /// Passes services on to node portals; all of them without `changed`.
    fn update_node(&mut self, changed: Option<&ChangedServices>, since: Instant) {
        if self.options.has_node_portals {
            let snapshot = self.catalog.snapshot().clone();
            let event = NodeEvent::Services { snapshot, changed: changed.cloned(), since };
            self.effects.push(Effect::UpdateNode(event));
        }
    }

    /// Computes the views of all network namespaces after the initial sync.
    fn complete_sync(&mut self, now: Instant) {
        self.catalog.complete_sync(now);
        self.ensure_view(&ServiceFilter::All, now);
        let namespaces: Vec<(NetnsId, ServiceFilter)> =
            self.fleet.iter().map(|(netns, namespace)| (netns, namespace.filter.clone())).collect();
        for (netns, filter) in namespaces {
            self.ensure_view(&filter, now);
            let (filter, on_demand) = (self.interned(filter.clone()), self.on_demand_set(&filter));
            if let Some(namespace) = self.fleet.get_mut(netns) {
                (namespace.filter, namespace.on_demand) = (filter, on_demand);
            }
        }
        self.enforce_budget();
        self.publish_names(None, true);
        let (services, portals) =
            (self.catalog.snapshot().service_count(), self.views[&ServiceFilter::All].portal_count());
        self.log(LogEvent::Synced { services, portals });
        self.log_refusals(None);
        self.timers.request_store(now);
    }

    /// Does what is due.
    fn tick(&mut self, now: Instant) {
        let records = self.records.take_due(now);
        self.effects.extend(records.into_iter().map(Effect::WriteRecord));
        if !self.catalog.is_synced() {
            self.expire_attaches(now);
            return;
        }
        if self.catalog.publish_at().is_some_and(|at| at <= now) {
            self.publish(now);
        }
        if self.timers.start_audit(now, self.options.audit_interval) {
            self.audit(now);
        }
        if self.timers.is_store_due(now) {
            self.store_ruleset(now);
        }
        self.start_jobs(now);
        self.start_cleanups(now);
        self.retry_dns(now);
        self.expire_attaches(now);
    }

    fn audit(&mut self, now: Instant) {
        self.fleet.iter_mut().for_each(|(_, namespace)| namespace.begin_audit(now));
        self.audit_on_demand();
        self.effects.push(Effect::Sweep);
        self.fleet.expire_ended(now);
        self.release_views();
    }

    /// Starts the next job of every idle network namespace.
    fn start_jobs(&mut self, now: Instant) {
        self.fast_forward();
        let routes = self.route_destinations();
        for (netns, namespace) in self.fleet.iter_mut() {
            let Some(view) = self.views.get_mut(&namespace.filter) else { continue };
            let Some(job) = namespace.next(view, &routes, now) else { continue };
            if let Operation::Apply(batch) = &job.operation
                && let Some(rollout) = self.rollouts.get_mut(&namespace.filter)
            {
                rollout.operations = batch.operations;
            }
            self.effects.push(Effect::Run(netns, job));
        }
    }

    /// Returns the view with this filter, if it exists, for a network namespace.
    fn view_of(&self, namespace: &NetnsState) -> Option<&ViewState> {
        self.views.get(&namespace.filter)
    }
}
