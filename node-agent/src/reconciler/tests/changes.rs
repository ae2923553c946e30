//! Changes of services: when they are applied, to which network namespaces, and retries.

use super::*;
use crate::node_portals::NodeEvent;

#[test]
fn first_change_is_applied_immediately_and_a_burst_is_coalesced() {
    let mut agent = TestAgent::synced();
    agent.attach_and_commit(1);
    assert_eq!(batches(&agent.change_backend("10.1.0.2")).len(), 1, "at once");
    agent.step(Event::JobDone(netns(1), OK));
    assert!(operations(&agent.source(SourceEvent::Changes(dns_objects("10.1.0.3")))).is_empty(), "too soon");
    assert!(operations(&agent.source(SourceEvent::Changes(dns_objects("10.1.0.4")))).is_empty(), "too soon");
    assert_eq!(agent.reconciler.deadline(), Some(agent.now + INTERVAL));
    let effects = agent.tick_after(INTERVAL);
    assert_eq!(batches(&effects).len(), 1, "both in one");
    let report = agent.reconciler.report(agent.now);
    assert_eq!(report.views["all"].revision, 3);
}

#[test]
fn change_without_effect_on_rules_sends_nothing() {
    let mut agent = TestAgent::synced();
    agent.attach_and_commit(1);
    assert!(operations(&agent.change_backend("10.1.0.1")).is_empty());
}

#[test]
fn all_namespaces_of_a_view_receive_the_same_bytes() {
    let mut agent = TestAgent::synced();
    (1..=3).for_each(|number| agent.attach_and_commit(number));
    let effects = agent.change_backend("10.1.0.2");
    let sent = batches(&effects);
    assert_eq!(sent.len(), 3);
    assert!(sent.iter().all(|(_, batch)| Arc::ptr_eq(batch, sent[0].1)));
    assert!(sent[0].1.batch.len() < 1_000, "a change, not the whole: {} bytes", sent[0].1.batch.len());
}

#[test]
fn lagging_namespace_catches_up_in_one_transaction() {
    let mut agent = TestAgent::synced();
    agent.attach_and_commit(1);
    agent.attach_and_commit(2);
    agent.change_backend("10.1.0.2");
    agent.step(Event::JobDone(netns(1), OK));
    let effects = agent.change_backend("10.1.0.3");
    assert_eq!(batches(&effects).iter().map(|(netns, _)| *netns).collect::<Vec<_>>(), [1], "2 is still busy");
    agent.step(Event::JobDone(netns(1), OK));
    agent.change_backend("10.1.0.4");
    agent.step(Event::JobDone(netns(1), OK));
    let effects = agent.step(Event::JobDone(netns(2), OK));
    assert_eq!(batches(&effects).len(), 1);
    agent.step(Event::JobDone(netns(2), OK));
    let report = agent.reconciler.report(agent.now);
    assert!(report.attachments.iter().all(|a| a.revision == Some(4) && a.lag_ms == 0), "{report:?}");
}

#[test]
fn failing_namespace_delays_no_other_and_is_retried_with_backoff() {
    let mut agent = TestAgent::synced();
    agent.attach_and_commit(1);
    agent.attach_and_commit(2);
    agent.change_backend("10.1.0.2");
    agent.step(Event::JobDone(netns(2), OK));
    let broken = Outcome::Failed { message: "apply: no memory".to_owned(), transient: true };
    let effects = agent.step(Event::JobDone(netns(1), broken.clone()));
    let [LogEvent::Applied { failed: 1, namespaces: 2, .. }, LogEvent::JobFailed { retry_in, .. }] =
        log_events(&effects)[..]
    else {
        panic!("{effects:?}")
    };
    assert_eq!(batches(&agent.change_backend("10.1.0.3")).iter().map(|(n, _)| *n).collect::<Vec<_>>(), [2]);
    let report = agent.reconciler.report(agent.now);
    assert_eq!(report.attachments[0].error.as_deref(), Some("apply: no memory"));
    let effects = agent.tick_after(*retry_in);
    assert_eq!(batches(&effects).iter().map(|(n, _)| *n).collect::<Vec<_>>(), [1]);
    let effects = agent.step(Event::JobDone(netns(1), broken));
    let [LogEvent::JobFailed { retry_in: second, .. }] = log_events(&effects)[..] else {
        panic!("{effects:?}")
    };
    assert!(second > retry_in, "each time later");
    agent.tick_after(*second);
    agent.step(Event::JobDone(netns(1), OK));
    assert_eq!(agent.reconciler.report(agent.now).attachments[0].error, None);
}

#[test]
fn pod_with_a_service_list_has_only_their_portals() {
    let mut agent = TestAgent::synced();
    let mut selective = attachment("selective");
    selective.annotations.insert("portals".to_owned(), "web".to_owned());
    let effects = agent.step(Event::Attach(RequestId(1), selective, netns(1)));
    agent.step(Event::JobDone(netns(1), OK));
    assert_eq!(batches(&effects).len(), 1);
    assert!(operations(&agent.change_backend("10.1.0.2")).is_empty(), "it does not see dns");
    agent.now += INTERVAL;
    let web = svc("web").ip("10.96.0.1").tcp("", 80);
    assert_eq!(batches(&agent.source(SourceEvent::Changes(vec![web.into()]))).len(), 1);
    let report = agent.reconciler.report(agent.now);
    assert_eq!((report.views["all"].portals, report.views["default/web"].portals), (3, 1));
    let mut invalid = attachment("invalid");
    invalid.annotations.insert("portals".to_owned(), "no such thing".to_owned());
    let effects = agent.step(Event::Attach(RequestId(2), invalid, netns(2)));
    assert!(matches!(replies(&effects)[..], [(2, Reply::Refused { transient: false, .. })]), "{effects:?}");
}

#[test]
fn zone_of_the_node_selects_endpoints() {
    let mut agent = TestAgent::synced();
    let hinted =
        slice("dns").tcp("tcp", 5353).udp("udp", 5353).at("10.1.0.1").zone("z1").at("10.1.0.2").zone("z2");
    agent.now += INTERVAL;
    agent.source(SourceEvent::Changes(vec![hinted.into()]));
    agent.attach_and_commit(1);
    agent.now += INTERVAL;
    let node = Node { name: "n".into(), zone: "z1".into(), ..Node::default() };
    let effects = agent.source(SourceEvent::Node(node));
    assert_eq!(batches(&effects).len(), 1, "{effects:?}");
}

#[test]
fn node_that_is_leaving_requests_no_rebuild_of_views() {
    let mut agent = TestAgent::synced();
    agent.attach_and_commit(1);
    agent.now += INTERVAL;
    let node = agent.reconciler.catalog.node().clone();
    let pod_cidrs = vec!["10.1.0.0/24".parse().unwrap()];
    agent.source(SourceEvent::Node(Node { is_leaving: true, pod_cidrs, ..node }));
    assert_eq!(agent.reconciler.catalog.publish_at(), None);
    assert!(agent.reconciler.catalog.node().is_leaving);
}

#[test]
fn ruleset_is_stored_after_the_initial_sync_and_then_at_most_once_per_second() {
    let mut agent = TestAgent::new();
    agent.source(SourceEvent::Changes(dns_objects("10.1.0.1")));
    let stores = |effects: &[Effect]| effects.iter().any(|e| matches!(e, Effect::StoreRuleset(_)));
    assert!(stores(&agent.source(SourceEvent::Synced)));
    assert!(!stores(&agent.change_backend("10.1.0.2")));
    assert!(stores(&agent.tick_after(Duration::from_secs(1))));
    assert!(!stores(&agent.tick_after(Duration::from_secs(1))), "nothing new");
}

#[test]
fn node_portals_have_the_services_before_the_views_of_pods_are_computed() {
    let mut agent = TestAgent::new();
    agent.reconciler.options.has_node_portals = true;
    agent.source(SourceEvent::Changes(dns_objects("10.1.0.1")));
    let synced = || Event::Source(SourceEvent::Synced);
    let effects = agent.reconciler.effects_before(agent.now, &synced());
    assert!(matches!(effects[..], [Effect::UpdateNode(NodeEvent::Services { changed: None, .. })]));
    assert!(agent.reconciler.views.is_empty());
    let is_of_node = |effect: &Effect| matches!(effect, Effect::UpdateNode(_));
    assert!(!agent.step(synced()).iter().any(is_of_node));
    assert!(agent.reconciler.effects_before(agent.now, &synced()).is_empty());
}
