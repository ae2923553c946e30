//! On the double: variables in several ConfigMaps, of which more or fewer are needed while pods refer to them.
//!
//! The references of a pod do not change after admission. So each required part must stay, and a variable that moves
//! between parts must be in one of them at any time.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use serde_json::{Value, json};

use crate::double::wait_for_config_maps;
use test_support::apiserver::ApiServer;
use test_support::caller::Caller;
use test_support::eventually::eventually;
use test_support::review::{apply_patch, pod, review, with_annotations};
use test_support::webhook_cluster::{WebhookCluster, service};

/// This number of services fills one part, and half of the next.
const SERVICES: u32 = 900;

/// Returns a service whose variables have names of the maximum length.
fn service_with_long_names(number: u32) -> Value {
    let name = format!("s{number:04}-{}", "x".repeat(57));
    let (high, low) = (number / 250, number % 250 + 1);
    json!({"kind": "Service", "metadata": {"name": name, "namespace": "default"}, "spec": {
        "clusterIP": format!("10.1.{high}.{low}"),
        "ports": [{"name": "p".repeat(15), "port": 8080, "protocol": "TCP"}]}})
}

fn host(number: u32) -> String {
    format!("S{number:04}_{}_SERVICE_HOST", "X".repeat(57))
}

/// Returns the number of parts with variables, and the variables, with which a container of a pod would start now.
/// Asserts that all required parts exist.
fn environment_at_start(cluster: &WebhookCluster, pod: &Value) -> (usize, BTreeSet<String>) {
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

/// Returns the first ConfigMap to which a pod refers.
fn base_of(cluster: &WebhookCluster, pod: &str) -> String {
    let pod = cluster.api.get("Pod", "default", pod).expect("the pod exists");
    let name = &pod["spec"]["containers"][0]["envFrom"][0]["configMapRef"]["name"];
    name.as_str().expect("a name").to_owned()
}

#[test]
fn changing_parts_never_lack_a_variable_of_their_pod() {
    let cluster = WebhookCluster::new(ApiServer::double());
    (0..SERVICES).for_each(|number| cluster.api.put(service_with_long_names(number)));
    let webhook = cluster.replica(&["--config-map-grace", "5"]);
    let request = with_annotations(pod("a"), &[("portico.dev/inject", "configmap")]);
    let mut caller = Caller::local(webhook.address).expect("connect");
    let made = apply_patch(&request, &caller.review(&review("u", &request)).expect("a response"));
    cluster.api.put(made.clone());
    let referred = made["spec"]["containers"][0]["envFrom"].as_array().expect("sources");
    let must = referred.iter().filter(|source| source["configMapRef"]["optional"] != true).count();
    wait_for_config_maps(&cluster, "default", must);
    let (before, names) = environment_at_start(&cluster, &made);
    assert!(before >= 2 && names.contains(&host(0)) && names.contains(&host(SERVICES - 1)), "{before} parts");

    // One service before all others, so that these move, and three quarters as many after them.
    let has_all = |names: &BTreeSet<String>, numbers: Range<u32>| {
        numbers.into_iter().all(|number| names.contains(&host(number)))
    };
    (SERVICES..SERVICES * 7 / 4).for_each(|number| cluster.api.put(service_with_long_names(number)));
    cluster.api.put(service("a-first", 99, 80));
    eventually("all variables exist", || {
        let (parts, names) = environment_at_start(&cluster, &made);
        assert!(has_all(&names, 0..SERVICES), "a variable is missing while it moves");
        (parts > before && has_all(&names, 0..SERVICES * 7 / 4) && names.contains("A_FIRST_PORT"))
            .then_some(())
    });

    cluster.api.delete("Service", "default", "a-first");
    (1..SERVICES * 7 / 4).for_each(|number| {
        let name = service_with_long_names(number)["metadata"]["name"].as_str().expect("a name").to_owned();
        cluster.api.delete("Service", "default", &name);
    });
    eventually("the others are removed", || {
        let (parts, names) = environment_at_start(&cluster, &made);
        assert!(has_all(&names, 0..1), "a variable is missing while it moves");
        (parts == 1 && !names.contains(&host(1))).then_some(())
    });
    // The ConfigMap of another pod is created and deleted meanwhile.
    let other = with_annotations(
        pod("b"),
        &[("portico.dev/inject", "configmap"), ("portico.dev/forms", "host-port")],
    );
    cluster.api.put(apply_patch(&other, &caller.review(&review("u", &other)).expect("a response")));
    eventually("the other pod has its ConfigMap", || {
        let name = base_of(&cluster, "b");
        cluster.api.get("ConfigMap", "default", &name).map(drop)
    });
    cluster.api.delete("Pod", "default", "b");
    let collected = || webhook.metric("config_map_operations_total{operation=\"collected\"}");
    eventually("it is deleted", || (collected() >= 1.0).then_some(()));
    assert_eq!(environment_at_start(&cluster, &made).0, 1);
    cluster.api.delete("Pod", "default", "a");
    eventually("all are deleted", || cluster.config_maps("default").is_empty().then_some(()));
}
