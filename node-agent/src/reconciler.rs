//! `Reconciler`: keeps every attached network namespace at what it should hold. A pure state machine.
//!
//! ```text
//! Event ── step(now) ──► Effects        deadline() ──► when to call with Tick
//! ```
//! Changes are gathered and published to the views at most once per interval, the first at once; each network
//! namespace follows its view at its own pace. What must not go in here: IO, clocks, logs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use agent_ipc::{Attachment, AttachmentKey, ProgrammedBy, Record, Reply};
use ipnet::IpNet;
use kube_source::RejectedObjects;
use netns_nft::NetnsId;
use proxy_core::node::Node;
use proxy_core::portal::{ExternalPolicy, PortalLimits, ServiceFilter};
use proxy_core::ruleset::Settings;
use proxy_core::service::{Mode, ServiceKey};
use proxy_core::snapshot::{Change, ChangedServices, Snapshot};

use crate::budget::Budget;
use crate::dial_from_node::DialFromNode;
use crate::event::{Effect, Event, LogEvent, Operation, RequestId};
use crate::netns_state::{AttachedPod, KernelState, NetnsState};
use crate::on_demand::ProgrammingMode;
use crate::record_retries::RecordRetries;
use crate::report::Counts;
use crate::service_filter::view_of;
use crate::view::ViewState;

/// How long the plugin is kept waiting until services are known and the pod is programmed.
const ATTACH_TIMEOUT: Duration = Duration::from_secs(20);
/// The stored ruleset is written at most so often.
const STORE_INTERVAL: Duration = Duration::from_secs(1);

/// A runtime removes its own result only when all plugins are done, and tries for minutes where one fails.
const ENDED_KEPT: Duration = Duration::from_secs(600);

/// What the operator decides.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub(crate) node: Node,
    pub(crate) mode: Mode,
    pub(crate) settings: Settings,
    /// The namespaces whose services may be dialled from the node.
    pub(crate) dial_from_node: Vec<String>,
    /// Which portals a network namespace gets.
    pub(crate) provision: ProgrammingMode,
    /// On demand a portal that is not used for so long goes again.
    pub(crate) portal_idle: Duration,
    /// Which external addresses of services become portals.
    pub(crate) outside: ExternalPolicy,
    /// How much services may put into tables.
    pub(crate) bounds: PortalLimits,
    /// How much kernel memory tables may take.
    pub(crate) budget: Budget,
    /// Service ranges that are known without being told.
    pub(crate) service_ranges: Vec<IpNet>,
    /// Changes are published at most so often.
    pub(crate) apply_interval: Duration,
    /// Network namespaces are looked at so often.
    pub(crate) audit_interval: Duration,
}

/// How a change is getting on.
#[derive(Debug)]
struct Rollout {
    revision: u64,
    since: Instant,
    operations: usize,
    namespaces: usize,
    failed: usize,
    /// Whoever has not answered yet.
    pending: BTreeSet<NetnsId>,
}

/// The agent.
#[derive(Debug)]
pub(crate) struct Reconciler {
    options: Options,
    dial_from_node: DialFromNode,
    snapshot: Snapshot,
    ranges: Arc<[IpNet]>,
    is_synced: bool,
    trouble: Option<String>,
    objects_refused: usize,
    changed: ChangedServices,
    has_news: bool,
    is_elsewhere: bool,
    changed_since: Option<Instant>,
    published: Option<Instant>,
    views: BTreeMap<ServiceFilter, ViewState>,
    progress: BTreeMap<ServiceFilter, Rollout>,
    members: BTreeMap<NetnsId, NetnsState>,
    places: BTreeMap<AttachmentKey, NetnsId>,
    /// What the runtime ended lately, and when: what was read about it before must not bring it back.
    ended: BTreeMap<AttachmentKey, Instant>,
    audit_at: Instant,
    /// When the last audit began.
    audited: Option<Instant>,
    /// Whether it was told why portals cannot be on demand.
    is_told_of_ranges: bool,
    /// Services whose portals were refused, and that were named in the log.
    refused_named: BTreeSet<ServiceKey>,
    /// There is room for so many pods.
    pods_max: usize,
    is_store_due: bool,
    stored: Option<Instant>,
    /// Records that could not be written.
    unwritten: RecordRetries,
    counts: Counts,
    effects: Vec<Effect>,
}

impl Reconciler {
    /// An agent that knows nothing yet.
    pub(crate) fn new(options: Options, now: Instant) -> Self {
        let audit_at = now + options.audit_interval;
        let mut snapshot = Snapshot::new();
        if !options.service_ranges.is_empty() {
            snapshot.apply(Change::ServiceRanges(options.service_ranges.clone()));
        }
        Self {
            ranges: snapshot.all_service_ranges().into(),
            dial_from_node: DialFromNode::of(options.dial_from_node.iter().cloned()),
            options,
            snapshot,
            is_synced: false,
            trouble: None,
            objects_refused: 0,
            changed: ChangedServices::new(),
            has_news: false,
            is_elsewhere: false,
            changed_since: None,
            published: None,
            views: BTreeMap::new(),
            progress: BTreeMap::new(),
            members: BTreeMap::new(),
            places: BTreeMap::new(),
            ended: BTreeMap::new(),
            audit_at,
            audited: None,
            is_told_of_ranges: false,
            refused_named: BTreeSet::new(),
            pods_max: 0,
            is_store_due: false,
            stored: None,
            unwritten: RecordRetries::default(),
            counts: Counts::default(),
            effects: Vec::new(),
        }
    }

    /// Takes an event, and says what is to be done.
    pub(crate) fn step(&mut self, now: Instant, event: Event) -> Vec<Effect> {
        match event {
            Event::Changes(changes) => self.take_changes(changes, now),
            Event::Node(node) => {
                self.is_elsewhere |= self.options.node != node;
                self.options.node = node;
                self.news(now);
            }
            Event::Synced if !self.is_synced => self.sync(now),
            Event::Synced => {}
            Event::Outage(why) => {
                self.counts.troubles += u64::from(self.trouble.is_none());
                self.trouble = Some(why.clone());
                self.note(LogEvent::SourceOutage(why));
            }
            Event::Recovered => {
                self.trouble = None;
                self.note(LogEvent::SourceRecovered);
            }
            Event::RejectedObjects(RejectedObjects { count, reason }) => {
                self.objects_refused = count;
                if let Some(reason) = reason {
                    self.note(LogEvent::ObjectRejected { reason, count });
                }
            }
            Event::Attach(ticket, attachment, netns) => self.attach(ticket, attachment, netns, now),
            Event::Recover(record) => self.adopt(record, now),
            Event::Detach(ticket, key) => {
                self.end(key, "its pod was deleted", now);
                self.answer(ticket, Reply::Done);
            }
            Event::Check(ticket, netns) => self.check(ticket, netns, now),
            Event::Gc(ticket, network, valid) => self.collect(ticket, &network, &valid, now),
            Event::Ready(ticket) => {
                let reply = if self.is_synced { Reply::Done } else { self.not_ready() };
                self.answer(ticket, reply);
            }
            Event::NetnsGone(netns) => self.forget(netns, "its network namespace is gone"),
            Event::RelayListening(netns, fault) => self.listened(netns, fault, now),
            Event::JobDone(netns, outcome) => self.settle(netns, outcome, now),
            Event::RecordWritten(record, is_written) => self.unwritten.tell(*record, is_written, now),
            Event::PortalUsed(netns, key) => self.used(netns, key, now),
            Event::CleanupDone(netns, is_complete) => self.cleaned_up(netns, is_complete),
            Event::Tick => {}
        }
        self.tick(now);
        std::mem::take(&mut self.effects)
    }

    /// When time alone makes something due.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let publish = self.is_synced.then(|| self.publish_at()).flatten();
        let store = self.store_at();
        let members = self.members.values().filter_map(NetnsState::deadline);
        let records = self.unwritten.deadline();
        members.chain(publish).chain(store).chain(records).chain([self.audit_at]).min()
    }

    /// Whether every network namespace that is known is right, or known not to become so.
    pub(crate) fn is_settled(&self) -> bool {
        let is_done = |member: &NetnsState| member.revision().is_some() || member.error.is_some();
        self.is_synced && self.members.values().all(is_done)
    }

    fn note(&mut self, note: LogEvent) {
        self.effects.push(Effect::Log(note));
    }

    fn answer(&mut self, ticket: RequestId, reply: Reply) {
        self.effects.push(Effect::Reply(ticket, reply));
    }

    fn refuse(&mut self, ticket: RequestId, message: String, transient: bool) {
        self.answer(ticket, Reply::Refused { message, transient });
    }

    fn not_ready(&self) -> Reply {
        let message = match &self.trouble {
            Some(why) => format!("services and endpoints are not known yet: {why}"),
            None => "services and endpoints are not known yet; the agent has just started".to_owned(),
        };
        Reply::Refused { message, transient: true }
    }

    fn sync(&mut self, now: Instant) {
        self.is_synced = true;
        self.changed.clear();
        (self.has_news, self.is_elsewhere, self.changed_since) = (false, false, None);
        self.published = Some(now);
        self.ranges = self.snapshot.all_service_ranges().into();
        self.view(&ServiceFilter::All, now);
        let all: Vec<(NetnsId, ServiceFilter)> =
            self.members.iter().map(|(netns, member)| (*netns, member.view.clone())).collect();
        for (netns, view) in all {
            self.view(&view, now);
            let (view, demand) = (self.interned(view.clone()), self.demand_of(&view));
            self.members.entry(netns).and_modify(|member| (member.view, member.demand) = (view, demand));
        }
        self.economise();
        let (services, portals) =
            (self.snapshot.service_count(), self.views[&ServiceFilter::All].portal_count());
        self.note(LogEvent::Synced { services, portals });
        self.name_refused(None);
        self.is_store_due = true;
    }

    fn publish_at(&self) -> Option<Instant> {
        let since = self.changed_since?;
        Some(self.published.map_or(since, |last| since.max(last + self.options.apply_interval)))
    }

    fn store_at(&self) -> Option<Instant> {
        // The first time at once: what is to be stored was published just now.
        let due = self.stored.map(|last| last + STORE_INTERVAL).or(self.published);
        due.filter(|_| self.is_store_due)
    }

    /// Does what is due.
    fn tick(&mut self, now: Instant) {
        let again = self.unwritten.due(now);
        self.effects.extend(again.into_iter().map(Effect::WriteRecord));
        if !self.is_synced {
            self.give_up_waiting(now);
            return;
        }
        if self.publish_at().is_some_and(|at| at <= now) {
            self.publish(now);
        }
        if self.audit_at <= now {
            self.audit_at = now + self.options.audit_interval;
            self.audited = Some(now);
            self.members.values_mut().for_each(|member| member.begin_audit(now));
            self.audit_demand();
            self.effects.push(Effect::Sweep);
            self.ended.retain(|_, at| now < *at + ENDED_KEPT);
            self.tidy_views();
        }
        if self.store_at().is_some_and(|at| at <= now) {
            self.store(now);
        }
        self.dispatch(now);
        self.clean_up(now);
        self.give_up_waiting(now);
    }

    /// Gives every network namespace that is free its next job.
    fn dispatch(&mut self, now: Instant) {
        self.catch_up();
        for (netns, member) in &mut self.members {
            let Some(view) = self.views.get_mut(&member.view) else { continue };
            if let Some(job) = member.next(view, &self.ranges, now) {
                if let Operation::Apply(prepared) = &job.operation
                    && let Some(progress) = self.progress.get_mut(&member.view)
                {
                    progress.operations = prepared.operations;
                }
                self.effects.push(Effect::Run(*netns, job));
            }
        }
    }

    fn attach(&mut self, ticket: RequestId, attachment: Attachment, netns: NetnsId, now: Instant) {
        let key = attachment.key.clone();
        let view = match view_of(&attachment).and_then(|view| attachment.guests().map(|_| view)) {
            Ok(view) => view,
            Err(why) => {
                self.let_go(netns);
                return self.refuse(ticket, why, false);
            }
        };
        if self.places.get(&key).is_some_and(|place| *place != netns) {
            self.detach(&key, "another network namespace took its place");
        }
        for what in &attachment.notes {
            self.effects.push(Effect::Log(LogEvent::SuspiciousConfig {
                attachment: key.clone(),
                what: what.clone(),
            }));
        }
        let waiting = Some((ticket, now + ATTACH_TIMEOUT));
        self.join(attachment, ProgrammedBy::Agent, waiting, (netns, view, KernelState::New), now);
    }

    /// A network namespace from before this agent started, or one that the plugin programmed without it.
    fn adopt(&mut self, record: Record, now: Instant) {
        let Record { attachment, netns_id, programmed_by: programmer } = record.clone();
        let key = attachment.key.clone();
        if self.places.contains_key(&key) || self.ended.contains_key(&key) {
            return self.let_go(netns_id);
        }
        let view = view_of(&attachment).unwrap_or_default();
        let pod = attachment.pod.as_ref().map(ToString::to_string);
        self.join(attachment, programmer, None, (netns_id, view, KernelState::Found), now);
        self.effects.push(Effect::WriteRecord(record));
        self.note(LogEvent::Attached { attachment: key, pod, how: "adopted" });
    }

    fn join(
        &mut self,
        attachment: Attachment,
        programmer: ProgrammedBy,
        waiting: Option<(RequestId, Instant)>,
        (netns, view, standing): (NetnsId, ServiceFilter, KernelState),
        now: Instant,
    ) {
        if self.is_synced {
            self.view(&view, now);
        }
        let view = self.interned(view);
        let known = self.members.get(&netns).map(|member| member.view == view);
        let demand = if known == Some(true) {
            None
        } else {
            self.demand_of(&view).or_else(|| self.demand_by_memory(&view))
        };
        let member = self.members.entry(netns).or_insert_with(|| NetnsState::new(view.clone(), standing));
        match known {
            Some(true) => {}
            Some(false) => {
                (member.view, member.demand, member.standing) = (view, demand, KernelState::Drifted)
            }
            None => member.demand = demand,
        }
        member.serve(attachment.guests().unwrap_or_default());
        member.are_routes_due = true;
        member.retry_at = None;
        self.places.insert(attachment.key.clone(), netns);
        self.ended.remove(&attachment.key);
        self.counts.attached += 1;
        let key = attachment.key.clone();
        let replaced = member.attachments.insert(key, AttachedPod { attachment, programmer, waiting });
        if let Some((ticket, _)) = replaced.and_then(|held| held.waiting) {
            let message = "another ADD of the same attachment took its place".to_owned();
            self.refuse(ticket, message, true);
        }
        self.make_room(now);
        self.economise();
    }
}

mod memory;
mod on_demand;
mod outcomes;
#[cfg(test)]
mod tests;
mod views;
