//! On the double: variables that need several ConfigMaps, and more or fewer of them while pods refer to those.
//!
//! What a pod refers to is settled when it is made. So each part that must be there, must stay; and what moves from part to
//! part must be in one of them all the time. What must not go in here: how much fits into a part.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use serde_json::{Value, json};

use crate::double::maps_of;
use test_support::apiserver::Api;
use test_support::caller::Caller;
use test_support::replica::{Cluster, service};
use test_support::review::{annotated, patched, pod, review};
use test_support::webhook::until;

/// So many services fill one part, and half of the next.
const SERVICES: u32 = 900;

/// A service whose variables have names as long as they may be.
fn long(number: u32) -> Value {
    let name = format!("s{number:04}-{}", "x".repeat(57));
    let (high, low) = (number / 250, number % 250 + 1);
    json!({"kind": "Service", "metadata": {"name": name, "namespace": "default"}, "spec": {
        "clusterIP": format!("10.1.{high}.{low}"),
        "ports": [{"name": "p".repeat(15), "port": 8080, "protocol": "TCP"}]}})
}

fn host(number: u32) -> String {
    format!("S{number:04}_{}_SERVICE_HOST", "X".repeat(57))
}

/// What a container of a pod starts with at this moment, and from how many parts. All that must be there is there.
fn started(cluster: &Cluster, pod: &Value) -> (usize, BTreeSet<String>) {
    let listed = cluster.config_maps("default").into_iter();
    let maps: BTreeMap<String, Value> =
        listed.map(|map| (map["metadata"]["name"].as_str().expect("a name").to_owned(), map)).collect();
    let mut names = BTreeSet::new();
    let mut parts = 0;
    for source in pod["spec"]["containers"][0]["envFrom"].as_array().expect("sources") {
        let reference = &source["configMapRef"];
        match maps.get(reference["name"].as_str().expect("a name")) {
            Some(map) => {
                parts += usize::from(map["data"].as_object().is_some_and(|data| !data.is_empty()));
                names.extend(map["data"].as_object().into_iter().flatten().map(|(name, _)| name.clone()));
            }
            None => assert_eq!(reference["optional"], true, "{reference} is absent"),
        }
    }
    (parts, names)
}

/// The first ConfigMap to which a pod refers.
fn base_of(cluster: &Cluster, pod: &str) -> String {
    let pod = cluster.api.get("Pod", "default", pod).expect("it is there");
    let name = &pod["spec"]["containers"][0]["envFrom"][0]["configMapRef"]["name"];
    name.as_str().expect("a name").to_owned()
}

#[test]
fn parts_come_and_go_while_a_pod_refers_to_them_and_it_misses_nothing() {
    let cluster = Cluster::new(Api::double());
    (0..SERVICES).for_each(|number| cluster.api.put(long(number)));
    let webhook = cluster.replica(&["--config-map-grace", "5"]);
    let wish = annotated(pod("a"), &[("portico.dev/inject", "configmap")]);
    let mut caller = Caller::local(webhook.address).expect("connect");
    let made = patched(&wish, &caller.review(&review("u", &wish)).expect("an answer"));
    cluster.api.put(made.clone());
    let referred = made["spec"]["containers"][0]["envFrom"].as_array().expect("sources");
    let must = referred.iter().filter(|source| source["configMapRef"]["optional"] != true).count();
    maps_of(&cluster, "default", must);
    let (before, names) = started(&cluster, &made);
    assert!(before >= 2 && names.contains(&host(0)) && names.contains(&host(SERVICES - 1)), "{before} parts");

    // In front of all others, so that these move on; after them come as many again.
    let has_all = |names: &BTreeSet<String>, numbers: Range<u32>| {
        numbers.into_iter().all(|number| names.contains(&host(number)))
    };
    (SERVICES..SERVICES * 7 / 4).for_each(|number| cluster.api.put(long(number)));
    cluster.api.put(service("a-first", 99, 80));
    until("all are there", || {
        let (parts, names) = started(&cluster, &made);
        assert!(has_all(&names, 0..SERVICES), "one is missing while it moves");
        (parts > before && has_all(&names, 0..SERVICES * 7 / 4) && names.contains("A_FIRST_PORT"))
            .then_some(())
    });

    cluster.api.delete("Service", "default", "a-first");
    (1..SERVICES * 7 / 4).for_each(|number| {
        let name = long(number)["metadata"]["name"].as_str().expect("a name").to_owned();
        cluster.api.delete("Service", "default", &name);
    });
    until("the others are gone", || {
        let (parts, names) = started(&cluster, &made);
        assert!(has_all(&names, 0..1), "it is missing while it moves");
        (parts == 1 && !names.contains(&host(1))).then_some(())
    });
    // Another pod's ConfigMap comes and is collected meanwhile.
    let other =
        annotated(pod("b"), &[("portico.dev/inject", "configmap"), ("portico.dev/forms", "host-port")]);
    cluster.api.put(patched(&other, &caller.review(&review("u", &other)).expect("an answer")));
    until("the other one has its ConfigMaps", || {
        let name = base_of(&cluster, "b");
        cluster.api.get("ConfigMap", "default", &name).map(drop)
    });
    cluster.api.delete("Pod", "default", "b");
    let collected = || webhook.metric("config_maps_total{what=\"collected\"}");
    until("it is collected", || (collected() >= 1.0).then_some(()));
    assert_eq!(started(&cluster, &made).0, 1);
    cluster.api.delete("Pod", "default", "a");
    until("all are collected", || cluster.config_maps("default").is_empty().then_some(()));
}
