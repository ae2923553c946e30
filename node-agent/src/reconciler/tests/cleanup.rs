//! UDP flows: when conntrack entries of removed backends are deleted.

use super::*;

#[test]
fn udp_flows_of_a_removed_backend_are_deleted_but_not_for_a_new_pod() {
    let mut agent = TestAgent::synced();
    agent.attach(1);
    let flows = |effects: &[Effect]| {
        effects
            .iter()
            .find_map(|e| if let Effect::DeleteStaleUdp(_, flows) = e { Some(flows.clone()) } else { None })
    };
    assert_eq!(flows(&agent.step(Event::JobDone(netns(1), OK))), None);
    agent.change_backend("10.1.0.2");
    let moved = flows(&agent.step(Event::JobDone(netns(1), OK))).expect("a backend was removed");
    let left: Vec<SocketAddr> = moved[&udp("10.96.0.10:53")].to_vec();
    assert_eq!((moved.len(), left), (1, vec!["10.1.0.2:5353".parse().expect("an address")]));
    agent.step(Event::CleanupDone(netns(1), true));
    agent.now += INTERVAL;
    agent.source(SourceEvent::Changes(vec![Change::ServiceDeleted(proxy_core::service::ServiceKey::new(
        "default", "dns",
    ))]));
    assert_eq!(flows(&agent.step(Event::JobDone(netns(1), OK))), None, "too soon after the last clean-up");
    let moved = flows(&agent.tick_after(CLEANUP_INTERVAL)).expect("the service was deleted");
    assert!(moved[&udp("10.96.0.10:53")].is_empty());
}

#[test]
fn frequent_changes_of_a_udp_service_cause_one_cleanup_per_second() {
    for programming_mode in [ProgrammingMode::All, ProgrammingMode::OnDemand] {
        let mut agent = TestAgent::with(programming_mode);
        agent.source(SourceEvent::Changes(vec![Change::ServiceRanges(vec![
            "10.96.0.0/16".parse().expect("a range"),
        ])]));
        agent.source(SourceEvent::Changes(dns_objects("10.1.0.1")));
        agent.source(SourceEvent::Synced);
        agent.attach_and_commit(1);
        let mut cleanups = 0;
        for number in 0..200_u64 {
            let mut effects = agent.change_backend(if number % 2 == 0 { "10.1.0.2" } else { "10.1.0.1" });
            if !operations(&effects).is_empty() {
                effects.extend(agent.step(Event::JobDone(netns(1), OK)));
            }
            let new = effects.iter().filter(|effect| matches!(effect, Effect::DeleteStaleUdp(..))).count();
            for _ in 0..new {
                cleanups += 1;
                agent.step(Event::CleanupDone(netns(1), true));
            }
        }
        assert_eq!(cleanups, 2, "200 changes within two seconds, {programming_mode:?}");
        let last = agent.tick_after(CLEANUP_INTERVAL);
        assert!(
            last.iter().any(|effect| matches!(effect, Effect::DeleteStaleUdp(..))),
            "the last change, too"
        );
    }
}
