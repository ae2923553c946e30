//! The decisions of the reconciler, without a kernel and without a clock.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use agent_ipc::{ProgrammedBy, Record, Reply};
use proxy_core::node::Node;
use proxy_core::portal::{ExternalPolicy, PortalLimits, ServiceFilter};
use proxy_core::ruleset::Settings;
use proxy_core::sample::{slice, svc, udp};
use proxy_core::service::Mode;
use proxy_core::snapshot::Change;

use super::attachments::ATTACH_TIMEOUT;
use super::{Options, Reconciler, SourceEvent};
use crate::budget::Budget;
use crate::event::{Effect, Event, Job, LogEvent, Operation, Outcome, RequestId};
use crate::netns_state::KernelState;
use crate::on_demand::ProgrammingMode;
use crate::test_builders::{attachment, key, netns};
use crate::udp_cleanup::CLEANUP_INTERVAL;
use crate::view::EncodedBatch;

const INTERVAL: Duration = Duration::from_millis(10);
const AUDIT: Duration = Duration::from_secs(30);
/// On-demand portals are evicted after three audits.
const IDLE: Duration = Duration::from_secs(90);
const OK: Outcome = Outcome::Applied(Some(7));

struct TestAgent {
    reconciler: Reconciler,
    now: Instant,
}

impl TestAgent {
    /// An agent with one service with one backend.
    fn synced() -> Self {
        let mut agent = Self::new();
        agent.source(SourceEvent::Changes(dns_objects("10.1.0.1")));
        agent.source(SourceEvent::Synced);
        agent
    }

    fn new() -> Self {
        Self::with(ProgrammingMode::OnDemandAbove(10))
    }

    fn with(programming_mode: ProgrammingMode) -> Self {
        let now = Instant::now();
        let options = Options {
            node: Node::default(),
            mode: Mode::Kernel,
            settings: Settings::default(),
            dial_from_node: Vec::new(),
            programming_mode,
            portal_idle: IDLE,
            external: ExternalPolicy::all(),
            limits: PortalLimits::STANDARD,
            budget: Budget::UNLIMITED,
            has_node_portals: false,
            dns: None,
            service_ranges: Vec::new(),
            apply_interval: INTERVAL,
            audit_interval: AUDIT,
        };
        Self { reconciler: Reconciler::new(options, now), now }
    }

    fn step(&mut self, event: Event) -> Vec<Effect> {
        self.reconciler.step(self.now, event)
    }

    fn source(&mut self, event: SourceEvent) -> Vec<Effect> {
        self.step(Event::Source(event))
    }

    fn tick_after(&mut self, by: Duration) -> Vec<Effect> {
        self.now += by;
        self.step(Event::Tick)
    }

    fn attach(&mut self, number: u64) -> Vec<Effect> {
        let name = format!("pod-{number}");
        self.step(Event::Attach(RequestId(number), attachment(&name), netns(number)))
    }

    /// Attaches a pod, and commits its transaction.
    fn attach_and_commit(&mut self, number: u64) {
        assert_eq!(operations(&self.attach(number)).len(), 1, "one job for a new pod");
        self.step(Event::JobDone(netns(number), OK));
    }

    /// Replaces the backend, some time after the last change.
    fn change_backend(&mut self, backend: &str) -> Vec<Effect> {
        self.now += INTERVAL;
        self.source(SourceEvent::Changes(dns_objects(backend)))
    }
}

fn dns_objects(backend: &str) -> Vec<Change> {
    let dns = svc("dns").ip("10.96.0.10").tcp("tcp", 53).udp("udp", 53);
    let endpoints = slice("dns").tcp("tcp", 5353).udp("udp", 5353).at(backend);
    vec![dns.into(), endpoints.into()]
}

fn operations(effects: &[Effect]) -> Vec<(u64, &Operation)> {
    effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Run(netns, Job { operation, .. }) => Some((netns.inode, operation)),
            _ => None,
        })
        .collect()
}

fn batches(effects: &[Effect]) -> Vec<(u64, &Arc<EncodedBatch>)> {
    let runs = operations(effects).into_iter();
    runs.filter_map(
        |(netns, operation)| {
            if let Operation::Apply(batch) = operation { Some((netns, batch)) } else { None }
        },
    )
    .collect()
}

fn replies(effects: &[Effect]) -> Vec<(u64, &Reply)> {
    let mut replies = Vec::new();
    for effect in effects {
        if let Effect::Reply(id, reply) = effect {
            replies.push((id.0, reply));
        }
    }
    replies
}

fn log_events(effects: &[Effect]) -> Vec<&LogEvent> {
    effects.iter().filter_map(|e| if let Effect::Log(event) = e { Some(event) } else { None }).collect()
}

fn is_transient(reply: &Reply) -> bool {
    matches!(reply, Reply::Refused { transient: true, .. })
}

fn record(number: u64) -> Record {
    let attachment = attachment(&format!("pod-{number}"));
    Record { attachment, netns_id: netns(number), programmed_by: ProgrammedBy::Agent }
}

mod attach;
mod audit;
mod changes;
mod cleanup;
mod memory;
mod on_demand;
mod recovery;
mod relay;
mod unserved;
