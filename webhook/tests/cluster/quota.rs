//! The quota of managed ConfigMaps of a namespace; a namespace at its quota does not delay others.

use serde_json::{Value, json};

use crate::double::{create_admitted_pod, review_pod, wait_for_config_maps};
use test_support::apiserver::{ApiServer, Fault};
use test_support::eventually::eventually;
use test_support::review::{pod, with_annotations};
use test_support::webhook::Webhook;
use test_support::webhook_cluster::WebhookCluster;

/// Creates pods with different selections.
fn create_pods(
    cluster: &WebhookCluster,
    webhook: &Webhook,
    namespace: &str,
    numbers: std::ops::Range<usize>,
) {
    for number in numbers {
        let prefix = format!("P{number}_");
        let annotations = [("portico.dev/inject", "configmap"), ("portico.dev/prefix", prefix.as_str())];
        let mut pod = with_annotations(pod(&format!("{namespace}-{number}")), &annotations);
        pod["metadata"]["ownerReferences"] = json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web",
            "uid": "r-1", "controller": true}]);
        // The request of a pod does not depend on its namespace.
        let mut pod = review_pod(webhook, &pod);
        pod["metadata"]["namespace"] = namespace.into();
        cluster.api.put(pod);
    }
}

fn events(cluster: &WebhookCluster, namespace: &str) -> Vec<Value> {
    let path = format!("/api/v1/namespaces/{namespace}/events");
    let list = cluster.api.send("GET", &path, "application/json", &Value::Null).object;
    list["items"].as_array().cloned().unwrap_or_default()
}

#[test]
fn namespace_over_its_quota_is_refused_by_name_and_others_are_served() {
    let cluster = WebhookCluster::new(ApiServer::double());
    let webhook = cluster.replica(&["--config-maps-max", "5", "--config-map-grace", "1"]);
    create_pods(&cluster, &webhook, "default", 0..12);
    wait_for_config_maps(&cluster, "default", 5);
    webhook.wait_until("seven are refused", |webhook| {
        webhook.metric("config_maps_refused_total{reason=\"count\"}") >= 7.0
    });
    let event = eventually("the refusal is reported", || {
        let events = events(&cluster, "default");
        events.iter().find(|event| event["reason"] == "ServiceVariablesRefused").cloned()
    });
    assert_eq!(event["involvedObject"]["kind"], "ReplicaSet");
    assert!(
        event["message"].as_str().is_some_and(|text| text.contains("more than 5 managed ConfigMaps")),
        "{event}"
    );
    // Once, for any number of refusals.
    assert_eq!(webhook.log().matches("ConfigMap refused").count(), 1);
    let mut other = cluster.api.get("Pod", "default", "default-0").expect("it is there");
    other["metadata"]["namespace"] = "other".into();
    cluster.api.put(other);
    wait_for_config_maps(&cluster, "other", 1);
    assert_eq!(cluster.config_maps("default").len(), 5);
    // Once there is room, the refused ones are created.
    (0..8).for_each(|number| cluster.api.delete("Pod", "default", &format!("default-{number}")));
    eventually("the remaining pods have their ConfigMaps", || {
        let wanted = (8..12).map(|number| {
            let pod = cluster.api.get("Pod", "default", &format!("default-{number}")).expect("it is there");
            pod["spec"]["containers"][0]["envFrom"][0]["configMapRef"]["name"].clone()
        });
        let maps = cluster.config_maps("default");
        let names: Vec<&Value> = maps.iter().map(|map| &map["metadata"]["name"]).collect();
        (names.len() == 4 && wanted.into_iter().all(|name| names.contains(&&name))).then_some(())
    });
}

#[test]
fn bytes_of_a_namespace_are_limited_and_existing_config_maps_stay() {
    let cluster = WebhookCluster::new(ApiServer::double());
    // The seven variables of one service are some 200 bytes.
    let webhook = cluster.replica(&["--config-map-bytes-max", "500"]);
    create_pods(&cluster, &webhook, "default", 0..4);
    let maps = wait_for_config_maps(&cluster, "default", 2);
    webhook.wait_until("two are refused", |webhook| {
        webhook.metric("config_maps_refused_total{reason=\"bytes\"}") >= 2.0
    });
    assert!(maps.iter().all(|map| map["data"].as_object().is_some_and(|data| data.len() == 7)));
}

#[test]
fn namespace_with_hanging_writes_does_not_delay_others() {
    let cluster = WebhookCluster::new(ApiServer::double());
    let webhook = cluster.replica(&[]);
    cluster.api.fault(Fault::HangIn("slow"));
    create_pods(&cluster, &webhook, "slow", 0..40);
    create_admitted_pod(&cluster, &webhook, "a", &[("portico.dev/inject", "configmap")]);
    let start = std::time::Instant::now();
    wait_for_config_maps(&cluster, "default", 1);
    // A request times out after ten seconds; another namespace does not wait for that.
    assert!(start.elapsed().as_secs() < 5, "{:?}", start.elapsed());
    assert_eq!(cluster.config_maps("slow").len(), 0);
    cluster.api.fault(Fault::Cleared);
    wait_for_config_maps(&cluster, "slow", 40);
}

#[test]
fn forged_record_gets_only_variables_of_its_own_namespace() {
    let cluster = WebhookCluster::new(ApiServer::double());
    let mut secret = test_support::webhook_cluster::service("secret", 66, 80);
    secret["metadata"]["namespace"] = "other".into();
    cluster.api.put(secret);
    let webhook = cluster.replica(&[]);
    let text = r#"{"services":[{"alias":"x","service":{"namespace":"other","name":"secret"}},{"service":{"namespace":"default","name":"redis"}}],"forms":"all"}"#;
    let marked = |name: &str, text: &str, parts: &str| {
        let mut pod =
            with_annotations(pod(name), &[("portico.dev/selection", text), ("portico.dev/parts", parts)]);
        pod["metadata"]["labels"] = json!({"portico.dev/variables": "configmap"});
        cluster.api.put(pod);
    };
    marked("a", text, "1");
    let maps = wait_for_config_maps(&cluster, "default", 1);
    let data = maps[0]["data"].as_object().expect("data");
    assert!(data.contains_key("REDIS_PORT") && !maps[0].to_string().contains("10.0.0.66"), "{data:?}");
    let long = "x".repeat(200 << 10);
    for (number, (text, parts)) in
        [("{", "1"), ("{}", "1000000"), (long.as_str(), "1"), ("{\"prefix\":\"../\"}", "1")]
            .iter()
            .enumerate()
    {
        marked(&format!("bad-{number}"), text, parts);
    }
    webhook.wait_until("they are refused", |webhook| {
        webhook.metric("config_maps_refused_total{reason=\"record\"}") >= 3.0
    });
    create_admitted_pod(&cluster, &webhook, "good", &[("portico.dev/inject", "configmap")]);
    wait_for_config_maps(&cluster, "default", 2);
}
