//! Restarts: existing tables and records.

use super::*;

#[test]
fn up_to_date_table_is_not_changed_after_a_restart() {
    let mut agent = TestAgent::new();
    agent.step(Event::Recover(record(1)));
    agent.source(SourceEvent::Changes(dns_objects("10.1.0.1")));
    let effects = agent.source(SourceEvent::Synced);
    assert!(matches!(operations(&effects)[..], [(1, Operation::Verify(_, None))]), "{effects:?}");
    let effects = agent.step(Event::JobDone(netns(1), Outcome::Matches(Some(3))));
    assert!(operations(&effects).is_empty());
    assert_eq!(batches(&agent.change_backend("10.1.0.2")).len(), 1, "and follows from then on");
}

#[test]
fn outdated_table_is_replaced_in_one_transaction_after_a_restart() {
    let mut agent = TestAgent::synced();
    assert!(matches!(
        operations(&agent.step(Event::Recover(record(1))))[..],
        [(1, Operation::Verify(_, None))]
    ));
    let effects = agent.step(Event::JobDone(netns(1), Outcome::Drifted("1 backend".to_owned())));
    assert_eq!(batches(&effects).len(), 1);
    assert!(log_events(&effects).is_empty(), "an outdated table is not drift: {effects:?}");
    agent.step(Event::JobDone(netns(1), OK));
    assert_eq!(agent.reconciler.report(agent.now).attachments[0].repairs, 0);
}

#[test]
fn ended_attachment_is_not_recovered_from_an_outdated_record() {
    let mut agent = TestAgent::synced();
    agent.attach_and_commit(1);
    agent.step(Event::Detach(RequestId(2), key("pod-1")));
    let effects = agent.step(Event::Recover(record(1)));
    assert!(
        matches!(effects[..], [Effect::CloseNetns(id)] if id == netns(1)),
        "it is not held open: {effects:?}"
    );
    assert_eq!(agent.reconciler.report(agent.now).attachments, []);
    agent.attach_and_commit(1);
    assert_eq!(agent.reconciler.report(agent.now).attachments.len(), 1, "it may be attached again");
}

#[test]
fn unwritten_record_is_retried_until_it_is_written() {
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
        let delay = agent.reconciler.deadline().expect("a retry is due") - agent.now;
        assert!(delay <= Duration::from_secs(8), "{delay:?}");
        assert_eq!(written(&agent.tick_after(delay)), Some(record.clone()));
    }
    agent.step(Event::RecordWritten(Box::new(record.clone()), true));
    assert_eq!(agent.reconciler.report(agent.now).records_unwritten, 0);
    agent.step(Event::RecordWritten(Box::new(record), false));
    agent.step(Event::Detach(RequestId(2), key("pod-1")));
    assert_eq!(agent.reconciler.report(agent.now).records_unwritten, 0, "the attachment has ended");
}
