//! On-demand portals: activation, changes, eviction, and restarts.

use std::collections::BTreeMap;
use std::net::IpAddr;

use proxy_core::portal::PortalKey;
use proxy_core::ruleset::Ruleset;
use proxy_core::sample::{ip, tcp};
use proxy_core::service::ServiceKey;

use super::*;
use crate::event::HitCounts;
use crate::report::ProgrammedPortals;

const DNS: &str = "10.96.0.10";
const WEB: &str = "10.96.0.20";

/// A service range, `dns` with two portals, `web` with two in it and one outside.
fn dns_and_web(web: &str) -> Vec<Change> {
    let service = svc("web").ip(WEB).tcp("a", 80).tcp("b", 81).external("192.0.2.1");
    let endpoints = slice("web").tcp("a", 8080).tcp("b", 8081).at(web);
    let range = Change::ServiceRanges(vec!["10.96.0.0/16".parse().expect("a network")]);
    dns_objects("10.1.0.1").into_iter().chain([range, service.into(), endpoints.into()]).collect()
}

fn on_demand_agent() -> TestAgent {
    agent_in_mode(ProgrammingMode::OnDemand)
}

fn agent_in_mode(programming_mode: ProgrammingMode) -> TestAgent {
    let mut agent = TestAgent::with(programming_mode);
    agent.source(SourceEvent::Changes(dns_and_web("10.1.0.2")));
    agent.source(SourceEvent::Synced);
    agent
}

impl TestAgent {
    fn use_portal(&mut self, number: u64, key: PortalKey) -> Vec<Effect> {
        self.step(Event::PortalUsed(netns(number), key))
    }

    /// A connection to a portal, which is then programmed.
    fn activate(&mut self, number: u64, key: PortalKey) {
        assert_eq!(batches(&self.use_portal(number, key)).len(), 1, "{key} is programmed");
        self.step(Event::JobDone(netns(number), OK));
    }

    fn change_web_backend(&mut self, backend: &str) -> Vec<Effect> {
        self.now += INTERVAL;
        self.source(SourceEvent::Changes(dns_and_web(backend)))
    }

    /// The portals that are programmed, according to the agent.
    fn programmed_portals(&self, number: u64) -> Vec<String> {
        let ruleset = self.ruleset(number).expect("the table is known");
        ruleset.rules().map(|(key, _)| key.to_string()).collect()
    }

    fn ruleset(&self, number: u64) -> Option<&Ruleset> {
        match &self.reconciler.fleet.get(netns(number)).expect("the netns is known").kernel {
            KernelState::Known(applied) => Some(&applied.ruleset),
            _ => None,
        }
    }

    /// An audit without drift, with these hits.
    fn audit(&mut self, number: u64, hits: &HitCounts) -> Vec<Effect> {
        let effects = self.tick_after(AUDIT);
        assert!(matches!(operations(&effects)[..], [(_, Operation::Verify(..))]), "{effects:?}");
        let effects = self.step(Event::JobDone(netns(number), Outcome::Matches(Some(7))));
        assert!(matches!(operations(&effects)[..], [(_, Operation::CountHits(_))]), "{effects:?}");
        self.step(Event::JobDone(netns(number), Outcome::Counted(hits.clone())))
    }
}

fn hits(connections: &[(&str, u64)]) -> HitCounts {
    connections.iter().map(|(portal, count)| (tcp(portal), *count)).collect()
}

fn stale_udp(effects: &[Effect]) -> BTreeMap<PortalKey, Vec<SocketAddr>> {
    let flows = effects
        .iter()
        .filter_map(|e| if let Effect::DeleteStaleUdp(_, flows) = e { Some(flows) } else { None });
    flows.flat_map(|flows| flows.iter().map(|(key, backends)| (*key, backends.to_vec()))).collect()
}

#[test]
fn new_pods_get_portals_outside_of_service_ranges_and_the_same_bytes() {
    let mut agent = on_demand_agent();
    let (first, second) = (agent.attach(1), agent.attach(2));
    assert!(Arc::ptr_eq(batches(&first)[0].1, batches(&second)[0].1));
    agent.step(Event::JobDone(netns(1), OK));
    assert_eq!(agent.programmed_portals(1), ["192.0.2.1/TCP/80", "192.0.2.1/TCP/81"]);
    let report = agent.reconciler.report(agent.now);
    assert_eq!(
        (report.attachments[0].portals, report.attachments[0].programmed),
        (ProgrammedPortals::OnDemand, 2)
    );
}

#[test]
fn used_portal_is_activated_immediately_with_all_ports_of_its_address_only() {
    let mut agent = on_demand_agent();
    agent.attach_and_commit(1);
    agent.attach_and_commit(2);
    let effects = agent.use_portal(1, tcp("10.96.0.20:81"));
    let [(1, batch)] = batches(&effects)[..] else { panic!("{effects:?}") };
    assert_eq!(batch.operations, 6, "two portals, their backends, one address, one chain");
    agent.step(Event::JobDone(netns(1), OK));
    let programmed = agent.programmed_portals(1);
    assert_eq!(programmed.iter().filter(|key| key.starts_with(WEB)).count(), 2, "{programmed:?}");
    assert_eq!(agent.programmed_portals(2).len(), 2, "another pod's use is not one's own");
    assert!(operations(&agent.use_portal(1, tcp("10.96.0.20:80"))).is_empty(), "it is active");
    assert_eq!(agent.reconciler.report(agent.now).counts.activated, 1);
}

#[test]
fn concurrent_uses_are_one_transaction() {
    let mut agent = on_demand_agent();
    agent.attach_and_commit(1);
    assert_eq!(batches(&agent.use_portal(1, tcp("10.96.0.20:80"))).len(), 1);
    assert!(operations(&agent.use_portal(1, udp("10.96.0.10:53"))).is_empty(), "a job is under way");
    let effects = agent.step(Event::JobDone(netns(1), OK));
    assert_eq!(batches(&effects).len(), 1);
    agent.step(Event::JobDone(netns(1), OK));
    assert_eq!(agent.programmed_portals(1).len(), 6);
}

#[test]
fn unused_port_activates_its_address_and_an_unassigned_address_does_not() {
    let mut agent = on_demand_agent();
    agent.attach_and_commit(1);
    for unassigned in ["10.96.7.7:80", "203.0.113.9:80", "192.0.2.1:4711"] {
        assert!(operations(&agent.use_portal(1, tcp(unassigned))).is_empty(), "{unassigned}");
    }
    agent.activate(1, tcp("10.96.0.20:4711"));
    assert!(agent.ruleset(1).expect("known").has_address(ip(WEB)), "the kernel refuses it from now on");
    assert!(operations(&agent.use_portal(1, tcp("10.96.0.20:4712"))).is_empty(), "one that was on its way");
}

#[test]
fn use_of_a_relayed_portal_or_in_a_full_table_changes_nothing() {
    let mut agent = on_demand_agent();
    agent.attach_and_commit(1);
    agent.now += INTERVAL;
    agent.source(SourceEvent::Changes(vec![svc("web").ip(WEB).tcp("a", 80).mode(Mode::Relay).into()]));
    agent.now += INTERVAL;
    assert!(operations(&agent.use_portal(1, tcp("10.96.0.20:80"))).is_empty());
    let mut agent = agent_in_mode(ProgrammingMode::All);
    agent.attach_and_commit(1);
    assert!(operations(&agent.use_portal(1, tcp("10.96.0.20:80"))).is_empty());
}

#[test]
fn relayed_portal_without_backends_is_refused_by_the_kernel() {
    let mut agent = on_demand_agent();
    agent.attach_and_commit(1);
    agent.now += INTERVAL;
    let none = svc("none").ip("10.96.0.30").tcp("", 80).mode(Mode::Relay);
    agent.source(SourceEvent::Changes(vec![none.into()]));
    agent.activate(1, tcp("10.96.0.30:80"));
}

#[test]
fn change_is_sent_only_to_pods_with_the_portal() {
    let mut agent = on_demand_agent();
    (1..=3).for_each(|number| agent.attach_and_commit(number));
    agent.now += INTERVAL;
    agent.source(SourceEvent::Changes(vec![svc("web").ip(WEB).tcp("a", 80).tcp("b", 81).into()]));
    (1..=3).for_each(|number| drop(agent.step(Event::JobDone(netns(number), OK))));
    agent.activate(2, tcp("10.96.0.20:80"));
    agent.now += INTERVAL;
    let endpoints = slice("web").tcp("a", 8080).tcp("b", 8081).at("10.1.0.9");
    let effects = agent.source(SourceEvent::Changes(vec![endpoints.into()]));
    let [(2, batch)] = batches(&effects)[..] else { panic!("{effects:?}") };
    assert_eq!(batch.operations, 4, "two backends go, two come");
    let effects = agent.step(Event::JobDone(netns(2), OK));
    assert!(matches!(log_events(&effects)[..], [LogEvent::Applied { namespaces: 1, .. }]), "{effects:?}");
    let report = agent.reconciler.report(agent.now);
    let revision = Some(report.views["all"].revision);
    assert!(report.attachments.iter().all(|a| a.revision == revision && a.lag_ms == 0), "{report:?}");
}

#[test]
fn change_of_a_pinned_portal_is_sent_to_all_pods() {
    let mut agent = on_demand_agent();
    (1..=2).for_each(|number| agent.attach_and_commit(number));
    let sticky = |backend: &str| -> Vec<Change> {
        let endpoints = slice("sticky").tcp("", 8080).at(backend);
        vec![svc("sticky").ip("10.96.0.40").tcp("", 80).sticky(60).into(), endpoints.into()]
    };
    agent.now += INTERVAL;
    assert_eq!(
        batches(&agent.source(SourceEvent::Changes(sticky("10.1.0.3")))).len(),
        2,
        "only the kernel serves it"
    );
    (1..=2).for_each(|number| drop(agent.step(Event::JobDone(netns(number), OK))));
    assert!(
        batches(&agent.change_web_backend("10.1.0.3")).is_empty(),
        "an external address leads to the relay as before"
    );
}

#[test]
fn idle_portal_is_evicted() {
    let mut agent = on_demand_agent();
    agent.attach_and_commit(1);
    agent.activate(1, tcp("10.96.0.20:80"));
    agent.activate(1, udp("10.96.0.10:53"));
    let counted = |dns| hits(&[("10.96.0.20:80", 3), ("10.96.0.20:81", 0), ("10.96.0.10:53", dns)]);
    assert!(batches(&agent.audit(1, &counted(0))).is_empty(), "three connections since the activation");
    for round in 1..3 {
        assert!(batches(&agent.audit(1, &counted(round))).is_empty(), "dns is used, web was used recently");
    }
    let effects = agent.audit(1, &counted(3));
    assert_eq!(batches(&effects).len(), 1, "web was not used for three audits");
    agent.step(Event::JobDone(netns(1), OK));
    let programmed = agent.programmed_portals(1);
    assert!(!programmed.iter().any(|key| key.starts_with(WEB)), "{programmed:?}");
    assert!(programmed.iter().any(|key| key.starts_with(DNS)), "{programmed:?}");
    assert_eq!(agent.reconciler.report(agent.now).counts.evicted, 1);
    agent.activate(1, tcp("10.96.0.20:80"));
}

#[test]
fn restarted_counters_evict_nothing() {
    let mut agent = on_demand_agent();
    agent.attach_and_commit(1);
    agent.activate(1, tcp("10.96.0.20:80"));
    agent.audit(1, &hits(&[("10.96.0.20:80", 3)]));
    agent.audit(1, &hits(&[("10.96.0.20:80", 3)]));
    agent.audit(1, &hits(&[("10.96.0.20:80", 1)]));
    assert!(batches(&agent.audit(1, &hits(&[("10.96.0.20:80", 1)]))).is_empty());
}

#[test]
fn used_portals_are_restored_from_the_kernel_after_a_restart() {
    let mut agent = TestAgent::with(ProgrammingMode::OnDemand);
    agent.step(Event::Recover(record(1)));
    agent.source(SourceEvent::Changes(dns_and_web("10.1.0.2")));
    let effects = agent.source(SourceEvent::Synced);
    assert!(matches!(operations(&effects)[..], [(1, Operation::CountHits(_))]), "{effects:?}");
    // One of them is no longer a portal.
    let counted =
        hits(&[("10.96.0.20:80", 3), ("10.96.0.20:81", 0), ("10.96.0.99:80", 1), ("192.0.2.1:80", 9)]);
    let effects = agent.step(Event::JobDone(netns(1), Outcome::Counted(counted.clone())));
    let [(1, Operation::Verify(wanted, None))] = operations(&effects)[..] else { panic!("{effects:?}") };
    assert_eq!(wanted.active_addresses().collect::<Vec<IpAddr>>(), [ip(WEB), ip("192.0.2.1")]);
    assert!(
        operations(&agent.step(Event::JobDone(netns(1), Outcome::Matches(Some(7))))).is_empty(),
        "it is up to date"
    );
    assert!(batches(&agent.audit(1, &counted)).is_empty(), "and is not idle because of that");
    assert!(operations(&agent.use_portal(1, tcp("10.96.0.20:80"))).is_empty());
}

#[test]
fn unused_external_address_has_one_element_per_portal_after_a_restart() {
    let mut agent = TestAgent::with(ProgrammingMode::OnDemand);
    agent.step(Event::Recover(record(1)));
    agent.source(SourceEvent::Changes(dns_and_web("10.1.0.2")));
    agent.source(SourceEvent::Synced);
    let counted = hits(&[("192.0.2.1:80", 0), ("192.0.2.1:81", 0)]);
    let effects = agent.step(Event::JobDone(netns(1), Outcome::Counted(counted)));
    let [(1, Operation::Verify(wanted, None))] = operations(&effects)[..] else { panic!("{effects:?}") };
    assert_eq!((wanted.active_addresses().count(), wanted.portal_count(), wanted.size()), (0, 2, 2));
}

#[test]
fn full_table_activates_no_portal() {
    let mut agent = on_demand_agent();
    agent.reconciler.options.limits.table_elements = 6;
    agent.attach_and_commit(1);
    assert!(
        operations(&agent.use_portal(1, tcp("10.96.0.20:80"))).is_empty(),
        "2 elements, and 5 more are too many"
    );
    agent.reconciler.options.limits.table_elements = 7;
    agent.activate(1, tcp("10.96.0.20:80"));
}

#[test]
fn full_table_of_the_plugin_is_replaced_in_one_transaction() {
    let mut agent = on_demand_agent();
    assert!(matches!(operations(&agent.step(Event::Recover(record(1))))[..], [(1, Operation::CountHits(_))]));
    // A full table has no counters.
    agent.step(Event::JobDone(netns(1), Outcome::Counted(HitCounts::new())));
    let effects = agent.step(Event::JobDone(netns(1), Outcome::Drifted("other settings".to_owned())));
    assert_eq!(batches(&effects).len(), 1);
    agent.step(Event::JobDone(netns(1), OK));
    assert_eq!(agent.programmed_portals(1).len(), 2);
}

#[test]
fn failed_read_of_hits_is_retried() {
    let mut agent = on_demand_agent();
    agent.step(Event::Recover(record(1)));
    let busy = Outcome::Failed { message: "read back portals4".to_owned(), transient: true };
    let effects = agent.step(Event::JobDone(netns(1), busy));
    let [LogEvent::JobFailed { retry_in, .. }] = log_events(&effects)[..] else { panic!("{effects:?}") };
    assert!(matches!(operations(&agent.tick_after(*retry_in))[..], [(1, Operation::CountHits(_))]));
}

#[test]
fn drifted_table_is_restored_with_its_used_portals() {
    let mut agent = on_demand_agent();
    agent.attach_and_commit(1);
    agent.activate(1, tcp("10.96.0.20:80"));
    agent.tick_after(AUDIT);
    let effects = agent.step(Event::JobDone(netns(1), Outcome::Drifted("the table is gone".to_owned())));
    assert_eq!(batches(&effects).len(), 1);
    agent.step(Event::JobDone(netns(1), OK));
    assert_eq!(agent.programmed_portals(1).len(), 4);
}

#[test]
fn pod_with_more_portals_than_the_threshold_is_on_demand() {
    for (number, programmed) in [(5, 2), (6, 6)] {
        let mut agent = agent_in_mode(ProgrammingMode::OnDemandAbove(number));
        agent.attach_and_commit(1);
        assert_eq!(agent.programmed_portals(1).len(), programmed, "six portals, more than {number}");
    }
}

#[test]
fn pod_keeps_its_mode_when_the_number_of_portals_changes() {
    let mut agent = agent_in_mode(ProgrammingMode::OnDemandAbove(6));
    agent.attach_and_commit(1);
    agent.now += INTERVAL;
    agent.source(SourceEvent::Changes(vec![svc("more").ip("10.96.0.40").tcp("", 80).into()]));
    agent.step(Event::JobDone(netns(1), OK));
    agent.attach_and_commit(2);
    let of = |agent: &TestAgent| -> Vec<ProgrammedPortals> {
        agent.reconciler.report(agent.now).attachments.iter().map(|a| a.portals).collect()
    };
    assert_eq!(of(&agent), [ProgrammedPortals::All, ProgrammedPortals::OnDemand]);
    agent.now += INTERVAL;
    agent.source(SourceEvent::Changes(vec![Change::ServiceDeleted(ServiceKey::new("default", "more"))]));
    assert_eq!(of(&agent), [ProgrammedPortals::All, ProgrammedPortals::OnDemand]);
}

#[test]
fn without_a_service_range_all_portals_are_programmed_and_the_reason_is_logged_once() {
    let mut agent = TestAgent::with(ProgrammingMode::OnDemand);
    agent.source(SourceEvent::Changes(dns_objects("10.1.0.1")));
    agent.source(SourceEvent::Synced);
    let effects = agent.attach(1);
    assert!(
        matches!(log_events(&effects)[..], [LogEvent::OnDemandUnavailable(why)] if why.contains("--service-cidr")),
        "{effects:?}"
    );
    agent.step(Event::JobDone(netns(1), OK));
    assert_eq!(agent.programmed_portals(1).len(), 2);
    assert!(log_events(&agent.attach(2)).is_empty());
}

#[test]
fn udp_flows_follow_their_backends_also_without_an_active_portal() {
    let mut agent = on_demand_agent();
    agent.attach_and_commit(1);
    agent.now += INTERVAL;
    let effects = agent.source(SourceEvent::Changes(dns_objects("10.1.0.7")));
    assert!(operations(&effects).is_empty(), "it does not hold the portal");
    let to = |text: &str| text.parse::<SocketAddr>().expect("an address");
    let expected = vec![to("10.1.0.7:5353"), to("127.0.0.1:15999")];
    assert_eq!(stale_udp(&effects), BTreeMap::from([(udp("10.96.0.10:53"), expected)]));
}

#[test]
fn udp_flows_leave_the_relay_some_time_after_the_activation_of_their_portal() {
    let mut agent = on_demand_agent();
    agent.attach_and_commit(1);
    assert_eq!(
        stale_udp(&agent.use_portal(1, udp("10.96.0.10:53"))),
        BTreeMap::new(),
        "replies are on their way"
    );
    agent.step(Event::JobDone(netns(1), OK));
    assert_eq!(stale_udp(&agent.tick_after(AUDIT)), BTreeMap::new());
    agent.step(Event::JobDone(netns(1), Outcome::Matches(Some(7))));
    agent.step(Event::JobDone(netns(1), Outcome::Counted(hits(&[("10.96.0.10:53", 1)]))));
    let backend = "10.1.0.1:5353".parse().expect("an address");
    assert_eq!(stale_udp(&agent.tick_after(AUDIT)), BTreeMap::from([(udp("10.96.0.10:53"), vec![backend])]));
}

#[test]
fn relay_receives_its_network_namespaces_and_portals() {
    let relays = |effects: &[Effect]| -> Vec<Option<ServiceFilter>> {
        let jobs = effects.iter().filter_map(|e| if let Effect::Run(_, job) = e { Some(job) } else { None });
        jobs.map(|job| job.relay.clone()).collect()
    };
    let updates = |effects: &[Effect]| {
        effects.iter().filter(|e| matches!(e, Effect::SetRelayPortals(ServiceFilter::All, _))).count()
    };
    assert_eq!(relays(&on_demand_agent().attach(1)), [Some(ServiceFilter::All)]);
    let mut agent = agent_in_mode(ProgrammingMode::All);
    assert_eq!(relays(&agent.attach(1)), [None]);
    agent.step(Event::JobDone(netns(1), OK));
    agent.now += INTERVAL;
    let relayed = |backend: &str| -> Vec<Change> {
        let endpoints = slice("web").tcp("a", 8080).at(backend);
        vec![svc("web").ip(WEB).tcp("a", 80).mode(Mode::Relay).into(), endpoints.into()]
    };
    let effects = agent.source(SourceEvent::Changes(relayed("10.1.0.2")));
    assert_eq!((relays(&effects), updates(&effects)), (vec![Some(ServiceFilter::All)], 1));
    agent.step(Event::JobDone(netns(1), OK));
    agent.now += INTERVAL;
    let effects = agent.source(SourceEvent::Changes(relayed("10.1.0.8")));
    assert_eq!((relays(&effects), updates(&effects)), (Vec::new(), 1), "another backend is no other rule");
}

#[test]
fn relay_receives_a_view_before_its_use_and_its_removal_afterwards() {
    let mut agent = on_demand_agent();
    let mut selective = attachment("selective");
    selective.annotations.insert("portals".to_owned(), "web".to_owned());
    let effects = agent.step(Event::Attach(RequestId(1), selective, netns(1)));
    let position = |of: fn(&Effect) -> bool| effects.iter().position(of).expect("an effect");
    let updates = position(
        |e| matches!(e, Effect::SetRelayPortals(ServiceFilter::Only(_), portals) if portals.iter().count() == 4),
    );
    assert!(updates < position(|e| matches!(e, Effect::Run(..))));
    agent.step(Event::Detach(RequestId(2), key("selective")));
    let effects = agent.tick_after(AUDIT);
    assert!(
        effects.iter().any(|e| matches!(e, Effect::RemoveRelayView(ServiceFilter::Only(_)))),
        "{effects:?}"
    );
}
