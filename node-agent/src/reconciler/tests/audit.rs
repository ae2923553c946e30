//! Audits: drift is found and repaired, and a pod that drifts again and again is audited less often.
//!
//! The kernel's answers are made up: what is tested is when an audit is due and what follows from it.

use super::*;

#[test]
fn an_audit_finds_damage_repairs_it_and_says_so() {
    let mut agent = TestAgent::synced();
    agent.attached(1);
    let effects = agent.later(AUDIT);
    assert!(matches!(runs(&effects)[..], [(1, Operation::Verify(_, Some(7)))]), "{effects:?}");
    assert!(effects.iter().any(|e| matches!(e, Effect::Sweep)));
    let effects = agent.step(Event::JobDone(netns(1), Outcome::Drifted("the table is gone".to_owned())));
    assert!(matches!(notes(&effects)[..], [LogEvent::Drift { .. }]), "{effects:?}");
    assert_eq!(sent(&effects).len(), 1);
    agent.step(Event::JobDone(netns(1), OK));
    let report = agent.reconciler.report(agent.now);
    assert_eq!((report.counts.repaired, report.attachments[0].repairs), (1, 1));
}

#[test]
fn a_pod_that_is_damaged_again_and_again_is_looked_at_ever_less_and_others_as_often_as_before() {
    let mut agent = TestAgent::synced();
    agent.attached(1);
    agent.attached(2);
    let mut looks = [0, 0];
    for _ in 0..100 {
        let effects = agent.later(AUDIT);
        for (number, _) in runs(&effects) {
            looks[usize::try_from(number - 1).expect("a small number")] += 1;
            let outcome = match number {
                1 => Outcome::Drifted("elements too many".to_owned()),
                _ => Outcome::Matches(Some(7)),
            };
            let effects = agent.step(Event::JobDone(netns(number), outcome));
            if !sent(&effects).is_empty() {
                agent.step(Event::JobDone(netns(number), OK));
            }
        }
    }
    let [damaged, right] = looks;
    assert_eq!(right, 100, "one that is right has each audit");
    assert!((6..=12).contains(&damaged), "{damaged} looks in 50 minutes");
    let report = agent.reconciler.report(agent.now);
    let backoff = |number: usize| report.attachments[number].audit_backoff_ms;
    assert!(backoff(0) > 0 && backoff(1) == 0, "{report:?}");
}

#[test]
fn a_look_that_fails_leaves_no_deadline_in_the_past() {
    let mut agent = TestAgent::synced();
    agent.attached(1);
    agent.step(Event::Check(RequestId(50), netns(1)));
    let failed = Outcome::Failed { message: "the table changes".to_owned(), transient: true };
    agent.step(Event::JobDone(netns(1), failed));
    agent.later(Duration::from_secs(1));
    let deadline = agent.reconciler.deadline().expect("the next audit");
    assert!(deadline > agent.now, "the driver would go on and on without a pause");
}
