//! Events on services that ask for more portals than any node programs.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use test_support::apiserver::ApiServer;
use test_support::eventually::eventually;
use test_support::webhook::{Webhook, free_port};
use test_support::webhook_cluster::{WebhookCluster, service};

/// A service with this many ports.
fn service_with_ports(namespace: &str, name: &str, ports: u16) -> Value {
    let mut service = service(name, 12, 80);
    service["metadata"]["namespace"] = namespace.into();
    service["metadata"]["uid"] = format!("uid-of-{name}").into();
    service["spec"]["ports"] = (1..=ports)
        .map(|port| json!({"name": format!("p{port}"), "port": port, "protocol": "TCP"}))
        .collect();
    service
}

/// The Events on services of a namespace.
fn events(cluster: &WebhookCluster, namespace: &str) -> Vec<Value> {
    let path = format!("/api/v1/namespaces/{namespace}/events");
    let list = cluster.api.send("GET", &path, "application/json", &Value::Null).object;
    let events = list["items"].as_array().cloned().unwrap_or_default();
    events.into_iter().filter(|event| event["reason"] == "PortalsRefused").collect()
}

fn count(webhook: &Webhook, what: &str) -> f64 {
    webhook.metric(&format!("events_total{{result=\"{what}\"}}"))
}

#[test]
fn service_beyond_a_limit_gets_one_event_of_two_replicas_and_others_get_none() {
    let cluster = WebhookCluster::new(ApiServer::double());
    cluster.api.put(service_with_ports("default", "before", 1_025));
    let _first = cluster.replica(&[]);
    let _second = cluster.replica_at(free_port(), &[]);
    cluster.api.put(service_with_ports("team", "large", 1_100));
    cluster.api.put(service_with_ports("team", "allowed", 1_024));
    let mut external = service_with_ports("team", "external", 1);
    external["spec"]["externalIPs"] = json!(["192.0.2.1"]);
    cluster.api.put(external);
    let events_of_team = eventually("both services have an Event", || {
        let events = events(&cluster, "team");
        (events.len() >= 2).then_some(events)
    });
    let event_of = |name: &str| {
        let event = events_of_team.iter().find(|event| event["involvedObject"]["name"] == name);
        event.unwrap_or_else(|| panic!("no Event on {name}: {events_of_team:?}"))
    };
    let event = event_of("large");
    assert_eq!(
        event["message"],
        "76 portals refused: the service exceeds the limit of portals (--service-portals-max)"
    );
    assert_eq!((&event["involvedObject"]["kind"], &event["type"]), (&"Service".into(), &"Warning".into()));
    assert_eq!(event["involvedObject"]["uid"], "uid-of-large");
    let message = event_of("external")["message"].as_str().expect("a message");
    assert!(
        message.starts_with("1 portal refused: external addresses of this kind are not allowed"),
        "{message}"
    );
    // The service that exceeded a limit before the start has one, too.
    eventually("the earlier service has an Event", || (events(&cluster, "default").len() == 1).then_some(()));
    // Two replicas check after each change; another change causes no further Event.
    cluster.api.put(service_with_ports("team", "allowed", 1_023));
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(events(&cluster, "team").len(), 2);
}

#[test]
fn limits_of_the_agents_are_flags() {
    let cluster = WebhookCluster::new(ApiServer::double());
    let flags = ["--service-portals-max", "5", "--namespace-elements-max", "8"];
    let external = ["--external-addresses", "all", "--external-cidrs", "192.0.2.0/25"];
    let _webhook = cluster.replica(&[&flags[..], &external].concat());
    cluster.api.put(service_with_ports("default", "large", 7));
    let mut old = service_with_ports("team", "old", 5);
    old["metadata"]["creationTimestamp"] = "2026-01-01T00:00:00Z".into();
    old["spec"]["externalIPs"] = json!(["192.0.2.200"]);
    let mut young = service_with_ports("team", "young", 2);
    young["metadata"]["creationTimestamp"] = "2026-01-02T00:00:00Z".into();
    young["spec"]["clusterIP"] = "10.0.0.13".into();
    cluster.api.put(old);
    cluster.api.put(young);
    let messages = eventually("three services have an Event", || {
        let events = [events(&cluster, "default"), events(&cluster, "team")].concat();
        let message = |event: &Value| event["message"].as_str().unwrap_or_default().to_owned();
        (events.len() == 3).then(|| events.iter().map(message).collect::<Vec<_>>())
    });
    for start in [
        "2 portals refused: the service exceeds",
        "5 portals refused: the address is not in an allowed CIDR",
        "1 portal refused: the namespace",
    ] {
        assert!(messages.iter().any(|message| message.starts_with(start)), "{start}: {messages:#?}");
    }
}

#[test]
fn thousand_violating_services_cause_a_bounded_number_of_events_and_lookups() {
    let cluster = WebhookCluster::new(ApiServer::double());
    let webhook = cluster.replica(&["--service-portals-max", "1"]);
    cluster.api.requests();
    for number in 0..1_000 {
        cluster.api.put(service_with_ports("team", &format!("large-{number}"), 2));
    }
    let start = Instant::now();
    eventually("the burst of the namespace is written", || {
        (events(&cluster, "team").len() >= 20).then_some(())
    });
    // Another namespace gets its Event meanwhile.
    cluster.api.put(service_with_ports("default", "other", 2));
    eventually("the other namespace has its Event", || {
        (!events(&cluster, "default").is_empty()).then_some(())
    });
    std::thread::sleep(Duration::from_secs(3));
    // One more every 30 s.
    let max = 20 + start.elapsed().as_secs() / 30 + 1;
    let written = events(&cluster, "team").len() as u64;
    assert!(written <= max, "{written} Events, at most {max}");
    assert_eq!(count(&webhook, "failed"), 0.0);
    let requests = cluster.api.requests();
    let lookups = requests.iter().filter(|request| request.contains("/namespaces/team/services?"));
    assert!(lookups.count() as u64 <= max, "{requests:?}");
}
