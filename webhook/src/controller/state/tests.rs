//! What the controller does next, claim by claim, without an API server.

use std::collections::BTreeMap;

use kube_source::OwnerReference;
use proxy_core::admission::{Content, base_name};

use super::*;
use crate::controller::object::Found;
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

fn text(prefix: &str) -> String {
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

fn found(version: u32, content: &Content) -> BTreeMap<usize, Found> {
    BTreeMap::from([(0, Found { version: version.to_string().into(), content: Some(content.clone()) })])
}

/// The one job that there is, if there is one.
fn job(state: &mut State, now: Instant) -> Option<(GroupKey, Work)> {
    let mut jobs = state.jobs(now);
    assert!(jobs.len() <= 1, "{jobs:?}");
    match jobs.pop() {
        Some(Job::Group(key, work)) => Some((key, work)),
        None => None,
        Some(other) => panic!("{other:?}"),
    }
}

/// A state in which one ConfigMap was provided for one pod.
fn provided(now: Instant) -> (State, GroupKey) {
    let mut state = state();
    state.pod(&pod("a", "p", &text("")), now).unwrap();
    let Some((key, Work::Provide(_))) = job(&mut state, now) else { panic!("nothing is provided") };
    state.done(&key, Outcome::Provided(found(1, &content(7)), BTreeMap::new()), now);
    assert!(state.config_map(&map("a", &text(""), 1, &content(7)), now));
    assert_eq!(job(&mut state, now), None);
    (state, key)
}

#[test]
fn a_pod_is_provided_for_once_however_often_it_changes_and_collected_after_the_grace() {
    let now = Instant::now();
    let (mut state, key) = provided(now);
    state.pod(&pod("a", "p", &text("")), now).unwrap();
    state.pod(&pod("a", "q", &text("")), now).unwrap();
    assert_eq!(job(&mut state, now), None);
    for name in ["p", "q"] {
        state.pod_gone(&meta("a", name, 1).key, now);
    }
    assert_eq!((job(&mut state, now), state.next_due()), (None, Some(now + GRACE)));
    assert_eq!(
        job(&mut state, now + GRACE),
        Some((key.clone(), Work::Collect(found(1, &content(7)), BTreeMap::new())))
    );
    state.done(&key, Outcome::Provided(BTreeMap::new(), BTreeMap::new()), now + GRACE);
    assert!(state.spaces.is_empty() && state.due.is_empty() && state.turns.is_empty());
}

#[test]
fn a_pod_that_comes_in_the_grace_is_provided_for_at_once_since_services_may_have_changed() {
    let now = Instant::now();
    let (mut state, key) = provided(now);
    state.pod_gone(&meta("a", "p", 1).key, now);
    let later = now + GRACE / 2;
    state.pod(&pod("a", "q", &text("")), later).unwrap();
    assert!(matches!(job(&mut state, later), Some((found, Work::Provide(_))) if found == key));
    state.done(&key, Outcome::Provided(found(2, &content(8)), BTreeMap::new()), later);
    assert_eq!(job(&mut state, now + GRACE * 2), None);
}

#[test]
fn what_somebody_deletes_or_alters_is_written_again_and_two_writers_do_not_go_on_for_ever() {
    let now = Instant::now();
    let (mut state, key) = provided(now);
    state.config_map_gone(&meta("a", &base_name(&text("")), 1).key, now);
    let Some((_, Work::Provide(provide))) = job(&mut state, now) else { panic!("it is gone") };
    assert!(provide.found.is_empty());
    state.done(&key, Outcome::Provided(found(2, &content(7)), BTreeMap::new()), now);
    // Data were altered: a new version, and nothing else that can be seen.
    let mut at = now;
    let mut writes = 0;
    for version in 3..100 {
        at += Duration::from_millis(100);
        state.config_map(&map("a", &text(""), version, &content(7)), at);
        if let Some((_, Work::Provide(provide))) = job(&mut state, at) {
            assert!(provide.rewrites, "{provide:?}");
            writes += 1;
            state.done(&key, Outcome::Provided(provide.found, BTreeMap::new()), at);
        }
    }
    assert!((2..40).contains(&writes), "{writes}");
}

#[test]
fn a_namespace_has_eight_jobs_at_a_time_and_others_have_their_turn() {
    let (mut state, now) = (state(), Instant::now());
    for number in 0..1_000 {
        state.pod(&pod("a", &format!("p{number}"), &text(&format!("P{number}_"))), now).unwrap();
    }
    state.pod(&pod("b", "p", &text("")), now).unwrap();
    let jobs = state.jobs(now);
    let of = |namespace: &str| {
        jobs.iter().filter(|job| matches!(job, Job::Group(key, _) if &*key.0 == namespace)).count()
    };
    assert_eq!((of("a"), of("b")), (8, 1));
    assert_eq!(state.jobs(now), []);
    // One that fails waits, and the next one comes.
    let Some(Job::Group(key, _)) = jobs.into_iter().next() else { panic!("a job") };
    state.done(&key, Outcome::Failed, now);
    assert!(matches!(&state.jobs(now)[..], [Job::Group(next, _)] if *next != key));
    assert!(state.next_due().is_some_and(|due| due > now && due < now + Duration::from_secs(1)));
}

#[test]
fn the_selections_of_a_namespace_are_bounded_and_pods_beyond_are_looked_for_again() {
    let (mut state, now) = (state(), Instant::now());
    let service = |number: usize| format!("{{\"service\":{{\"namespace\":\"a\",\"name\":\"s{number}\"}}}}");
    let list = (0..900).map(service).collect::<Vec<_>>().join(",");
    for number in 0..100 {
        let text = format!("{{\"services\":[{list}],\"prefix\":\"P{number}\",\"forms\":\"all\"}}");
        state.pod(&pod("a", &format!("p{number}"), &text), now).unwrap();
    }
    let space = &state.spaces[&Arc::from("a")];
    assert!(space.text_bytes <= TEXT_BYTES_OF_NAMESPACE_MAX && space.pods.len() < 40);
    let known: Vec<Arc<str>> = space.pods.keys().cloned().collect();
    for name in &known[1..] {
        state.pod_gone(&meta("a", name, 1).key, now);
    }
    let later = now + RECALL_INTERVAL;
    let recalls = state.jobs(later).into_iter().find_map(|job| match job {
        Job::Recall(namespace, known) => Some((namespace, known.len())),
        _ => None,
    });
    assert_eq!(recalls, Some(("a".into(), 1)));
}

#[test]
fn objects_with_the_label_that_are_not_ours_and_excepted_namespaces_are_passed_over() {
    let (mut state, now) = (state(), Instant::now());
    let mut other = map("a", &text(""), 1, &content(1));
    other.key.name = "portico-env-mine".into();
    assert!(!state.config_map(&other, now));
    let mut other = map("a", &text(""), 1, &content(1));
    other.annotations.insert("portico.dev/selection".into(), "{}".into());
    assert!(!state.config_map(&other, now));
    state.pod(&pod("kube-system", "p", &text("")), now).unwrap();
    assert!(state.config_map(&map("kube-system", &text(""), 1, &content(1)), now));
    assert!(state.spaces.is_empty());
}

#[test]
fn what_is_refused_is_told_once_and_tried_again_once_there_is_room() {
    let now = Instant::now();
    let (mut state, first) = provided(now);
    let mut told = 0;
    for number in 0..3 {
        state.pod(&pod("a", &format!("p{number}"), &text(&format!("P{number}_"))), now).unwrap();
        let Some((key, _)) = job(&mut state, now) else { panic!("a job") };
        told += usize::from(state.done(&key, Outcome::Refused(Exceeded::Count(1)), now).is_some());
    }
    assert_eq!((told, job(&mut state, now + Duration::from_secs(59))), (1, None));
    state.pod_gone(&meta("a", "p", 1).key, now);
    let later = now + GRACE;
    let mut jobs = state.jobs(later);
    assert_eq!(jobs.len(), 4, "now and then room is looked for");
    jobs.retain(|job| matches!(job, Job::Group(key, Work::Provide(_)) if *key != first));
    for job in &jobs {
        let Job::Group(key, _) = job else { panic!("{job:?}") };
        assert_eq!(state.done(key, Outcome::Refused(Exceeded::Count(1)), later), None);
    }
    assert_eq!(state.jobs(later), []);
    state.done(&first, Outcome::Provided(BTreeMap::new(), BTreeMap::new()), later);
    assert_eq!(state.jobs(later).len(), 3);
}

#[test]
fn a_refusal_that_room_overtook_is_retried_at_once() {
    let now = Instant::now();
    let (mut state, first) = provided(now);
    state.pod(&pod("a", "p1", &text("P1_")), now).unwrap();
    let Some((second, Work::Provide(_))) = job(&mut state, now) else { panic!("a job") };
    state.pod_gone(&meta("a", "p", 1).key, now);
    let later = now + GRACE;
    let Some((collected, Work::Collect(..))) = job(&mut state, later) else { panic!("a job") };
    assert_eq!(collected, first);
    // The quota refused the second selection, then the first one was deleted, then the refusal arrives.
    state.done(&first, Outcome::Provided(BTreeMap::new(), BTreeMap::new()), later);
    state.done(&second, Outcome::Refused(Exceeded::Count(1)), later);
    assert!(matches!(job(&mut state, later), Some((key, Work::Provide(_))) if key == second));
}

#[test]
fn only_selections_with_services_of_a_namespace_follow_its_changes() {
    let (mut state, now) = (state(), Instant::now());
    let of_b = r#"{"services":[{"alias":"x","service":{"namespace":"b","name":"s"}}],"forms":"all"}"#;
    for (namespace, text) in [("a", text("")), ("b", text("")), ("c", of_b.to_owned()), ("d", text(""))] {
        state.pod(&pod(namespace, "p", &text), now).unwrap();
    }
    for job in state.jobs(now) {
        let Job::Group(key, _) = job else { panic!("{job:?}") };
        state.done(&key, Outcome::Provided(found(1, &content(1)), BTreeMap::new()), now);
    }
    let mut changed = |namespaces: &[&str], all: bool| {
        state.services_changed(&namespaces.iter().map(|name| Arc::from(*name)).collect(), all, now);
        let jobs = state.jobs(now);
        let keys =
            jobs.into_iter().filter_map(|job| if let Job::Group(key, _) = job { Some(key) } else { None });
        let mut names: Vec<String> = Vec::new();
        for key in keys {
            names.push(key.0.to_string());
            state.done(&key, Outcome::Provided(found(1, &content(1)), BTreeMap::new()), now);
        }
        names.sort();
        names.concat()
    };
    assert_eq!(changed(&["b"], false), "bc");
    assert_eq!(changed(&["d"], false), "d");
    assert_eq!(changed(&["default"], true), "abcd");
    assert_eq!(changed(&["elsewhere"], false), "");
}
