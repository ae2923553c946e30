//! Which conflicts are reported, how often, and how many.

use proxy_core::portal::ExternalPolicy;
use proxy_core::sample::svc;
use proxy_core::service::Service;
use proxy_core::snapshot::Change;

use super::*;

/// A service with a port of a shared address, created on a day.
fn service(namespace: &str, name: &str, port: u16, day: u8) -> Service {
    let service = svc(name).namespace(namespace).ip("10.96.0.1").external("192.0.2.1").tcp("", port);
    service.created(&format!("2026-01-{day:02}T00:00:00Z"))
}

fn checker() -> ConflictChecker {
    ConflictChecker::new(LimitOptions { external: ExternalPolicy::all(), ..LimitOptions::default() })
}

/// Runs the pending check, and returns the services that are reported.
fn run_check(checker: &mut ConflictChecker, snapshot: &Snapshot) -> Vec<String> {
    let now = checker.next_due(Instant::now()).expect("a check is pending");
    let check = checker.start(now).expect("it is due");
    assert!(checker.start(now).is_none(), "one check at a time");
    let reports = checker.finish(Some(check(snapshot)), now);
    reports.into_iter().map(|(service, conflict)| format!("{service}: {}", conflict.port)).collect()
}

fn check_after_change(checker: &mut ConflictChecker, snapshot: &Snapshot) -> Vec<String> {
    checker.services_changed();
    run_check(checker, snapshot)
}

#[test]
fn conflict_is_reported_once_until_it_ends() {
    let (mut checker, mut snapshot) = (checker(), Snapshot::new());
    snapshot.apply(service("a", "old", 80, 1).into());
    snapshot.apply(service("b", "young", 80, 2).into());
    assert_eq!(check_after_change(&mut checker, &snapshot), ["b/young: 192.0.2.1/TCP/80"]);
    snapshot.apply(service("b", "young", 80, 2).tcp("more", 81).into());
    assert_eq!(check_after_change(&mut checker, &snapshot), [""; 0], "it was reported");
    // The end of the conflict is a change in another namespace.
    snapshot.apply(Change::ServiceDeleted(ServiceKey::new("a", "old")));
    assert_eq!(check_after_change(&mut checker, &snapshot), [""; 0]);
    assert!(checker.reported.is_empty());
    snapshot.apply(service("a", "old", 80, 1).into());
    assert_eq!(check_after_change(&mut checker, &snapshot), ["b/young: 192.0.2.1/TCP/80"]);
}

#[test]
fn conflict_is_reported_again_if_the_service_or_the_owner_is_another_one() {
    let (mut checker, mut snapshot) = (checker(), Snapshot::new());
    snapshot.apply(service("a", "old", 80, 5).into());
    snapshot.apply(service("b", "young", 80, 6).into());
    assert_eq!(check_after_change(&mut checker, &snapshot).len(), 1);
    snapshot.apply(service("b", "young", 80, 7).into());
    assert_eq!(
        check_after_change(&mut checker, &snapshot),
        ["b/young: 192.0.2.1/TCP/80"],
        "it was recreated"
    );
    snapshot.apply(service("c", "older", 80, 4).into());
    let both = ["a/old: 192.0.2.1/TCP/80", "b/young: 192.0.2.1/TCP/80"];
    assert_eq!(check_after_change(&mut checker, &snapshot), both);
}

#[test]
fn reports_and_memory_of_a_namespace_are_bounded() {
    let (mut checker, mut snapshot) = (checker(), Snapshot::new());
    snapshot.apply(service("a", "old", 80, 1).into());
    for number in 0..1_000 {
        snapshot.apply(service("b", &format!("young-{number:04}"), 80, 2).into());
    }
    snapshot.apply(service("c", "young", 80, 2).into());
    let first = check_after_change(&mut checker, &snapshot);
    assert_eq!(first.len(), REPORTS_OF_NAMESPACE_MAX + 1);
    assert_eq!(first.last().map(String::as_str), Some("c/young: 192.0.2.1/TCP/80"));
    assert_eq!(checker.next_due(Instant::now()), None, "the others wait for a change");
    for _ in 0..100 {
        assert!(check_after_change(&mut checker, &snapshot).len() <= REPORTS_OF_NAMESPACE_MAX);
    }
    assert_eq!(checker.reported.len(), REPORTED_OF_NAMESPACE_MAX + 1);
}

#[test]
fn reports_of_many_namespaces_are_distributed_over_several_checks() {
    let (mut checker, mut snapshot) = (checker(), Snapshot::new());
    snapshot.apply(service("a", "old", 80, 1).into());
    for number in 0..250 {
        snapshot.apply(service(&format!("b-{number:03}"), "young", 80, 2).into());
    }
    assert_eq!(check_after_change(&mut checker, &snapshot).len(), REPORTS_PER_CHECK_MAX);
    assert_eq!(run_check(&mut checker, &snapshot).len(), REPORTS_PER_CHECK_MAX);
    assert_eq!(run_check(&mut checker, &snapshot).len(), 50);
    assert_eq!(checker.next_due(Instant::now()), None);
}

#[test]
fn next_check_waits_after_a_slow_one_and_a_failed_one_does_not_block() {
    let (mut checker, now) = (checker(), Instant::now());
    checker.services_changed();
    assert!(checker.start(now).is_some());
    checker.services_changed();
    assert_eq!(checker.next_due(now), None, "a check is running");
    let slow = FoundConflicts { conflicts: BTreeMap::new(), took: Duration::from_millis(10) };
    assert_eq!(checker.finish(Some(slow), now), []);
    assert_eq!(checker.next_due(now), Some(now + Duration::from_millis(90)));
    assert!(checker.start(now).is_none());
    let later = now + Duration::from_millis(90);
    assert!(checker.start(later).is_some());
    assert_eq!(checker.finish(None, later), []);
    checker.services_changed();
    assert!(checker.start(later).is_some());
}
