//! The jobs of the controller, without an API server.

use std::collections::BTreeMap;

use kube_source::OwnerReference;
use proxy_core::admission::{Content, base_name};

use super::*;
use crate::controller::object::Observed;
use crate::controller::quota::Usage;

const GRACE: Duration = Duration::from_secs(600);

fn state() -> State {
    let quotas = Quotas::new(Usage { count: 100, bytes: 1 << 20 });
    State::new(GRACE, quotas, BTreeSet::from(["kube-system".to_owned()]))
}

fn meta(namespace: &str, name: &str, version: u32) -> ObjectMeta {
    ObjectMeta {
        key: ObjectKey { namespace: namespace.into(), name: name.into() },
        uid: "u".into(),
        resource_version: version.to_string().into(),
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        owner_references: Vec::<OwnerReference>::new(),
        created_s: None,
        deleted_s: None,
    }
}

fn selection(prefix: &str) -> String {
    format!("{{\"prefix\":\"{prefix}\",\"forms\":\"all\"}}")
}

fn pod(namespace: &str, name: &str, text: &str) -> ObjectMeta {
    let mut pod = meta(namespace, name, 1);
    pod.labels.insert("portico.dev/variables".into(), "configmap".into());
    pod.annotations.insert("portico.dev/selection".into(), text.into());
    pod
}

fn content(variables: usize) -> Content {
    let Some(content) = Content::from_text(&format!("{variables:032x} {variables} 100")) else {
        panic!("text")
    };
    content
}

fn map(namespace: &str, text: &str, version: u32, content: &Content) -> ObjectMeta {
    let mut map = meta(namespace, &base_name(text), version);
    map.annotations.insert("portico.dev/selection".into(), text.into());
    map.annotations.insert("portico.dev/content".into(), content.to_string().into());
    map
}

fn observed(version: u32, content: &Content) -> BTreeMap<usize, Observed> {
    BTreeMap::from([(0, Observed { version: version.to_string().into(), content: Some(content.clone()) })])
}

/// Returns the only job, if there is one.
fn only_job(state: &mut State, now: Instant) -> Option<(GroupKey, Work)> {
    let mut jobs = state.jobs(now);
    assert!(jobs.len() <= 1, "{jobs:?}");
    match jobs.pop() {
        Some(Job::Group(key, work)) => Some((key, work)),
        None => None,
        Some(other) => panic!("{other:?}"),
    }
}

/// A state in which one ConfigMap was created for one pod.
fn with_config_map(now: Instant) -> (State, GroupKey) {
    let mut state = state();
    state.pod(&pod("a", "p", &selection("")), now).unwrap();
    let Some((key, Work::Ensure(_))) = only_job(&mut state, now) else { panic!("no work") };
    state.finish(&key, Outcome::Applied(observed(1, &content(7)), BTreeMap::new()), now);
    assert!(state.config_map(&map("a", &selection(""), 1, &content(7)), now));
    assert_eq!(only_job(&mut state, now), None);
    (state, key)
}

#[test]
fn config_map_is_created_once_and_deleted_after_the_grace_period() {
    let now = Instant::now();
    let (mut state, key) = with_config_map(now);
    state.pod(&pod("a", "p", &selection("")), now).unwrap();
    state.pod(&pod("a", "q", &selection("")), now).unwrap();
    assert_eq!(only_job(&mut state, now), None);
    for name in ["p", "q"] {
        state.pod_deleted(&meta("a", name, 1).key, now);
    }
    assert_eq!((only_job(&mut state, now), state.next_due()), (None, Some(now + GRACE)));
    assert_eq!(
        only_job(&mut state, now + GRACE),
        Some((key.clone(), Work::Delete(observed(1, &content(7)), BTreeMap::new())))
    );
    state.finish(&key, Outcome::Applied(BTreeMap::new(), BTreeMap::new()), now + GRACE);
    assert!(state.namespaces.is_empty() && state.due.is_empty() && state.ready.is_empty());
}

#[test]
fn pod_created_in_the_grace_period_updates_the_config_map_at_once() {
    let now = Instant::now();
    let (mut state, key) = with_config_map(now);
    state.pod_deleted(&meta("a", "p", 1).key, now);
    let later = now + GRACE / 2;
    state.pod(&pod("a", "q", &selection("")), later).unwrap();
    assert!(matches!(only_job(&mut state, later), Some((found, Work::Ensure(_))) if found == key));
    state.finish(&key, Outcome::Applied(observed(2, &content(8)), BTreeMap::new()), later);
    assert_eq!(only_job(&mut state, now + GRACE * 2), None);
}

#[test]
fn foreign_deletes_and_writes_are_reverted_with_backoff() {
    let now = Instant::now();
    let (mut state, key) = with_config_map(now);
    state.config_map_deleted(&meta("a", &base_name(&selection("")), 1).key, now);
    let Some((_, Work::Ensure(ensure))) = only_job(&mut state, now) else { panic!("no work") };
    assert!(ensure.found.is_empty());
    state.finish(&key, Outcome::Applied(observed(2, &content(7)), BTreeMap::new()), now);
    // Another client changes the data: the version is new, and the annotations are the same.
    let mut at = now;
    let mut writes = 0;
    for version in 3..100 {
        at += Duration::from_millis(100);
        state.config_map(&map("a", &selection(""), version, &content(7)), at);
        if let Some((_, Work::Ensure(ensure))) = only_job(&mut state, at) {
            assert!(ensure.must_rewrite, "{ensure:?}");
            writes += 1;
            state.finish(&key, Outcome::Applied(ensure.found, BTreeMap::new()), at);
        }
    }
    assert!((2..40).contains(&writes), "{writes}");
}

#[test]
fn namespace_has_at_most_eight_jobs_at_a_time_and_others_are_served() {
    let (mut state, now) = (state(), Instant::now());
    for number in 0..1_000 {
        state.pod(&pod("a", &format!("p{number}"), &selection(&format!("P{number}_"))), now).unwrap();
    }
    state.pod(&pod("b", "p", &selection("")), now).unwrap();
    let jobs = state.jobs(now);
    let of = |namespace: &str| {
        jobs.iter().filter(|job| matches!(job, Job::Group(key, _) if &*key.0 == namespace)).count()
    };
    assert_eq!((of("a"), of("b")), (8, 1));
    assert_eq!(state.jobs(now), []);
    // A failed one is delayed, and the next one starts.
    let Some(Job::Group(key, _)) = jobs.into_iter().next() else { panic!("a job") };
    state.finish(&key, Outcome::Failed, now);
    assert!(matches!(&state.jobs(now)[..], [Job::Group(next, _)] if *next != key));
    assert!(state.next_due().is_some_and(|due| due > now && due < now + Duration::from_secs(1)));
}

#[test]
fn selections_of_a_namespace_are_bounded_and_other_pods_are_listed_again() {
    let (mut state, now) = (state(), Instant::now());
    let service = |number: usize| format!("{{\"service\":{{\"namespace\":\"a\",\"name\":\"s{number}\"}}}}");
    let list = (0..900).map(service).collect::<Vec<_>>().join(",");
    for number in 0..100 {
        let text = format!("{{\"services\":[{list}],\"prefix\":\"P{number}\",\"forms\":\"all\"}}");
        state.pod(&pod("a", &format!("p{number}"), &text), now).unwrap();
    }
    let namespace = &state.namespaces[&Arc::from("a")];
    assert!(namespace.text_bytes <= TEXT_BYTES_OF_NAMESPACE_MAX && namespace.pods.len() < 40);
    let known: Vec<Arc<str>> = namespace.pods.keys().cloned().collect();
    for name in &known[1..] {
        state.pod_deleted(&meta("a", name, 1).key, now);
    }
    let later = now + RELIST_INTERVAL;
    let relisted = state.jobs(later).into_iter().find_map(|job| match job {
        Job::Relist(namespace, known) => Some((namespace, known.len())),
        _ => None,
    });
    assert_eq!(relisted, Some(("a".into(), 1)));
}

#[test]
fn unmanaged_objects_and_excluded_namespaces_are_ignored() {
    let (mut state, now) = (state(), Instant::now());
    let mut other = map("a", &selection(""), 1, &content(1));
    other.key.name = "portico-env-mine".into();
    assert!(!state.config_map(&other, now));
    let mut other = map("a", &selection(""), 1, &content(1));
    other.annotations.insert("portico.dev/selection".into(), "{}".into());
    assert!(!state.config_map(&other, now));
    state.pod(&pod("kube-system", "p", &selection("")), now).unwrap();
    assert!(state.config_map(&map("kube-system", &selection(""), 1, &content(1)), now));
    assert!(state.namespaces.is_empty());
}

#[test]
fn refusal_is_reported_once_and_retried_once_there_is_room() {
    let now = Instant::now();
    let (mut state, first) = with_config_map(now);
    let mut reported = 0;
    for number in 0..3 {
        state.pod(&pod("a", &format!("p{number}"), &selection(&format!("P{number}_"))), now).unwrap();
        let Some((key, _)) = only_job(&mut state, now) else { panic!("a job") };
        reported += usize::from(state.finish(&key, Outcome::Refused(Exceeded::Count(1)), now).is_some());
    }
    assert_eq!((reported, only_job(&mut state, now + Duration::from_secs(59))), (1, None));
    state.pod_deleted(&meta("a", "p", 1).key, now);
    let later = now + GRACE;
    let mut jobs = state.jobs(later);
    assert_eq!(jobs.len(), 4, "refused selections are retried periodically");
    jobs.retain(|job| matches!(job, Job::Group(key, Work::Ensure(_)) if *key != first));
    for job in &jobs {
        let Job::Group(key, _) = job else { panic!("{job:?}") };
        assert_eq!(state.finish(key, Outcome::Refused(Exceeded::Count(1)), later), None);
    }
    assert_eq!(state.jobs(later), []);
    state.finish(&first, Outcome::Applied(BTreeMap::new(), BTreeMap::new()), later);
    assert_eq!(state.jobs(later).len(), 3);
}

#[test]
fn refusal_that_arrives_after_room_was_freed_is_retried_at_once() {
    let now = Instant::now();
    let (mut state, first) = with_config_map(now);
    state.pod(&pod("a", "p1", &selection("P1_")), now).unwrap();
    let Some((second, Work::Ensure(_))) = only_job(&mut state, now) else { panic!("a job") };
    state.pod_deleted(&meta("a", "p", 1).key, now);
    let later = now + GRACE;
    let Some((deleted, Work::Delete(..))) = only_job(&mut state, later) else { panic!("a job") };
    assert_eq!(deleted, first);
    // The quota refused the second selection, then the first one was deleted, then the refusal arrives.
    state.finish(&first, Outcome::Applied(BTreeMap::new(), BTreeMap::new()), later);
    state.finish(&second, Outcome::Refused(Exceeded::Count(1)), later);
    assert!(matches!(only_job(&mut state, later), Some((key, Work::Ensure(_))) if key == second));
}

#[test]
fn change_of_services_updates_only_selections_with_services_of_their_namespace() {
    let (mut state, now) = (state(), Instant::now());
    let of_b = r#"{"services":[{"alias":"x","service":{"namespace":"b","name":"s"}}],"forms":"all"}"#;
    for (namespace, text) in
        [("a", selection("")), ("b", selection("")), ("c", of_b.to_owned()), ("d", selection(""))]
    {
        state.pod(&pod(namespace, "p", &text), now).unwrap();
    }
    for job in state.jobs(now) {
        let Job::Group(key, _) = job else { panic!("{job:?}") };
        state.finish(&key, Outcome::Applied(observed(1, &content(1)), BTreeMap::new()), now);
    }
    let mut changed = |namespaces: &[&str], all: bool| {
        state.services_changed(&namespaces.iter().map(|name| Arc::from(*name)).collect(), all, now);
        let jobs = state.jobs(now);
        let keys =
            jobs.into_iter().filter_map(|job| if let Job::Group(key, _) = job { Some(key) } else { None });
        let mut names: Vec<String> = Vec::new();
        for key in keys {
            names.push(key.0.to_string());
            state.finish(&key, Outcome::Applied(observed(1, &content(1)), BTreeMap::new()), now);
        }
        names.sort();
        names.concat()
    };
    assert_eq!(changed(&["b"], false), "bc");
    assert_eq!(changed(&["d"], false), "d");
    assert_eq!(changed(&["default"], true), "abcd");
    assert_eq!(changed(&["unknown"], false), "");
}
