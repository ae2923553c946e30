//! Audits: drift is found and repaired, and a pod that drifts again and again is audited less often.
//!
//! The kernel's answers are made up: what is tested is when an audit is due and what follows from it.

use super::*;

#[test]
fn an_audit_finds_damage_repairs_it_and_says_so() {
    let mut bench = Bench::synced();
    bench.attached(1);
    let effects = bench.later(AUDIT);
    assert!(matches!(runs(&effects)[..], [(1, Work::Compare(_, Some(7)))]), "{effects:?}");
    assert!(effects.iter().any(|e| matches!(e, Effect::Look)));
    let effects = bench.step(Event::Done(netns(1), Outcome::Different("the table is gone".to_owned())));
    assert!(matches!(notes(&effects)[..], [Note::Damaged { .. }]), "{effects:?}");
    assert_eq!(sent(&effects).len(), 1);
    bench.step(Event::Done(netns(1), OK));
    let report = bench.agent.report(bench.now);
    assert_eq!((report.counts.repaired, report.attachments[0].repairs), (1, 1));
}

#[test]
fn a_pod_that_is_damaged_again_and_again_is_looked_at_ever_less_and_others_as_often_as_before() {
    let mut bench = Bench::synced();
    bench.attached(1);
    bench.attached(2);
    let mut looks = [0, 0];
    for _ in 0..100 {
        let effects = bench.later(AUDIT);
        for (number, _) in runs(&effects) {
            looks[usize::try_from(number - 1).expect("a small number")] += 1;
            let outcome = match number {
                1 => Outcome::Different("elements too many".to_owned()),
                _ => Outcome::Same(Some(7)),
            };
            let effects = bench.step(Event::Done(netns(number), outcome));
            if !sent(&effects).is_empty() {
                bench.step(Event::Done(netns(number), OK));
            }
        }
    }
    let [damaged, right] = looks;
    assert_eq!(right, 100, "one that is right has each audit");
    assert!((6..=12).contains(&damaged), "{damaged} looks in 50 minutes");
    let report = bench.agent.report(bench.now);
    let backoff = |number: usize| report.attachments[number].audit_backoff_ms;
    assert!(backoff(0) > 0 && backoff(1) == 0, "{report:?}");
}

#[test]
fn a_look_that_fails_leaves_no_deadline_in_the_past() {
    let mut bench = Bench::synced();
    bench.attached(1);
    bench.step(Event::Check(Ticket(50), netns(1)));
    let failed = Outcome::Failed { message: "the table changes".to_owned(), transient: true };
    bench.step(Event::Done(netns(1), failed));
    bench.later(Duration::from_secs(1));
    let deadline = bench.agent.deadline().expect("the next audit");
    assert!(deadline > bench.now, "the driver would go on and on without a pause");
}
