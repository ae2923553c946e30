//! Attach, detach and garbage collection: replies, records, and the life of a network namespace.

use super::*;

#[test]
fn pods_are_not_programmed_before_the_initial_sync() {
    let mut agent = TestAgent::new();
    agent.source(SourceEvent::Changes(dns_objects("10.1.0.1")));
    assert!(operations(&agent.attach(1)).is_empty());
    let effects = agent.source(SourceEvent::Synced);
    assert_eq!(batches(&effects).len(), 1);
    assert!(replies(&effects).is_empty(), "the kernel has not committed it");
    let effects = agent.step(Event::JobDone(netns(1), OK));
    assert_eq!(replies(&effects), [(1, &Reply::Done)]);
}

#[test]
fn record_is_written_before_the_reply() {
    let mut agent = TestAgent::synced();
    agent.attach(1);
    let effects = agent.step(Event::JobDone(netns(1), OK));
    let position = |of: fn(&Effect) -> bool| effects.iter().position(of).expect("an effect");
    assert!(position(|e| matches!(e, Effect::WriteRecord(_))) < position(|e| matches!(e, Effect::Reply(..))));
}

#[test]
fn attach_before_the_initial_sync_times_out_with_a_transient_error() {
    let mut agent = TestAgent::new();
    agent.source(SourceEvent::Outage("the API server does not respond".to_owned()));
    agent.attach(1);
    assert_eq!(agent.reconciler.deadline(), Some(agent.now + ATTACH_TIMEOUT));
    let effects = agent.tick_after(ATTACH_TIMEOUT);
    let [(1, reply)] = replies(&effects)[..] else { panic!("{effects:?}") };
    assert!(is_transient(reply) && format!("{reply:?}").contains("does not respond"), "{reply:?}");
    assert!(effects.iter().any(|e| matches!(e, Effect::CloseNetns(_))), "nothing is held for it");
}

#[test]
fn pod_that_cannot_be_programmed_is_refused_and_removed() {
    let mut agent = TestAgent::synced();
    agent.attach(1);
    let why = Outcome::Failed { message: "open a netfilter socket".to_owned(), transient: false };
    let effects = agent.step(Event::JobDone(netns(1), why));
    let [(1, Reply::Refused { message, transient: false })] = replies(&effects)[..] else {
        panic!("{effects:?}")
    };
    assert_eq!(message, "open a netfilter socket");
    assert!(effects.iter().any(|e| matches!(e, Effect::CloseNetns(_))));
    assert!(!effects.iter().any(|e| matches!(e, Effect::WriteRecord(_))));
    assert!(agent.reconciler.report(agent.now).attachments.is_empty());
}

#[test]
fn second_add_of_an_attachment_refuses_the_first() {
    let mut agent = TestAgent::synced();
    agent.attach(1);
    let effects = agent.step(Event::Attach(RequestId(2), attachment("pod-1"), netns(1)));
    let [(1, reply)] = replies(&effects)[..] else { panic!("{effects:?}") };
    assert!(is_transient(reply), "{reply:?}");
    assert_eq!(replies(&agent.step(Event::JobDone(netns(1), OK))), [(2, &Reply::Done)]);
}

#[test]
fn detach_always_succeeds_and_closes_the_namespace() {
    let mut agent = TestAgent::synced();
    agent.attach_and_commit(1);
    let effects = agent.step(Event::Detach(RequestId(9), key("pod-1")));
    assert_eq!(replies(&effects), [(9, &Reply::Done)]);
    assert!(effects.iter().any(|e| matches!(e, Effect::CloseNetns(id) if *id == netns(1))));
    assert!(effects.iter().any(|e| matches!(e, Effect::RemoveRecord(_))));
    let effects = agent.step(Event::Detach(RequestId(10), key("pod-1")));
    assert_eq!(replies(&effects), [(10, &Reply::Done)]);
}

#[test]
fn namespace_with_two_interfaces_is_closed_with_the_last_one() {
    let mut agent = TestAgent::synced();
    agent.attach_and_commit(1);
    let mut second = attachment("pod-1");
    second.key.interface = "net1".to_owned();
    let effects = agent.step(Event::Attach(RequestId(2), second.clone(), netns(1)));
    assert!(
        matches!(operations(&effects)[..], [(1, Operation::RoutesOnly)]),
        "only routes are new: {effects:?}"
    );
    assert_eq!(replies(&agent.step(Event::JobDone(netns(1), Outcome::Applied(None)))), [(2, &Reply::Done)]);
    let closes = |effects: &[Effect]| effects.iter().any(|e| matches!(e, Effect::CloseNetns(_)));
    assert!(!closes(&agent.step(Event::Detach(RequestId(3), key("pod-1")))));
    assert!(closes(&agent.step(Event::Detach(RequestId(4), second.key))));
}

#[test]
fn refused_second_interface_does_not_affect_the_first() {
    let mut agent = TestAgent::synced();
    agent.attach_and_commit(1);
    let mut invalid = attachment("pod-1");
    invalid.key.interface = "net1".to_owned();
    invalid.annotations.insert("portals".to_owned(), "no such thing".to_owned());
    let effects = agent.step(Event::Attach(RequestId(2), invalid, netns(1)));
    assert!(matches!(replies(&effects)[..], [(2, Reply::Refused { transient: false, .. })]), "{effects:?}");
    assert!(
        !effects.iter().any(|e| matches!(e, Effect::CloseNetns(_))),
        "the first still needs it: {effects:?}"
    );
}

#[test]
fn gc_removes_attachments_that_the_runtime_does_not_list() {
    let mut agent = TestAgent::synced();
    (1..=3).for_each(|number| agent.attach_and_commit(number));
    let effects = agent.step(Event::Gc(RequestId(9), "net".to_owned(), vec![key("pod-2")]));
    assert_eq!(replies(&effects), [(9, &Reply::Done)]);
    let left = agent.reconciler.report(agent.now).attachments;
    assert_eq!(left.iter().map(|a| a.key.container_id.as_str()).collect::<Vec<_>>(), ["pod-2"]);
    agent.step(Event::Gc(RequestId(9), "other".to_owned(), Vec::new()));
    assert_eq!(agent.reconciler.report(agent.now).attachments.len(), 1, "another network's collection");
}

#[test]
fn pod_without_namespace_is_removed_with_its_record() {
    let mut agent = TestAgent::synced();
    agent.attach_and_commit(1);
    let effects = agent.step(Event::NetnsGone(netns(1)));
    assert!(effects.iter().any(|e| matches!(e, Effect::RemoveRecord(_))));
    assert!(effects.iter().any(|e| matches!(e, Effect::CloseNetns(_))));
    assert!(agent.reconciler.report(agent.now).attachments.is_empty());
}
