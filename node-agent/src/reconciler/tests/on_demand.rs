//! Portals on demand: what is taken in, what follows, what goes, and what a restart finds.

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
fn cluster(web: &str) -> Vec<Change> {
    let service = svc("web").ip(WEB).tcp("a", 80).tcp("b", 81).external("192.0.2.1");
    let made = slice("web").tcp("a", 8080).tcp("b", 8081).at(web);
    let range = Change::ServiceRanges(vec!["10.96.0.0/16".parse().expect("a network")]);
    world("10.1.0.1").into_iter().chain([range, service.into(), made.into()]).collect()
}

fn on_demand() -> TestAgent {
    synced(ProgrammingMode::OnDemand)
}

fn synced(provision: ProgrammingMode) -> TestAgent {
    let mut agent = TestAgent::with(provision);
    agent.step(Event::Changes(cluster("10.1.0.2")));
    agent.step(Event::Synced);
    agent
}

impl TestAgent {
    fn uses(&mut self, number: u64, key: PortalKey) -> Vec<Effect> {
        self.step(Event::PortalUsed(netns(number), key))
    }

    /// A connection to a portal, and the kernel's yes to what follows from it.
    fn taken_in(&mut self, number: u64, key: PortalKey) {
        assert_eq!(sent(&self.uses(number, key)).len(), 1, "{key} is programmed");
        self.step(Event::JobDone(netns(number), OK));
    }

    fn web(&mut self, backend: &str) -> Vec<Effect> {
        self.now += INTERVAL;
        self.step(Event::Changes(cluster(backend)))
    }

    /// What the agent believes to stand in a network namespace.
    fn standing(&self, number: u64) -> Vec<String> {
        let ruleset = self.ruleset(number).expect("it is known");
        ruleset.rules().map(|(key, _)| key.to_string()).collect()
    }

    fn ruleset(&self, number: u64) -> Option<&Ruleset> {
        match &self.reconciler.members[&netns(number)].standing {
            crate::netns_state::KernelState::Known(applied) => Some(&applied.ruleset),
            _ => None,
        }
    }

    /// An audit in which the kernel says that all is right and what was used.
    fn audit(&mut self, number: u64, hits: &HitCounts) -> Vec<Effect> {
        let effects = self.later(AUDIT);
        assert!(matches!(runs(&effects)[..], [(_, Operation::Verify(..))]), "{effects:?}");
        let effects = self.step(Event::JobDone(netns(number), Outcome::Matches(Some(7))));
        assert!(matches!(runs(&effects)[..], [(_, Operation::CountHits(_))]), "{effects:?}");
        self.step(Event::JobDone(netns(number), Outcome::Counted(hits.clone())))
    }
}

fn hits(connections: &[(&str, u64)]) -> HitCounts {
    connections.iter().map(|(portal, count)| (tcp(portal), *count)).collect()
}

fn forgotten(effects: &[Effect]) -> BTreeMap<PortalKey, Vec<SocketAddr>> {
    let flows = effects
        .iter()
        .filter_map(|e| if let Effect::DeleteStaleUdp(_, flows) = e { Some(flows) } else { None });
    flows.flat_map(|flows| flows.iter().map(|(key, backends)| (*key, backends.to_vec()))).collect()
}

#[test]
fn a_new_pod_gets_what_no_redirect_catches_and_all_get_the_same_bytes() {
    let mut agent = on_demand();
    let (first, second) = (agent.attach(1), agent.attach(2));
    assert!(Arc::ptr_eq(sent(&first)[0].1, sent(&second)[0].1));
    agent.step(Event::JobDone(netns(1), OK));
    assert_eq!(agent.standing(1), ["192.0.2.1/TCP/80", "192.0.2.1/TCP/81"]);
    let report = agent.reconciler.report(agent.now);
    assert_eq!(
        (report.attachments[0].portals, report.attachments[0].programmed),
        (ProgrammedPortals::OnDemand, 2)
    );
}

#[test]
fn what_is_used_is_programmed_at_once_with_its_neighbours_and_nothing_else() {
    let mut agent = on_demand();
    agent.attached(1);
    agent.attached(2);
    let effects = agent.uses(1, tcp("10.96.0.20:81"));
    let [(1, batch)] = sent(&effects)[..] else { panic!("{effects:?}") };
    assert_eq!(batch.operations, 6, "two portals, their backends, one address, one chain");
    agent.step(Event::JobDone(netns(1), OK));
    let standing = agent.standing(1);
    assert_eq!(standing.iter().filter(|key| key.starts_with(WEB)).count(), 2, "{standing:?}");
    assert_eq!(agent.standing(2).len(), 2, "another pod's use is not one's own");
    assert!(runs(&agent.uses(1, tcp("10.96.0.20:80"))).is_empty(), "it is there");
    assert_eq!(agent.reconciler.report(agent.now).counts.taken_in, 1);
}

#[test]
fn many_uses_at_a_time_are_one_transaction() {
    let mut agent = on_demand();
    agent.attached(1);
    assert_eq!(sent(&agent.uses(1, tcp("10.96.0.20:80"))).len(), 1);
    assert!(runs(&agent.uses(1, udp("10.96.0.10:53"))).is_empty(), "a job is under way");
    let effects = agent.step(Event::JobDone(netns(1), OK));
    assert_eq!(sent(&effects).len(), 1);
    agent.step(Event::JobDone(netns(1), OK));
    assert_eq!(agent.standing(1).len(), 6);
}

#[test]
fn a_wrong_port_takes_its_address_in_and_nobodys_address_is_not() {
    let mut agent = on_demand();
    agent.attached(1);
    for nobodys in ["10.96.7.7:80", "203.0.113.9:80", "192.0.2.1:4711"] {
        assert!(runs(&agent.uses(1, tcp(nobodys))).is_empty(), "{nobodys}");
    }
    agent.taken_in(1, tcp("10.96.0.20:4711"));
    assert!(agent.ruleset(1).expect("known").has_address(ip(WEB)), "the kernel refuses it from now on");
    assert!(runs(&agent.uses(1, tcp("10.96.0.20:4712"))).is_empty(), "one that was on its way");
}

#[test]
fn what_is_relayed_anyway_and_what_has_all_portals_is_left_alone() {
    let mut agent = on_demand();
    agent.attached(1);
    agent.now += INTERVAL;
    agent.step(Event::Changes(vec![svc("web").ip(WEB).tcp("a", 80).mode(Mode::Relay).into()]));
    agent.now += INTERVAL;
    assert!(runs(&agent.uses(1, tcp("10.96.0.20:80"))).is_empty());
    let mut agent = synced(ProgrammingMode::All);
    agent.attached(1);
    assert!(runs(&agent.uses(1, tcp("10.96.0.20:80"))).is_empty());
}

#[test]
fn a_relayed_portal_without_backends_is_refused_by_the_kernel() {
    let mut agent = on_demand();
    agent.attached(1);
    agent.now += INTERVAL;
    let none = svc("none").ip("10.96.0.30").tcp("", 80).mode(Mode::Relay);
    agent.step(Event::Changes(vec![none.into()]));
    agent.taken_in(1, tcp("10.96.0.30:80"));
}

#[test]
fn a_change_goes_to_those_alone_who_hold_the_portal() {
    let mut agent = on_demand();
    (1..=3).for_each(|number| agent.attached(number));
    agent.now += INTERVAL;
    agent.step(Event::Changes(vec![svc("web").ip(WEB).tcp("a", 80).tcp("b", 81).into()]));
    (1..=3).for_each(|number| drop(agent.step(Event::JobDone(netns(number), OK))));
    agent.taken_in(2, tcp("10.96.0.20:80"));
    agent.now += INTERVAL;
    let made = slice("web").tcp("a", 8080).tcp("b", 8081).at("10.1.0.9");
    let effects = agent.step(Event::Changes(vec![made.into()]));
    let [(2, batch)] = sent(&effects)[..] else { panic!("{effects:?}") };
    assert_eq!(batch.operations, 4, "two backends go, two come");
    let effects = agent.step(Event::JobDone(netns(2), OK));
    assert!(matches!(notes(&effects)[..], [LogEvent::Applied { namespaces: 1, .. }]), "{effects:?}");
    let report = agent.reconciler.report(agent.now);
    let revision = Some(report.views["all"].revision);
    assert!(report.attachments.iter().all(|a| a.revision == revision && a.lag_ms == 0), "{report:?}");
}

#[test]
fn a_change_to_what_is_always_there_goes_to_all() {
    let mut agent = on_demand();
    (1..=2).for_each(|number| agent.attached(number));
    let sticky = |backend: &str| -> Vec<Change> {
        let made = slice("sticky").tcp("", 8080).at(backend);
        vec![svc("sticky").ip("10.96.0.40").tcp("", 80).sticky(60).into(), made.into()]
    };
    agent.now += INTERVAL;
    assert_eq!(sent(&agent.step(Event::Changes(sticky("10.1.0.3")))).len(), 2, "the kernel alone serves it");
    (1..=2).for_each(|number| drop(agent.step(Event::JobDone(netns(number), OK))));
    assert!(sent(&agent.web("10.1.0.3")).is_empty(), "an external address leads to the relay as before");
}

#[test]
fn what_is_not_used_for_long_goes_again() {
    let mut agent = on_demand();
    agent.attached(1);
    agent.taken_in(1, tcp("10.96.0.20:80"));
    agent.taken_in(1, udp("10.96.0.10:53"));
    let counted = |dns| hits(&[("10.96.0.20:80", 3), ("10.96.0.20:81", 0), ("10.96.0.10:53", dns)]);
    assert!(sent(&agent.audit(1, &counted(0))).is_empty(), "three connections since it is there");
    for round in 1..3 {
        assert!(sent(&agent.audit(1, &counted(round))).is_empty(), "dns is used, web was lately");
    }
    let effects = agent.audit(1, &counted(3));
    assert_eq!(sent(&effects).len(), 1, "web was not used for three audits");
    agent.step(Event::JobDone(netns(1), OK));
    let standing = agent.standing(1);
    assert!(!standing.iter().any(|key| key.starts_with(WEB)), "{standing:?}");
    assert!(standing.iter().any(|key| key.starts_with(DNS)), "{standing:?}");
    assert_eq!(agent.reconciler.report(agent.now).counts.let_go, 1);
    agent.taken_in(1, tcp("10.96.0.20:80"));
}

#[test]
fn a_table_that_counts_anew_lets_nothing_go() {
    let mut agent = on_demand();
    agent.attached(1);
    agent.taken_in(1, tcp("10.96.0.20:80"));
    agent.audit(1, &hits(&[("10.96.0.20:80", 3)]));
    agent.audit(1, &hits(&[("10.96.0.20:80", 3)]));
    agent.audit(1, &hits(&[("10.96.0.20:80", 1)]));
    assert!(sent(&agent.audit(1, &hits(&[("10.96.0.20:80", 1)]))).is_empty());
}

#[test]
fn after_a_restart_what_stands_in_the_kernel_is_what_is_used() {
    let mut agent = TestAgent::with(ProgrammingMode::OnDemand);
    agent.step(Event::Recover(record(1)));
    agent.step(Event::Changes(cluster("10.1.0.2")));
    let effects = agent.step(Event::Synced);
    assert!(matches!(runs(&effects)[..], [(1, Operation::CountHits(_))]), "{effects:?}");
    // One of them is not there any more.
    let stood =
        hits(&[("10.96.0.20:80", 3), ("10.96.0.20:81", 0), ("10.96.0.99:80", 1), ("192.0.2.1:80", 9)]);
    let effects = agent.step(Event::JobDone(netns(1), Outcome::Counted(stood.clone())));
    let [(1, Operation::Verify(wanted, None))] = runs(&effects)[..] else { panic!("{effects:?}") };
    assert_eq!(wanted.active_addresses().collect::<Vec<IpAddr>>(), [ip(WEB), ip("192.0.2.1")]);
    assert!(runs(&agent.step(Event::JobDone(netns(1), Outcome::Matches(Some(7))))).is_empty(), "it is right");
    assert!(sent(&agent.audit(1, &stood)).is_empty(), "and is not idle because of that");
    assert!(runs(&agent.uses(1, tcp("10.96.0.20:80"))).is_empty());
}

#[test]
fn after_a_restart_an_external_address_that_was_never_used_goes_on_with_one_element_a_portal() {
    let mut agent = TestAgent::with(ProgrammingMode::OnDemand);
    agent.step(Event::Recover(record(1)));
    agent.step(Event::Changes(cluster("10.1.0.2")));
    agent.step(Event::Synced);
    let stood = hits(&[("192.0.2.1:80", 0), ("192.0.2.1:81", 0)]);
    let effects = agent.step(Event::JobDone(netns(1), Outcome::Counted(stood)));
    let [(1, Operation::Verify(wanted, None))] = runs(&effects)[..] else { panic!("{effects:?}") };
    assert_eq!((wanted.active_addresses().count(), wanted.portal_count(), wanted.size()), (0, 2, 2));
}

#[test]
fn a_table_without_room_takes_nothing_in_and_the_relay_goes_on() {
    let mut agent = on_demand();
    agent.reconciler.options.bounds.table_elements = 6;
    agent.attached(1);
    assert!(runs(&agent.uses(1, tcp("10.96.0.20:80"))).is_empty(), "2 elements, and 5 more are too many");
    agent.reconciler.options.bounds.table_elements = 7;
    agent.taken_in(1, tcp("10.96.0.20:80"));
}

#[test]
fn a_full_table_that_the_plugin_made_is_replaced_in_one_transaction() {
    let mut agent = on_demand();
    assert!(matches!(runs(&agent.step(Event::Recover(record(1))))[..], [(1, Operation::CountHits(_))]));
    // In a full table nothing counts.
    agent.step(Event::JobDone(netns(1), Outcome::Counted(HitCounts::new())));
    let effects = agent.step(Event::JobDone(netns(1), Outcome::Drifted("other settings".to_owned())));
    assert_eq!(sent(&effects).len(), 1);
    agent.step(Event::JobDone(netns(1), OK));
    assert_eq!(agent.standing(1).len(), 2);
}

#[test]
fn who_cannot_be_asked_what_it_uses_is_asked_again() {
    let mut agent = on_demand();
    agent.step(Event::Recover(record(1)));
    let busy = Outcome::Failed { message: "read back portals4".to_owned(), transient: true };
    let effects = agent.step(Event::JobDone(netns(1), busy));
    let [LogEvent::JobFailed { retry_in, .. }] = notes(&effects)[..] else { panic!("{effects:?}") };
    assert!(matches!(runs(&agent.later(*retry_in))[..], [(1, Operation::CountHits(_))]));
}

#[test]
fn a_damaged_table_comes_back_with_all_that_is_used() {
    let mut agent = on_demand();
    agent.attached(1);
    agent.taken_in(1, tcp("10.96.0.20:80"));
    agent.later(AUDIT);
    let effects = agent.step(Event::JobDone(netns(1), Outcome::Drifted("the table is gone".to_owned())));
    assert_eq!(sent(&effects).len(), 1);
    agent.step(Event::JobDone(netns(1), OK));
    assert_eq!(agent.standing(1).len(), 4);
}

#[test]
fn who_sees_more_than_the_number_gets_what_it_uses() {
    for (number, standing) in [(5, 2), (6, 6)] {
        let mut agent = synced(ProgrammingMode::OnDemandAbove(number));
        agent.attached(1);
        assert_eq!(agent.standing(1).len(), standing, "six portals, more than {number}");
    }
}

#[test]
fn a_pod_keeps_its_way_when_the_number_of_portals_changes() {
    let mut agent = synced(ProgrammingMode::OnDemandAbove(6));
    agent.attached(1);
    agent.now += INTERVAL;
    agent.step(Event::Changes(vec![svc("more").ip("10.96.0.40").tcp("", 80).into()]));
    agent.step(Event::JobDone(netns(1), OK));
    agent.attached(2);
    let of = |agent: &TestAgent| -> Vec<ProgrammedPortals> {
        agent.reconciler.report(agent.now).attachments.iter().map(|a| a.portals).collect()
    };
    assert_eq!(of(&agent), [ProgrammedPortals::All, ProgrammedPortals::OnDemand]);
    agent.now += INTERVAL;
    agent.step(Event::Changes(vec![Change::ServiceDeleted(ServiceKey::new("default", "more"))]));
    assert_eq!(of(&agent), [ProgrammedPortals::All, ProgrammedPortals::OnDemand]);
}

#[test]
fn without_a_service_range_all_portals_are_programmed_and_why_is_told_once() {
    let mut agent = TestAgent::with(ProgrammingMode::OnDemand);
    agent.step(Event::Changes(world("10.1.0.1")));
    agent.step(Event::Synced);
    let effects = agent.attach(1);
    assert!(
        matches!(notes(&effects)[..], [LogEvent::OnDemandUnavailable(why)] if why.contains("--service-cidr")),
        "{effects:?}"
    );
    agent.step(Event::JobDone(netns(1), OK));
    assert_eq!(agent.standing(1).len(), 2);
    assert!(notes(&agent.attach(2)).is_empty());
}

#[test]
fn udp_flows_follow_their_backends_also_where_the_portal_is_not_held() {
    let mut agent = on_demand();
    agent.attached(1);
    agent.now += INTERVAL;
    let effects = agent.step(Event::Changes(world("10.1.0.7")));
    assert!(runs(&effects).is_empty(), "it does not hold the portal");
    let to = |text: &str| text.parse::<SocketAddr>().expect("an address");
    let expected = vec![to("10.1.0.7:5353"), to("127.0.0.1:15999")];
    assert_eq!(forgotten(&effects), BTreeMap::from([(udp("10.96.0.10:53"), expected)]));
}

#[test]
fn udp_flows_leave_the_relay_some_time_after_their_portal_is_in_the_kernel() {
    let mut agent = on_demand();
    agent.attached(1);
    assert_eq!(forgotten(&agent.uses(1, udp("10.96.0.10:53"))), BTreeMap::new(), "answers are on their way");
    agent.step(Event::JobDone(netns(1), OK));
    assert_eq!(forgotten(&agent.later(AUDIT)), BTreeMap::new());
    agent.step(Event::JobDone(netns(1), Outcome::Matches(Some(7))));
    agent.step(Event::JobDone(netns(1), Outcome::Counted(hits(&[("10.96.0.10:53", 1)]))));
    let backend = "10.1.0.1:5353".parse().expect("an address");
    assert_eq!(forgotten(&agent.later(AUDIT)), BTreeMap::from([(udp("10.96.0.10:53"), vec![backend])]));
}

#[test]
fn the_relay_is_told_where_it_listens_and_what_it_serves() {
    let relays = |effects: &[Effect]| -> Vec<Option<ServiceFilter>> {
        let jobs = effects.iter().filter_map(|e| if let Effect::Run(_, job) = e { Some(job) } else { None });
        jobs.map(|job| job.relay.clone()).collect()
    };
    let told = |effects: &[Effect]| {
        effects.iter().filter(|e| matches!(e, Effect::SetRelayPortals(ServiceFilter::All, _))).count()
    };
    assert_eq!(relays(&on_demand().attach(1)), [Some(ServiceFilter::All)]);
    let mut agent = synced(ProgrammingMode::All);
    assert_eq!(relays(&agent.attach(1)), [None]);
    agent.step(Event::JobDone(netns(1), OK));
    agent.now += INTERVAL;
    let relayed = |backend: &str| -> Vec<Change> {
        let made = slice("web").tcp("a", 8080).at(backend);
        vec![svc("web").ip(WEB).tcp("a", 80).mode(Mode::Relay).into(), made.into()]
    };
    let effects = agent.step(Event::Changes(relayed("10.1.0.2")));
    assert_eq!((relays(&effects), told(&effects)), (vec![Some(ServiceFilter::All)], 1));
    agent.step(Event::JobDone(netns(1), OK));
    agent.now += INTERVAL;
    let effects = agent.step(Event::Changes(relayed("10.1.0.8")));
    assert_eq!((relays(&effects), told(&effects)), (Vec::new(), 1), "another backend is no other rule");
}

#[test]
fn a_view_is_told_before_it_is_needed_and_when_nobody_has_it_any_more() {
    let mut agent = on_demand();
    let mut picky = attachment("picky");
    picky.annotations.insert("portals".to_owned(), "web".to_owned());
    let effects = agent.step(Event::Attach(RequestId(1), picky, netns(1)));
    let place = |of: fn(&Effect) -> bool| effects.iter().position(of).expect("it is among the effects");
    let told = place(
        |e| matches!(e, Effect::SetRelayPortals(ServiceFilter::Only(_), portals) if portals.iter().count() == 4),
    );
    assert!(told < place(|e| matches!(e, Effect::Run(..))));
    agent.step(Event::Detach(RequestId(2), key("picky")));
    let effects = agent.later(AUDIT);
    assert!(
        effects.iter().any(|e| matches!(e, Effect::RemoveRelayView(ServiceFilter::Only(_)))),
        "{effects:?}"
    );
}
