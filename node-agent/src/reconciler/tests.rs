//! The agent's decisions, without a kernel and without a clock.

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

use super::{ATTACH_TIMEOUT, Options, Reconciler};
use crate::budget::Budget;
use crate::event::{Effect, Event, Job, LogEvent, Operation, Outcome, RequestId};
use crate::netns_state::KernelState;
use crate::on_demand::ProgrammingMode;
use crate::test_builders::{attachment, key, netns};
use crate::udp_cleanup::CLEANUP_INTERVAL;
use crate::view::EncodedBatch;

const INTERVAL: Duration = Duration::from_millis(10);
const AUDIT: Duration = Duration::from_secs(30);
/// On demand a portal goes after three audits.
const IDLE: Duration = Duration::from_secs(90);
const OK: Outcome = Outcome::Applied(Some(7));

struct TestAgent {
    reconciler: Reconciler,
    now: Instant,
}

impl TestAgent {
    /// An agent that knows one service with one backend.
    fn synced() -> Self {
        let mut agent = Self::new();
        agent.step(Event::Changes(world("10.1.0.1")));
        agent.step(Event::Synced);
        agent
    }

    fn new() -> Self {
        Self::with(ProgrammingMode::OnDemandAbove(10))
    }

    fn with(provision: ProgrammingMode) -> Self {
        let now = Instant::now();
        let options = Options {
            node: Node::default(),
            mode: Mode::Kernel,
            settings: Settings::default(),
            dial_from_node: Vec::new(),
            provision,
            portal_idle: IDLE,
            outside: ExternalPolicy::all(),
            bounds: PortalLimits::STANDARD,
            budget: Budget::UNLIMITED,
            service_ranges: Vec::new(),
            apply_interval: INTERVAL,
            audit_interval: AUDIT,
        };
        Self { reconciler: Reconciler::new(options, now), now }
    }

    fn step(&mut self, event: Event) -> Vec<Effect> {
        self.reconciler.step(self.now, event)
    }

    fn later(&mut self, by: Duration) -> Vec<Effect> {
        self.now += by;
        self.step(Event::Tick)
    }

    fn attach(&mut self, number: u64) -> Vec<Effect> {
        let name = format!("pod-{number}");
        self.step(Event::Attach(RequestId(number), attachment(&name), netns(number)))
    }

    /// Attaches, and lets the kernel say yes.
    fn attached(&mut self, number: u64) {
        assert_eq!(runs(&self.attach(number)).len(), 1, "one job for a new pod");
        self.step(Event::JobDone(netns(number), OK));
    }

    /// Another backend, some time after the last change.
    fn change(&mut self, backend: &str) -> Vec<Effect> {
        self.now += INTERVAL;
        self.step(Event::Changes(world(backend)))
    }
}

fn world(backend: &str) -> Vec<Change> {
    let dns = svc("dns").ip("10.96.0.10").tcp("tcp", 53).udp("udp", 53);
    let made = slice("dns").tcp("tcp", 5353).udp("udp", 5353).at(backend);
    vec![dns.into(), made.into()]
}

fn runs(effects: &[Effect]) -> Vec<(u64, &Operation)> {
    effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Run(netns, Job { operation, .. }) => Some((netns.inode, operation)),
            _ => None,
        })
        .collect()
}

fn sent(effects: &[Effect]) -> Vec<(u64, &Arc<EncodedBatch>)> {
    let runs = runs(effects).into_iter();
    runs.filter_map(
        |(netns, work)| if let Operation::Apply(batch) = work { Some((netns, batch)) } else { None },
    )
    .collect()
}

fn answers(effects: &[Effect]) -> Vec<(u64, &Reply)> {
    let mut answers = Vec::new();
    for effect in effects {
        if let Effect::Reply(ticket, reply) = effect {
            answers.push((ticket.0, reply));
        }
    }
    answers
}

fn notes(effects: &[Effect]) -> Vec<&LogEvent> {
    effects.iter().filter_map(|e| if let Effect::Log(note) = e { Some(note) } else { None }).collect()
}

fn is_transient(reply: &Reply) -> bool {
    matches!(reply, Reply::Refused { transient: true, .. })
}

#[test]
fn nothing_is_programmed_before_the_first_complete_state() {
    let mut agent = TestAgent::new();
    agent.step(Event::Changes(world("10.1.0.1")));
    assert!(runs(&agent.attach(1)).is_empty());
    let effects = agent.step(Event::Synced);
    assert_eq!(sent(&effects).len(), 1);
    assert!(answers(&effects).is_empty(), "the kernel has not said yes");
    let effects = agent.step(Event::JobDone(netns(1), OK));
    assert_eq!(answers(&effects), [(1, &Reply::Done)]);
}

#[test]
fn a_record_is_written_before_the_plugin_is_answered() {
    let mut agent = TestAgent::synced();
    agent.attach(1);
    let effects = agent.step(Event::JobDone(netns(1), OK));
    let place = |of: fn(&Effect) -> bool| effects.iter().position(of).expect("it is among the effects");
    assert!(place(|e| matches!(e, Effect::WriteRecord(_))) < place(|e| matches!(e, Effect::Reply(..))));
}

#[test]
fn who_waits_too_long_for_services_is_told_to_try_again() {
    let mut agent = TestAgent::new();
    agent.step(Event::Outage("the API server does not answer".to_owned()));
    agent.attach(1);
    assert_eq!(agent.reconciler.deadline(), Some(agent.now + ATTACH_TIMEOUT));
    let effects = agent.later(ATTACH_TIMEOUT);
    let [(1, reply)] = answers(&effects)[..] else { panic!("{effects:?}") };
    assert!(is_transient(reply) && format!("{reply:?}").contains("does not answer"), "{reply:?}");
    assert!(effects.iter().any(|e| matches!(e, Effect::CloseNetns(_))), "nothing is held for it");
}

#[test]
fn the_first_change_goes_out_at_once_and_a_burst_is_gathered() {
    let mut agent = TestAgent::synced();
    agent.attached(1);
    assert_eq!(sent(&agent.change("10.1.0.2")).len(), 1, "at once");
    agent.step(Event::JobDone(netns(1), OK));
    assert!(runs(&agent.step(Event::Changes(world("10.1.0.3")))).is_empty(), "too soon");
    assert!(runs(&agent.step(Event::Changes(world("10.1.0.4")))).is_empty(), "too soon");
    assert_eq!(agent.reconciler.deadline(), Some(agent.now + INTERVAL));
    let effects = agent.later(INTERVAL);
    assert_eq!(sent(&effects).len(), 1, "both in one");
    let report = agent.reconciler.report(agent.now);
    assert_eq!(report.views["all"].revision, 3);
}

#[test]
fn a_change_that_changes_no_rule_sends_nothing() {
    let mut agent = TestAgent::synced();
    agent.attached(1);
    assert!(runs(&agent.change("10.1.0.1")).is_empty());
}

#[test]
fn all_namespaces_of_a_view_get_the_same_bytes() {
    let mut agent = TestAgent::synced();
    (1..=3).for_each(|number| agent.attached(number));
    let effects = agent.change("10.1.0.2");
    let sent = sent(&effects);
    assert_eq!(sent.len(), 3);
    assert!(sent.iter().all(|(_, batch)| Arc::ptr_eq(batch, sent[0].1)));
    assert!(sent[0].1.batch.len() < 1_000, "a change, not the whole: {} bytes", sent[0].1.batch.len());
}

#[test]
fn one_that_lags_gets_what_it_missed_in_one_transaction() {
    let mut agent = TestAgent::synced();
    agent.attached(1);
    agent.attached(2);
    agent.change("10.1.0.2");
    agent.step(Event::JobDone(netns(1), OK));
    let effects = agent.change("10.1.0.3");
    assert_eq!(sent(&effects).iter().map(|(netns, _)| *netns).collect::<Vec<_>>(), [1], "2 is still busy");
    agent.step(Event::JobDone(netns(1), OK));
    agent.change("10.1.0.4");
    agent.step(Event::JobDone(netns(1), OK));
    let effects = agent.step(Event::JobDone(netns(2), OK));
    assert_eq!(sent(&effects).len(), 1);
    agent.step(Event::JobDone(netns(2), OK));
    let report = agent.reconciler.report(agent.now);
    assert!(report.attachments.iter().all(|a| a.revision == Some(4) && a.lag_ms == 0), "{report:?}");
}

#[test]
fn a_broken_namespace_delays_no_other_and_is_tried_again_later() {
    let mut agent = TestAgent::synced();
    agent.attached(1);
    agent.attached(2);
    agent.change("10.1.0.2");
    agent.step(Event::JobDone(netns(2), OK));
    let broken = Outcome::Failed { message: "apply: no memory".to_owned(), transient: true };
    let effects = agent.step(Event::JobDone(netns(1), broken.clone()));
    let [LogEvent::Applied { failed: 1, namespaces: 2, .. }, LogEvent::JobFailed { retry_in, .. }] =
        notes(&effects)[..]
    else {
        panic!("{effects:?}")
    };
    assert_eq!(sent(&agent.change("10.1.0.3")).iter().map(|(n, _)| *n).collect::<Vec<_>>(), [2]);
    let report = agent.reconciler.report(agent.now);
    assert_eq!(report.attachments[0].error.as_deref(), Some("apply: no memory"));
    let effects = agent.later(*retry_in);
    assert_eq!(sent(&effects).iter().map(|(n, _)| *n).collect::<Vec<_>>(), [1]);
    let effects = agent.step(Event::JobDone(netns(1), broken));
    let [LogEvent::JobFailed { retry_in: second, .. }] = notes(&effects)[..] else { panic!("{effects:?}") };
    assert!(second > retry_in, "each time later");
    agent.later(*second);
    agent.step(Event::JobDone(netns(1), OK));
    assert_eq!(agent.reconciler.report(agent.now).attachments[0].error, None);
}

#[test]
fn a_pod_that_cannot_be_programmed_is_refused_and_not_kept() {
    let mut agent = TestAgent::synced();
    agent.attach(1);
    let why = Outcome::Failed { message: "open a netfilter socket".to_owned(), transient: false };
    let effects = agent.step(Event::JobDone(netns(1), why));
    let [(1, Reply::Refused { message, transient: false })] = answers(&effects)[..] else {
        panic!("{effects:?}")
    };
    assert_eq!(message, "open a netfilter socket");
    assert!(effects.iter().any(|e| matches!(e, Effect::CloseNetns(_))));
    assert!(!effects.iter().any(|e| matches!(e, Effect::WriteRecord(_))));
    assert!(agent.reconciler.report(agent.now).attachments.is_empty());
}

fn record(number: u64) -> Record {
    let attachment = attachment(&format!("pod-{number}"));
    Record { attachment, netns_id: netns(number), programmed_by: ProgrammedBy::Agent }
}

#[test]
fn after_a_restart_what_is_right_is_left_alone() {
    let mut agent = TestAgent::new();
    agent.step(Event::Recover(record(1)));
    agent.step(Event::Changes(world("10.1.0.1")));
    let effects = agent.step(Event::Synced);
    assert!(matches!(runs(&effects)[..], [(1, Operation::Verify(_, None))]), "{effects:?}");
    let effects = agent.step(Event::JobDone(netns(1), Outcome::Matches(Some(3))));
    assert!(runs(&effects).is_empty());
    assert_eq!(sent(&agent.change("10.1.0.2")).len(), 1, "and follows from then on");
}

#[test]
fn after_a_restart_what_is_old_is_replaced_in_one_transaction() {
    let mut agent = TestAgent::synced();
    assert!(matches!(runs(&agent.step(Event::Recover(record(1))))[..], [(1, Operation::Verify(_, None))]));
    let effects = agent.step(Event::JobDone(netns(1), Outcome::Drifted("1 backend".to_owned())));
    assert_eq!(sent(&effects).len(), 1);
    assert!(notes(&effects).is_empty(), "that is no damage: {effects:?}");
    agent.step(Event::JobDone(netns(1), OK));
    assert_eq!(agent.reconciler.report(agent.now).attachments[0].repairs, 0);
}

#[test]
fn what_the_runtime_ended_is_not_adopted_from_what_was_read_before() {
    let mut agent = TestAgent::synced();
    agent.attached(1);
    agent.step(Event::Detach(RequestId(2), key("pod-1")));
    let effects = agent.step(Event::Recover(record(1)));
    assert!(
        matches!(effects[..], [Effect::CloseNetns(id)] if id == netns(1)),
        "it is not held open: {effects:?}"
    );
    assert_eq!(agent.reconciler.report(agent.now).attachments, []);
    agent.attached(1);
    assert_eq!(agent.reconciler.report(agent.now).attachments.len(), 1, "it may be attached again");
}

#[test]
fn a_record_that_could_not_be_written_is_tried_again_until_it_is() {
    let mut agent = TestAgent::synced();
    agent.attach(1);
    let written = |effects: &[Effect]| {
        effects
            .iter()
            .filter_map(|e| if let Effect::WriteRecord(record) = e { Some(record.clone()) } else { None })
            .next_back()
    };
    let record = written(&agent.step(Event::JobDone(netns(1), OK))).expect("a record");
    for _ in 0..4 {
        agent.step(Event::RecordWritten(Box::new(record.clone()), false));
        assert_eq!(agent.reconciler.report(agent.now).records_unwritten, 1);
        let pause = agent.reconciler.deadline().expect("it is tried again") - agent.now;
        assert!(pause <= Duration::from_secs(8), "{pause:?}");
        assert_eq!(written(&agent.later(pause)), Some(record.clone()));
    }
    agent.step(Event::RecordWritten(Box::new(record.clone()), true));
    assert_eq!(agent.reconciler.report(agent.now).records_unwritten, 0);
    agent.step(Event::RecordWritten(Box::new(record), false));
    agent.step(Event::Detach(RequestId(2), key("pod-1")));
    assert_eq!(agent.reconciler.report(agent.now).records_unwritten, 0, "nobody needs it any more");
}

#[test]
fn a_second_add_of_an_attachment_answers_the_first() {
    let mut agent = TestAgent::synced();
    agent.attach(1);
    let effects = agent.step(Event::Attach(RequestId(2), attachment("pod-1"), netns(1)));
    let [(1, reply)] = answers(&effects)[..] else { panic!("{effects:?}") };
    assert!(is_transient(reply), "{reply:?}");
    assert_eq!(answers(&agent.step(Event::JobDone(netns(1), OK))), [(2, &Reply::Done)]);
}

#[test]
fn while_the_relay_cannot_listen_its_portals_refuse_and_changes_go_on() {
    let mut agent = TestAgent::synced();
    let relayed = |backend: &str| -> Vec<Change> {
        let made = slice("web").tcp("a", 8080).at(backend);
        vec![svc("web").ip("10.96.0.1").tcp("a", 80).mode(Mode::Relay).into(), made.into()]
    };
    agent.now += INTERVAL;
    agent.step(Event::Changes(relayed("10.1.0.2")));
    let wants_relay = |effects: &[Effect]| {
        effects.iter().any(|effect| matches!(effect, Effect::Run(_, job) if job.relay.is_some()))
    };
    assert!(wants_relay(&agent.attach(1)));
    let taken = || Event::RelayListening(netns(1), Some("the port is taken".to_owned()));
    let effects = agent.step(taken());
    assert!(matches!(notes(&effects)[..], [LogEvent::RelayUnavailable { .. }]), "{effects:?}");
    // What was to redirect connections is not sent; what refuses them is sent at once.
    let effects = agent.step(Event::JobDone(netns(1), Outcome::RelayUnavailable));
    assert!(answers(&effects).is_empty() && !wants_relay(&effects), "{effects:?}");
    assert_eq!(sent(&effects).len(), 1, "{effects:?}");
    assert_eq!(answers(&agent.step(Event::JobDone(netns(1), OK))), [(1, &Reply::Done)]);
    let has_relay = |agent: &TestAgent| match &agent.reconciler.members[&netns(1)].standing {
        KernelState::Known(applied) => applied.ruleset.settings().is_some_and(Settings::has_relay),
        other => panic!("{other:?}"),
    };
    assert!(!has_relay(&agent));
    assert_eq!(sent(&agent.change("10.1.0.9")).len(), 1, "the kernel's portals follow");
    agent.step(Event::JobDone(netns(1), OK));
    assert_eq!(agent.reconciler.report(agent.now).attachments[0].error.as_deref(), Some("the port is taken"));
    agent.step(Event::Changes(relayed("10.1.0.2")));
    agent.later(INTERVAL);
    agent.step(Event::JobDone(netns(1), OK));
    let effects = agent.later(Duration::from_secs(5));
    assert!(
        matches!(runs(&effects)[..], [(1, Operation::RoutesOnly)]) && wants_relay(&effects),
        "{effects:?}"
    );
    assert!(notes(&agent.step(taken())).is_empty(), "it is told once");
    assert!(runs(&agent.step(Event::JobDone(netns(1), Outcome::RelayUnavailable))).is_empty());
    agent.later(Duration::from_secs(5));
    agent.step(Event::RelayListening(netns(1), None));
    let effects = agent.step(Event::JobDone(netns(1), Outcome::Applied(None)));
    assert_eq!(
        sent(&effects).len(),
        1,
        "connections are redirected as soon as the relay listens: {effects:?}"
    );
    agent.step(Event::JobDone(netns(1), OK));
    assert!(has_relay(&agent));
    assert_eq!(agent.reconciler.report(agent.now).attachments[0].error, None);
    assert!(runs(&agent.later(Duration::from_secs(5))).is_empty());
}

#[test]
fn an_audit_looks_at_routes_too() {
    let mut agent = TestAgent::synced();
    agent.attached(1);
    let effects = agent.later(AUDIT);
    assert!(effects.iter().any(|e| matches!(e, Effect::Run(_, job) if job.routes.is_some())), "{effects:?}");
}

#[test]
fn a_check_is_answered_by_a_look_at_the_kernel() {
    let mut agent = TestAgent::synced();
    agent.attached(1);
    let effects = agent.step(Event::Check(RequestId(50), netns(1)));
    assert!(matches!(runs(&effects)[..], [(1, Operation::Verify(_, None))]), "{effects:?}");
    assert_eq!(
        answers(&agent.step(Event::JobDone(netns(1), Outcome::Matches(Some(7))))),
        [(50, &Reply::Done)]
    );
    agent.step(Event::Check(RequestId(51), netns(1)));
    let effects = agent.step(Event::JobDone(netns(1), Outcome::Drifted("chain portals is gone".to_owned())));
    let [(51, reply)] = answers(&effects)[..] else { panic!("{effects:?}") };
    assert!(is_transient(reply) && format!("{reply:?}").contains("chain portals"), "{reply:?}");
    let effects = agent.step(Event::Check(RequestId(52), netns(2)));
    assert!(matches!(answers(&effects)[..], [(52, Reply::Refused { transient: false, .. })]));
}

#[test]
fn a_detach_is_always_answered_and_lets_go_of_the_namespace() {
    let mut agent = TestAgent::synced();
    agent.attached(1);
    let effects = agent.step(Event::Detach(RequestId(9), key("pod-1")));
    assert_eq!(answers(&effects), [(9, &Reply::Done)]);
    assert!(effects.iter().any(|e| matches!(e, Effect::CloseNetns(id) if *id == netns(1))));
    assert!(effects.iter().any(|e| matches!(e, Effect::RemoveRecord(_))));
    let effects = agent.step(Event::Detach(RequestId(10), key("pod-1")));
    assert_eq!(answers(&effects), [(10, &Reply::Done)]);
}

#[test]
fn a_namespace_with_two_interfaces_lives_until_the_last_goes() {
    let mut agent = TestAgent::synced();
    agent.attached(1);
    let mut second = attachment("pod-1");
    second.key.interface = "net1".to_owned();
    let effects = agent.step(Event::Attach(RequestId(2), second.clone(), netns(1)));
    assert!(matches!(runs(&effects)[..], [(1, Operation::RoutesOnly)]), "only routes are new: {effects:?}");
    assert_eq!(answers(&agent.step(Event::JobDone(netns(1), Outcome::Applied(None)))), [(2, &Reply::Done)]);
    let closes = |effects: &[Effect]| effects.iter().any(|e| matches!(e, Effect::CloseNetns(_)));
    assert!(!closes(&agent.step(Event::Detach(RequestId(3), key("pod-1")))));
    assert!(closes(&agent.step(Event::Detach(RequestId(4), second.key))));
}

#[test]
fn a_second_interface_that_is_refused_takes_nothing_from_the_first() {
    let mut agent = TestAgent::synced();
    agent.attached(1);
    let mut wrong = attachment("pod-1");
    wrong.key.interface = "net1".to_owned();
    wrong.annotations.insert("portals".to_owned(), "no such thing".to_owned());
    let effects = agent.step(Event::Attach(RequestId(2), wrong, netns(1)));
    assert!(matches!(answers(&effects)[..], [(2, Reply::Refused { transient: false, .. })]), "{effects:?}");
    assert!(
        !effects.iter().any(|e| matches!(e, Effect::CloseNetns(_))),
        "the first still needs it: {effects:?}"
    );
}

#[test]
fn collection_drops_what_the_runtime_does_not_name() {
    let mut agent = TestAgent::synced();
    (1..=3).for_each(|number| agent.attached(number));
    let effects = agent.step(Event::Gc(RequestId(9), "net".to_owned(), vec![key("pod-2")]));
    assert_eq!(answers(&effects), [(9, &Reply::Done)]);
    let left = agent.reconciler.report(agent.now).attachments;
    assert_eq!(left.iter().map(|a| a.key.container_id.as_str()).collect::<Vec<_>>(), ["pod-2"]);
    agent.step(Event::Gc(RequestId(9), "other".to_owned(), Vec::new()));
    assert_eq!(agent.reconciler.report(agent.now).attachments.len(), 1, "another network's collection");
}

#[test]
fn a_pod_whose_namespace_is_gone_is_forgotten_with_its_record() {
    let mut agent = TestAgent::synced();
    agent.attached(1);
    let effects = agent.step(Event::NetnsGone(netns(1)));
    assert!(effects.iter().any(|e| matches!(e, Effect::RemoveRecord(_))));
    assert!(effects.iter().any(|e| matches!(e, Effect::CloseNetns(_))));
    assert!(agent.reconciler.report(agent.now).attachments.is_empty());
}

#[test]
fn udp_flows_are_moved_when_a_backend_goes_but_not_for_a_new_pod() {
    let mut agent = TestAgent::synced();
    agent.attach(1);
    let flows = |effects: &[Effect]| {
        effects
            .iter()
            .find_map(|e| if let Effect::DeleteStaleUdp(_, flows) = e { Some(flows.clone()) } else { None })
    };
    assert_eq!(flows(&agent.step(Event::JobDone(netns(1), OK))), None);
    agent.change("10.1.0.2");
    let moved = flows(&agent.step(Event::JobDone(netns(1), OK))).expect("the backend went");
    let left: Vec<SocketAddr> = moved[&udp("10.96.0.10:53")].to_vec();
    assert_eq!((moved.len(), left), (1, vec!["10.1.0.2:5353".parse().expect("an address")]));
    agent.step(Event::CleanupDone(netns(1), true));
    agent.now += INTERVAL;
    agent.step(Event::Changes(vec![Change::ServiceDeleted(proxy_core::service::ServiceKey::new(
        "default", "dns",
    ))]));
    assert_eq!(flows(&agent.step(Event::JobDone(netns(1), OK))), None, "too soon after the last clean-up");
    let moved = flows(&agent.later(CLEANUP_INTERVAL)).expect("the service went");
    assert!(moved[&udp("10.96.0.10:53")].is_empty());
}

#[test]
fn however_often_a_udp_service_changes_a_pod_has_one_cleanup_a_second() {
    for provision in [ProgrammingMode::All, ProgrammingMode::OnDemand] {
        let mut agent = TestAgent::with(provision);
        agent.step(Event::Changes(vec![Change::ServiceRanges(vec![
            "10.96.0.0/16".parse().expect("a range"),
        ])]));
        agent.step(Event::Changes(world("10.1.0.1")));
        agent.step(Event::Synced);
        agent.attached(1);
        let mut cleanups = 0;
        for number in 0..200_u64 {
            let mut effects = agent.change(if number % 2 == 0 { "10.1.0.2" } else { "10.1.0.1" });
            if !runs(&effects).is_empty() {
                effects.extend(agent.step(Event::JobDone(netns(1), OK)));
            }
            let new = effects.iter().filter(|effect| matches!(effect, Effect::DeleteStaleUdp(..))).count();
            for _ in 0..new {
                cleanups += 1;
                agent.step(Event::CleanupDone(netns(1), true));
            }
        }
        assert_eq!(cleanups, 2, "200 changes within two seconds, {provision:?}");
        let last = agent.later(CLEANUP_INTERVAL);
        assert!(
            last.iter().any(|effect| matches!(effect, Effect::DeleteStaleUdp(..))),
            "the last change, too"
        );
    }
}

#[test]
fn a_pod_with_a_selection_holds_that_alone() {
    let mut agent = TestAgent::synced();
    let mut picky = attachment("picky");
    picky.annotations.insert("portals".to_owned(), "web".to_owned());
    let effects = agent.step(Event::Attach(RequestId(1), picky, netns(1)));
    agent.step(Event::JobDone(netns(1), OK));
    assert_eq!(sent(&effects).len(), 1);
    assert!(runs(&agent.change("10.1.0.2")).is_empty(), "it does not see dns");
    agent.now += INTERVAL;
    let web = svc("web").ip("10.96.0.1").tcp("", 80);
    assert_eq!(sent(&agent.step(Event::Changes(vec![web.into()]))).len(), 1);
    let report = agent.reconciler.report(agent.now);
    assert_eq!((report.views["all"].portals, report.views["default/web"].portals), (3, 1));
    let mut wrong = attachment("wrong");
    wrong.annotations.insert("portals".to_owned(), "no such thing".to_owned());
    let effects = agent.step(Event::Attach(RequestId(2), wrong, netns(2)));
    assert!(matches!(answers(&effects)[..], [(2, Reply::Refused { transient: false, .. })]), "{effects:?}");
}

#[test]
fn the_nodes_zone_decides_which_endpoints_are_used() {
    let mut agent = TestAgent::synced();
    let hinted =
        slice("dns").tcp("tcp", 5353).udp("udp", 5353).at("10.1.0.1").zone("z1").at("10.1.0.2").zone("z2");
    agent.now += INTERVAL;
    agent.step(Event::Changes(vec![hinted.into()]));
    agent.attached(1);
    agent.now += INTERVAL;
    let node = Node { name: "n".into(), zone: "z1".into(), addresses: Vec::new() };
    let effects = agent.step(Event::Node(node));
    assert_eq!(sent(&effects).len(), 1, "{effects:?}");
}

#[test]
fn the_ruleset_is_stored_after_the_first_state_and_then_at_most_once_a_second() {
    let mut agent = TestAgent::new();
    agent.step(Event::Changes(world("10.1.0.1")));
    let stores = |effects: &[Effect]| effects.iter().any(|e| matches!(e, Effect::StoreRuleset(_)));
    assert!(stores(&agent.step(Event::Synced)));
    assert!(!stores(&agent.change("10.1.0.2")));
    assert!(stores(&agent.later(Duration::from_secs(1))));
    assert!(!stores(&agent.later(Duration::from_secs(1))), "nothing new");
}

mod audit;
mod memory;
mod on_demand;
