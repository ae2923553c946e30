//! Events on services that claim an address and port of an older service.

use serde_json::{Value, json};
use test_support::apiserver::ApiServer;
use test_support::eventually::eventually;
use test_support::webhook::free_port;
use test_support::webhook_cluster::{WebhookCluster, service};

/// A service with a load-balancer address and one port, created on a day of January.
fn load_balancer_service(namespace: &str, name: &str, day: u8, address: &str, port: u16) -> Value {
    let mut service = service(name, 20 + day, port);
    service["metadata"]["namespace"] = namespace.into();
    service["metadata"]["uid"] = format!("uid-of-{name}").into();
    service["metadata"]["creationTimestamp"] = format!("2026-01-{day:02}T00:00:00Z").into();
    service["spec"]["type"] = "LoadBalancer".into();
    service["status"]["loadBalancer"]["ingress"] = json!([{"ip": address}]);
    service
}

/// The messages of the Events `PortalConflict` on a service.
fn messages(cluster: &WebhookCluster, namespace: &str, name: &str) -> Vec<String> {
    let of = |event: &Value| event["involvedObject"]["name"] == name;
    let message = |event: Value| event["message"].as_str().unwrap_or_default().to_owned();
    events(cluster, namespace).into_iter().filter(of).map(message).collect()
}

fn events(cluster: &WebhookCluster, namespace: &str) -> Vec<Value> {
    let path = format!("/api/v1/namespaces/{namespace}/events");
    let list = cluster.api.send("GET", &path, "application/json", &Value::Null).object;
    let events = list["items"].as_array().cloned().unwrap_or_default();
    events.into_iter().filter(|event| event["reason"] == "PortalConflict").collect()
}

/// Creates another conflict and waits for its Event: everything before is part of a check then.
fn barrier(cluster: &WebhookCluster, name: &str) {
    cluster.api.put(load_balancer_service("default", name, 9, "192.0.2.9", 90));
    eventually("the barrier has an Event", || (!messages(cluster, "default", name).is_empty()).then_some(()));
}

#[test]
fn younger_service_gets_one_event_of_two_replicas_and_the_older_one_gets_none() {
    let cluster = WebhookCluster::new(ApiServer::double());
    cluster.api.put(load_balancer_service("default", "first", 1, "192.0.2.9", 90));
    let _first = cluster.replica(&[]);
    let _second = cluster.replica_at(free_port(), &[]);
    cluster.api.put(load_balancer_service("team", "young", 3, "192.0.2.1", 80));
    cluster.api.put(load_balancer_service("default", "old", 2, "192.0.2.1", 80));
    let mut reports = 0;
    eventually("both replicas have tried to write the Event", || {
        // The API server refuses the second one, which has the same name. The test itself lists no Events yet.
        let requests = cluster.api.requests();
        reports += requests.iter().filter(|request| request.ends_with("/namespaces/team/events")).count();
        (reports == 2).then_some(())
    });
    barrier(&cluster, "barrier");
    let events = events(&cluster, "team");
    assert_eq!(events.len(), 1, "{events:#?}");
    let (event, object) = (&events[0], &events[0]["involvedObject"]);
    assert_eq!(
        event["message"],
        "192.0.2.1/TCP/80 conflicts with service default/old, which takes precedence"
    );
    assert_eq!((&object["name"], &object["uid"]), (&"young".into(), &"uid-of-young".into()));
    assert_eq!(event["type"], "Warning");
    assert_eq!(messages(&cluster, "default", "old"), [""; 0]);
}

#[test]
fn conflict_that_begins_again_has_another_event() {
    let cluster = WebhookCluster::new(ApiServer::double());
    cluster.api.put(load_balancer_service("default", "first", 1, "192.0.2.9", 90));
    let _webhook = cluster.replica(&[]);
    cluster.api.put(load_balancer_service("default", "old", 2, "192.0.2.1", 80));
    cluster.api.put(load_balancer_service("team", "young", 3, "192.0.2.1", 80));
    let young = || messages(&cluster, "team", "young");
    eventually("the younger service has an Event", || (young().len() == 1).then_some(()));
    cluster.api.put(load_balancer_service("default", "old", 2, "192.0.2.2", 80));
    barrier(&cluster, "barrier");
    assert_eq!(young().len(), 1);
    cluster.api.put(load_balancer_service("default", "old", 2, "192.0.2.1", 80));
    let messages =
        eventually("the younger service has another Event", || Some(young()).filter(|all| all.len() > 1));
    assert_eq!(messages.len(), 2);
    assert_eq!(messages[0], messages[1]);
}

#[test]
fn node_ports_and_health_check_node_ports_have_events() {
    let cluster = WebhookCluster::new(ApiServer::double());
    let _webhook = cluster.replica(&[]);
    for (namespace, name, day) in [("default", "old", 1), ("team", "young", 2)] {
        let address = format!("192.0.2.{day}");
        let mut node_port = load_balancer_service(namespace, name, day, &address, 80);
        node_port["spec"]["ports"][0]["nodePort"] = 30_080.into();
        cluster.api.put(node_port);
        let address = format!("192.0.2.1{day}");
        let mut check = load_balancer_service(namespace, &format!("{name}-check"), 2 + day, &address, 80);
        check["spec"]["externalTrafficPolicy"] = "Local".into();
        check["spec"]["healthCheckNodePort"] = 31_000.into();
        cluster.api.put(check);
    }
    for (name, text) in [
        ("young", "node port TCP/30080 conflicts with service default/old, which takes precedence"),
        (
            "young-check",
            "health-check node port 31000 conflicts with service default/old-check, which takes precedence",
        ),
    ] {
        let messages = eventually("the service has an Event", || {
            Some(messages(&cluster, "team", name)).filter(|all| !all.is_empty())
        });
        assert_eq!(messages, [text]);
    }
}

#[test]
fn thousand_conflicts_in_a_namespace_cause_a_bounded_number_of_events() {
    let cluster = WebhookCluster::new(ApiServer::double());
    let webhook = cluster.replica(&[]);
    let start = std::time::Instant::now();
    cluster.api.put(load_balancer_service("default", "first", 1, "192.0.2.9", 90));
    for number in 0..1_000 {
        cluster.api.put(load_balancer_service("team", &format!("young-{number}"), 3, "192.0.2.9", 90));
    }
    // Another namespace gets its Event meanwhile.
    barrier(&cluster, "barrier");
    // Each check reports some of the services only, so the burst is not necessarily used up.
    eventually("the namespace has Events", || {
        Some(events(&cluster, "team").len()).filter(|count| *count >= 10)
    });
    // The burst, and one more every 30 s.
    let max = 20 + start.elapsed().as_secs() / 30 + 1;
    let written = events(&cluster, "team").len() as u64;
    assert!(written <= max, "{written} Events, at most {max}");
    assert_eq!(webhook.metric("events_total{result=\"failed\"}"), 0.0);
}
