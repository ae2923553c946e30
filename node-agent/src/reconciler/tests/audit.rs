//! Audits: drift is found and repaired, and audits of a pod with repeated drift back off.

use super::*;

#[test]
fn audit_finds_drift_repairs_and_logs_it() {
    let mut agent = TestAgent::synced();
    agent.attach_and_commit(1);
    let effects = agent.tick_after(AUDIT);
    assert!(matches!(operations(&effects)[..], [(1, Operation::Verify(_, Some(7)))]), "{effects:?}");
    assert!(effects.iter().any(|e| matches!(e, Effect::Sweep)));
    let effects = agent.step(Event::JobDone(netns(1), Outcome::Drifted("the table is gone".to_owned())));
    assert!(matches!(log_events(&effects)[..], [LogEvent::Drift { .. }]), "{effects:?}");
    assert_eq!(batches(&effects).len(), 1);
    agent.step(Event::JobDone(netns(1), OK));
    let report = agent.reconciler.report(agent.now);
    assert_eq!((report.counts.repairs, report.attachments[0].repairs), (1, 1));
}

#[test]
fn audits_of_a_pod_with_repeated_drift_back_off_and_others_do_not() {
    let mut agent = TestAgent::synced();
    agent.attach_and_commit(1);
    agent.attach_and_commit(2);
    let mut audits = [0, 0];
    for _ in 0..100 {
        let effects = agent.tick_after(AUDIT);
        for (number, _) in operations(&effects) {
            audits[usize::try_from(number - 1).expect("a small number")] += 1;
            let outcome = match number {
                1 => Outcome::Drifted("elements too many".to_owned()),
                _ => Outcome::Matches(Some(7)),
            };
            let effects = agent.step(Event::JobDone(netns(number), outcome));
            if !batches(&effects).is_empty() {
                agent.step(Event::JobDone(netns(number), OK));
            }
        }
    }
    let [drifted, right] = audits;
    assert_eq!(right, 100, "a pod without drift has every audit");
    assert!((6..=12).contains(&drifted), "{drifted} audits in 50 minutes");
    let report = agent.reconciler.report(agent.now);
    let backoff = |number: usize| report.attachments[number].audit_backoff_ms;
    assert!(backoff(0) > 0 && backoff(1) == 0, "{report:?}");
}

#[test]
fn failed_audit_leaves_no_deadline_in_the_past() {
    let mut agent = TestAgent::synced();
    agent.attach_and_commit(1);
    agent.step(Event::Check(RequestId(50), netns(1)));
    let failed = Outcome::Failed { message: "the table changes".to_owned(), transient: true };
    agent.step(Event::JobDone(netns(1), failed));
    agent.tick_after(Duration::from_secs(1));
    let deadline = agent.reconciler.deadline().expect("the next audit");
    assert!(deadline > agent.now, "the driver would go on and on without a pause");
}

#[test]
fn audit_includes_routes() {
    let mut agent = TestAgent::synced();
    agent.attach_and_commit(1);
    let effects = agent.tick_after(AUDIT);
    assert!(effects.iter().any(|e| matches!(e, Effect::Run(_, job) if job.routes.is_some())), "{effects:?}");
}

#[test]
fn check_verifies_the_kernel_before_the_reply() {
    let mut agent = TestAgent::synced();
    agent.attach_and_commit(1);
    let effects = agent.step(Event::Check(RequestId(50), netns(1)));
    assert!(matches!(operations(&effects)[..], [(1, Operation::Verify(_, None))]), "{effects:?}");
    assert_eq!(
        replies(&agent.step(Event::JobDone(netns(1), Outcome::Matches(Some(7))))),
        [(50, &Reply::Done)]
    );
    agent.step(Event::Check(RequestId(51), netns(1)));
    let effects = agent.step(Event::JobDone(netns(1), Outcome::Drifted("chain portals is gone".to_owned())));
    let [(51, reply)] = replies(&effects)[..] else { panic!("{effects:?}") };
    assert!(is_transient(reply) && format!("{reply:?}").contains("chain portals"), "{reply:?}");
    let effects = agent.step(Event::Check(RequestId(52), netns(2)));
    assert!(matches!(replies(&effects)[..], [(52, Reply::Refused { transient: false, .. })]));
}
