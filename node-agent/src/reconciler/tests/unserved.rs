//! Pods with `portico.dev/portals: off`: they are known, and nothing is done in their network namespaces.

use agent_ipc::Attachment;

use super::*;

/// An attachment of a pod that is off.
fn off(number: u64) -> Attachment {
    let mut attachment = attachment(&format!("pod-{number}"));
    attachment.annotations.insert("portals".to_owned(), "off".to_owned());
    attachment
}

fn second_interface(attachment: Attachment) -> Attachment {
    let mut second = attachment;
    second.key.interface = "net1".to_owned();
    second
}

/// The effects that act in a network namespace, or on what the relay and the plugin would use there.
fn acts(effects: &[Effect]) -> Vec<&Effect> {
    let is_act = |effect: &&Effect| {
        !matches!(effect, Effect::Reply(..) | Effect::WriteRecord(_) | Effect::Log(_) | Effect::Sweep)
    };
    effects.iter().filter(is_act).collect()
}

fn names(agent: &TestAgent) -> (usize, Vec<String>) {
    let report = agent.reconciler.report(agent.now);
    let pods = report.unserved.pods.iter().map(|unserved| unserved.pod.as_ref().map(ToString::to_string));
    (report.unserved.attachments, pods.map(Option::unwrap_or_default).collect())
}

#[test]
fn pod_that_is_off_is_attached_at_once_and_only_listed() {
    let mut agent = TestAgent::new();
    agent.source(SourceEvent::Outage("the API server does not respond".to_owned()));
    let effects = agent.step(Event::Attach(RequestId(1), off(1), netns(1)));
    assert_eq!(replies(&effects), [(1, &Reply::Done)], "before the initial sync, too");
    assert!(acts(&effects).is_empty(), "{effects:?}");
    let written = effects.iter().find_map(|e| if let Effect::WriteRecord(r) = e { Some(r) } else { None });
    let written = written.expect("a record");
    assert_eq!((written.attachment.clone(), written.programmed_by), (off(1), ProgrammedBy::NotYet));
    let known: Vec<_> = agent.reconciler.attachment_keys().collect();
    assert_eq!(known, [&key("pod-1")], "no scan finds it again");

    agent.source(SourceEvent::Changes(dns_objects("10.1.0.1")));
    assert!(operations(&agent.source(SourceEvent::Synced)).is_empty());
    assert!(operations(&agent.change_backend("10.1.0.2")).is_empty());
    let audited = agent.tick_after(AUDIT);
    assert!(
        operations(&audited).is_empty() && audited.iter().any(|e| matches!(e, Effect::Sweep)),
        "{audited:?}"
    );
    let report = agent.reconciler.report(agent.now);
    assert_eq!((report.attachments.len(), report.views.len(), report.counts.attached), (0, 1, 1));
    assert_eq!(names(&agent), (1, vec!["default/pod-1".to_owned()]));
}

#[test]
fn check_of_a_pod_that_is_off_succeeds() {
    let mut agent = TestAgent::new();
    agent.step(Event::Attach(RequestId(1), off(1), netns(1)));
    let effects = agent.step(Event::Check(RequestId(2), netns(1)));
    assert_eq!(replies(&effects), [(2, &Reply::Done)]);
    assert!(acts(&effects).is_empty(), "{effects:?}");
}

#[test]
fn pod_that_is_off_is_not_programmed_after_a_restart() {
    let mut agent = TestAgent::synced();
    let record = Record { attachment: off(1), ..record(1) };
    let effects = agent.step(Event::Recover(record));
    assert!(acts(&effects).is_empty(), "{effects:?}");
    assert_eq!(names(&agent), (1, vec!["default/pod-1".to_owned()]));
    assert!(acts(&agent.tick_after(AUDIT)).is_empty());
}

#[test]
fn detach_gc_and_deletion_remove_a_pod_that_is_off() {
    let ends: [fn() -> Event; 3] = [
        || Event::Detach(RequestId(9), key("pod-1")),
        || Event::Gc(RequestId(9), "net".to_owned(), vec![key("pod-2")]),
        || Event::NetnsGone(netns(1)),
    ];
    for end in ends {
        let mut agent = TestAgent::synced();
        agent.step(Event::Attach(RequestId(1), off(1), netns(1)));
        agent.step(Event::Attach(RequestId(2), off(2), netns(2)));
        let effects = agent.step(end());
        let closed = effects.iter().filter(|e| matches!(e, Effect::CloseNetns(id) if *id == netns(1)));
        let removed = effects.iter().filter(|e| matches!(e, Effect::RemoveRecord(k) if *k == key("pod-1")));
        assert_eq!((closed.count(), removed.count()), (1, 1), "{effects:?}");
        assert_eq!(names(&agent), (1, vec!["default/pod-2".to_owned()]));
        assert_eq!(agent.reconciler.report(agent.now).counts.detached, 1);
    }
}

#[test]
fn ended_pod_that_was_off_is_not_recovered_from_an_outdated_record() {
    let mut agent = TestAgent::synced();
    agent.step(Event::Attach(RequestId(1), off(1), netns(1)));
    agent.step(Event::Detach(RequestId(2), key("pod-1")));
    let effects = agent.step(Event::Recover(Record { attachment: off(1), ..record(1) }));
    assert!(matches!(effects[..], [Effect::CloseNetns(id)] if id == netns(1)), "{effects:?}");
    assert_eq!(names(&agent).0, 0);
}

#[test]
fn second_interface_of_a_pod_that_is_off_is_not_served_whatever_it_requests() {
    let mut agent = TestAgent::synced();
    agent.step(Event::Attach(RequestId(1), off(1), netns(1)));
    let second = second_interface(attachment("pod-1"));
    let effects = agent.step(Event::Attach(RequestId(2), second.clone(), netns(1)));
    assert_eq!((replies(&effects), acts(&effects).len()), (vec![(2, &Reply::Done)], 0), "{effects:?}");
    assert_eq!(names(&agent), (2, vec!["default/pod-1".to_owned()]), "each pod is listed once");
    assert!(acts(&agent.step(Event::Recover(Record { attachment: second.clone(), ..record(1) }))).is_empty());
    let closes = |effects: &[Effect]| effects.iter().any(|e| matches!(e, Effect::CloseNetns(_)));
    assert!(!closes(&agent.step(Event::Detach(RequestId(3), key("pod-1")))), "the other one is left");
    assert!(closes(&agent.step(Event::Detach(RequestId(4), second.key))));
}

#[test]
fn second_interface_of_a_served_pod_cannot_be_off() {
    for is_recovered in [false, true] {
        let mut agent = TestAgent::synced();
        agent.attach_and_commit(1);
        let second = second_interface(off(1));
        let effects = if is_recovered {
            agent.step(Event::Recover(Record { attachment: second, ..record(1) }))
        } else {
            agent.step(Event::Attach(RequestId(2), second, netns(1)))
        };
        assert!(
            matches!(operations(&effects)[..], [(1, Operation::RoutesOnly)]),
            "it keeps its view: {effects:?}"
        );
        let warned = log_events(&effects).iter().any(|e| matches!(e, LogEvent::SuspiciousConfig { .. }));
        assert!(warned, "{effects:?}");
        assert_eq!((names(&agent).0, agent.reconciler.report(agent.now).attachments.len()), (0, 2));
    }
}

#[test]
fn attachment_that_is_not_off_any_more_is_served() {
    let mut agent = TestAgent::synced();
    agent.step(Event::Attach(RequestId(1), off(1), netns(1)));
    agent.attach_and_commit(1);
    assert_eq!((names(&agent).0, agent.reconciler.report(agent.now).attachments.len()), (0, 1));
}

#[test]
fn report_lists_a_limited_number_of_pods_and_counts_all() {
    let mut agent = TestAgent::new();
    for number in 0..600 {
        agent.step(Event::Attach(RequestId(number), off(number), netns(number)));
    }
    let (attachments, pods) = names(&agent);
    assert_eq!((attachments, pods.len()), (600, 500));
}

#[test]
fn guests_of_a_pod_that_is_off_are_not_validated() {
    let mut agent = TestAgent::new();
    let mut attachment = off(1);
    attachment.annotations.insert("guest-interfaces".to_owned(), "eth0".to_owned());
    let effects = agent.step(Event::Attach(RequestId(1), attachment, netns(1)));
    assert_eq!(replies(&effects), [(1, &Reply::Done)]);
}
