//! Which refusals are reported, how often, and how many.

use proxy_core::sample::svc;
use proxy_core::service::Service;
use proxy_core::snapshot::Change;

use super::*;

/// A service that asks for this many portals.
fn service(namespace: &str, name: &str, ports: u16) -> Service {
    let service = svc(name).namespace(namespace).ip("10.96.0.1").created("2026-01-01T00:00:00Z");
    (1..=ports).fold(service, |service, port| service.tcp(&format!("p{port}"), port))
}

fn checker() -> LimitChecker {
    let limits = PortalLimits { service_portals: 3, ..PortalLimits::default() };
    LimitChecker::new(LimitOptions { limits, ..LimitOptions::default() })
}

/// Checks the namespaces now, and returns the names and counts of what is reported.
fn check_namespaces(
    checker: &mut LimitChecker,
    snapshot: &Snapshot,
    namespaces: &[&str],
) -> Vec<(String, usize)> {
    checker.services_changed(&namespaces.iter().map(|name| Arc::from(*name)).collect());
    let mut reported = Vec::new();
    for _ in namespaces {
        let now = checker.next_due(Instant::now()).expect("a check is pending");
        let (namespace, check) = checker.start(now).expect("it is due");
        assert!(checker.start(now).is_none(), "one check at a time");
        reported.extend(checker.finish(&namespace, Some(check(snapshot)), now));
    }
    reported.into_iter().map(|refusal| (refusal.service.to_string(), refusal.count)).collect()
}

#[test]
fn refusal_is_reported_once_until_it_ends() {
    let (mut checker, mut snapshot) = (checker(), Snapshot::new());
    snapshot.apply(service("a", "big", 5).into());
    snapshot.apply(service("a", "small", 3).into());
    assert_eq!(check_namespaces(&mut checker, &snapshot, &["a"]), [("a/big".to_owned(), 2)]);
    snapshot.apply(service("a", "big", 9).into());
    assert_eq!(check_namespaces(&mut checker, &snapshot, &["a"]), [], "it was reported");
    snapshot.apply(service("a", "big", 3).into());
    assert_eq!(check_namespaces(&mut checker, &snapshot, &["a"]), []);
    snapshot.apply(service("a", "big", 4).into());
    assert_eq!(check_namespaces(&mut checker, &snapshot, &["a"]), [("a/big".to_owned(), 1)]);
}

#[test]
fn recreated_service_is_reported_again() {
    let (mut checker, mut snapshot) = (checker(), Snapshot::new());
    snapshot.apply(service("a", "big", 4).into());
    assert_eq!(check_namespaces(&mut checker, &snapshot, &["a"]).len(), 1);
    snapshot.apply(service("a", "big", 4).created("2026-01-02T00:00:00Z").into());
    assert_eq!(check_namespaces(&mut checker, &snapshot, &["a"]).len(), 1);
}

#[test]
fn check_of_a_namespace_keeps_what_was_reported_of_others() {
    let (mut checker, mut snapshot) = (checker(), Snapshot::new());
    for namespace in ["a", "b", "c"] {
        snapshot.apply(service(namespace, "big", 4).into());
    }
    assert_eq!(check_namespaces(&mut checker, &snapshot, &["a", "b", "c"]).len(), 3);
    snapshot.apply(Change::ServiceDeleted(ServiceKey::new("b", "big")));
    assert_eq!(check_namespaces(&mut checker, &snapshot, &["b"]), []);
    assert_eq!(checker.reported.len(), 2);
    assert_eq!(check_namespaces(&mut checker, &snapshot, &["a", "c"]), []);
}

#[test]
fn reports_and_memory_of_a_namespace_are_bounded() {
    let (mut checker, mut snapshot) = (checker(), Snapshot::new());
    for number in 0..1_000 {
        snapshot.apply(service("a", &format!("big-{number:04}"), 4).into());
    }
    let mut all = BTreeSet::new();
    for _ in 0..100 {
        let reported = check_namespaces(&mut checker, &snapshot, &["a"]);
        assert!(reported.len() <= REPORTS_PER_CHECK_MAX);
        all.extend(reported);
    }
    assert_eq!((all.len(), checker.reported.len()), (REPORTED_OF_NAMESPACE_MAX, REPORTED_OF_NAMESPACE_MAX));
}

#[test]
fn next_check_waits_after_a_slow_one_and_a_failed_one_does_not_block() {
    let (mut checker, now) = (checker(), Instant::now());
    checker.services_changed(&["a", "b", "c"].map(Arc::from).into());
    let (namespace, _) = checker.start(now).expect("it is due");
    assert_eq!(checker.next_due(now), None, "a check is running");
    let slow = Checked { refused: Vec::new(), took: Duration::from_millis(10) };
    assert_eq!(checker.finish(&namespace, Some(slow), now), []);
    assert_eq!(checker.next_due(now), Some(now + Duration::from_millis(90)));
    assert!(checker.start(now).is_none());
    let (namespace, _) = checker.start(now + Duration::from_millis(90)).expect("it is due");
    assert_eq!(checker.finish(&namespace, None, now), []);
    assert!(checker.next_due(now).is_some());
}

#[test]
fn namespace_that_changes_all_the_time_does_not_delay_others() {
    let (mut checker, now) = (checker(), Instant::now());
    checker.services_changed(&["b", "c"].map(Arc::from).into());
    let mut checked = Vec::new();
    for _ in 0..5 {
        checker.services_changed(&["a"].map(Arc::from).into());
        let (namespace, _) = checker.start(now).expect("it is due");
        assert_eq!(checker.finish(&namespace, None, now), []);
        checked.push(namespace.to_string());
    }
    assert_eq!(checked, ["a", "b", "c", "a", "a"]);
}
