//! The relay: what happens while it cannot listen in a pod.

use super::*;

#[test]
fn relayed_portals_refuse_while_the_relay_cannot_listen_and_others_follow_changes() {
    let mut agent = TestAgent::synced();
    let relayed = |backend: &str| -> Vec<Change> {
        let endpoints = slice("web").tcp("a", 8080).at(backend);
        vec![svc("web").ip("10.96.0.1").tcp("a", 80).mode(Mode::Relay).into(), endpoints.into()]
    };
    agent.now += INTERVAL;
    agent.source(SourceEvent::Changes(relayed("10.1.0.2")));
    let wants_relay = |effects: &[Effect]| {
        effects.iter().any(|effect| matches!(effect, Effect::Run(_, job) if job.relay.is_some()))
    };
    assert!(wants_relay(&agent.attach(1)));
    let port_in_use = || Event::RelayListening(netns(1), Some("the port is in use".to_owned()));
    let effects = agent.step(port_in_use());
    assert!(matches!(log_events(&effects)[..], [LogEvent::RelayUnavailable { .. }]), "{effects:?}");
    // The batch that redirects connections is not sent; the one that refuses them is sent immediately.
    let effects = agent.step(Event::JobDone(netns(1), Outcome::RelayUnavailable));
    assert!(replies(&effects).is_empty() && !wants_relay(&effects), "{effects:?}");
    assert_eq!(batches(&effects).len(), 1, "{effects:?}");
    assert_eq!(replies(&agent.step(Event::JobDone(netns(1), OK))), [(1, &Reply::Done)]);
    let has_relay =
        |agent: &TestAgent| match &agent.reconciler.fleet.get(netns(1)).expect("the netns is known").kernel {
            KernelState::Known(applied) => applied.ruleset.settings().is_some_and(Settings::has_relay),
            other => panic!("{other:?}"),
        };
    assert!(!has_relay(&agent));
    assert_eq!(batches(&agent.change_backend("10.1.0.9")).len(), 1, "the kernel's portals follow");
    agent.step(Event::JobDone(netns(1), OK));
    assert_eq!(
        agent.reconciler.report(agent.now).attachments[0].error.as_deref(),
        Some("the port is in use")
    );
    agent.source(SourceEvent::Changes(relayed("10.1.0.2")));
    agent.tick_after(INTERVAL);
    agent.step(Event::JobDone(netns(1), OK));
    let effects = agent.tick_after(Duration::from_secs(5));
    assert!(
        matches!(operations(&effects)[..], [(1, Operation::RoutesOnly)]) && wants_relay(&effects),
        "{effects:?}"
    );
    assert!(log_events(&agent.step(port_in_use())).is_empty(), "it is logged once");
    assert!(operations(&agent.step(Event::JobDone(netns(1), Outcome::RelayUnavailable))).is_empty());
    agent.tick_after(Duration::from_secs(5));
    agent.step(Event::RelayListening(netns(1), None));
    let effects = agent.step(Event::JobDone(netns(1), Outcome::Applied(None)));
    assert_eq!(
        batches(&effects).len(),
        1,
        "connections are redirected as soon as the relay listens: {effects:?}"
    );
    agent.step(Event::JobDone(netns(1), OK));
    assert!(has_relay(&agent));
    assert_eq!(agent.reconciler.report(agent.now).attachments[0].error, None);
    assert!(operations(&agent.tick_after(Duration::from_secs(5))).is_empty());
}
