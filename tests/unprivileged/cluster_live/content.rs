//! Malformed content from an API server: the last valid state is kept, and each error is reported once.

use serde_json::{Value, json};

use super::observed_cluster::ObservedCluster;
use test_support::apiserver::{ApiServer, Fault};
use test_support::objects::service;

fn start_watch() -> (ApiServer, ObservedCluster) {
    let api = ApiServer::double();
    api.put(service("a", 1, 80));
    api.put(service("b", 2, 80));
    let mut cluster = ObservedCluster::synced(&api);
    // The services are watched once this change arrives.
    api.put(service("b", 2, 81));
    cluster.until(|cluster| cluster.port("b") == Some(81));
    (api, cluster)
}

/// A line for the watches of services.
fn line(value: &Value) -> Fault {
    Fault::Line("services", value.to_string().into_bytes())
}

fn with_version(mut object: Value, version: &str) -> Value {
    object["metadata"]["resourceVersion"] = version.into();
    object
}

#[test]
fn malformed_watch_events_leave_the_state_of_the_server() {
    let deep = format!("{{\"type\":\"ADDED\",\"object\":{}{}}}", "[".repeat(5000), "]".repeat(5000));
    let long = format!("{{\"type\":\"ADDED\",\"object\":\"{}\"}}", "x".repeat(5 << 20));
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("not JSON", b"garbage".to_vec()),
        ("truncated", b"{\"type\":\"ADDED\",\"object\":{\"meta".to_vec()),
        ("not UTF-8", b"{\"type\":\"\xff\"}".to_vec()),
        ("NUL", vec![0; 100]),
        ("another value", b"[1, 2]".to_vec()),
        ("no type", b"{\"object\":{}}".to_vec()),
        ("no object", b"{\"type\":\"ADDED\"}".to_vec()),
        ("unknown type", b"{\"type\":\"EXPLODED\",\"object\":{}}".to_vec()),
        ("error", b"{\"type\":\"ERROR\",\"object\":{\"code\":500,\"message\":\"etcd is down\"}}".to_vec()),
        ("malformed error", b"{\"type\":\"ERROR\",\"object\":{\"code\":\"x\"}}".to_vec()),
        ("error without object", b"{\"type\":\"ERROR\",\"object\":null}".to_vec()),
        (
            "older",
            json!({"type": "DELETED", "object": with_version(service("a", 1, 80), "1")}).to_string().into(),
        ),
        ("deep", deep.into_bytes()),
        ("long", long.into_bytes()),
    ];
    for (what, text) in cases {
        let (api, mut cluster) = start_watch();
        api.fault(Fault::Line("services", text));
        // Wait until the line was received, since the change below could end the watch first.
        cluster.until(|cluster| !cluster.outages.is_empty());
        api.put(service("a", 1, 81));
        cluster.until(|cluster| cluster.port("a") == Some(81) && cluster.recoveries > 0);
        // The watches of both selections of services got the line.
        assert!(cluster.outages.len() <= 2, "{what}: {:?}", cluster.outages);
        assert!(
            cluster.outages[0].starts_with("failed to watch services: "),
            "{what}: {:?}",
            cluster.outages
        );
        assert_eq!(cluster.removed, [""; 0], "{what}");
        assert!(cluster.outages.iter().all(|text| text.len() < 500), "{what}");
    }
}

#[test]
fn invalid_object_keeps_its_last_valid_state() {
    let (api, mut cluster) = start_watch();
    let broken = |spec: Value| {
        let mut object = service("a", 1, 80);
        object["spec"] = spec;
        object
    };
    for spec in [json!("text"), json!({"clusterIP": 5}), json!({"ports": [{"port": "http"}]})] {
        api.put(broken(spec));
        api.put(service("b", 2, 90));
        api.put(service("b", 2, 91));
        cluster.until(|cluster| cluster.port("b") == Some(91));
    }
    let reasons = &cluster.reasons;
    assert!(matches!(&reasons[..], [text] if text.starts_with("Service default/a: ")), "{reasons:?}");
    assert_eq!((cluster.port("a"), cluster.rejected), (Some(80), 1));
    // A new list does not remove the object either.
    api.fault(Fault::Expire);
    api.put(service("c", 3, 80));
    cluster.until(|cluster| cluster.port("c").is_some());
    assert_eq!(cluster.port("a"), Some(80));
    api.put(service("a", 1, 82));
    cluster.until(|cluster| cluster.port("a") == Some(82) && cluster.rejected == 0);
    assert_eq!((cluster.reasons.len(), cluster.outages.len()), (1, 0), "a rejected object is not an outage");
    assert_eq!(cluster.removed, [""; 0]);
}

#[test]
fn object_without_a_name_is_reported_and_affects_no_other() {
    let (api, mut cluster) = start_watch();
    api.fault(line(&json!({"type": "ADDED", "object": {"metadata": {"resourceVersion": "99"}, "spec": {}}})));
    api.fault(line(&json!({"type": "DELETED", "object": {"metadata": {}}})));
    cluster.until(|cluster| cluster.rejected == 1);
    assert_eq!(cluster.reasons, ["Service without a name"]);
    for port in 81..181 {
        api.put(service("a", 1, port));
    }
    cluster.until(|cluster| cluster.port("a") == Some(180));
    assert_eq!(cluster.removed, [""; 0]);
}

#[test]
fn huge_object_is_read_or_rejected_and_affects_no_other() {
    let (api, mut cluster) = start_watch();
    let mut huge = service("huge", 3, 80);
    huge["metadata"]["annotations"] = json!({"note": "x".repeat(3 << 20)});
    api.put(huge.clone());
    cluster.until(|cluster| cluster.port("huge") == Some(80));
    huge["spec"]["ports"] =
        (1..=5000).map(|port| json!({"name": format!("p{port}"), "port": port, "protocol": "TCP"})).collect();
    api.put(huge);
    cluster.until(|cluster| cluster.rejected == 1);
    assert!(cluster.reasons[0].starts_with("Service default/huge: "), "{:?}", cluster.reasons);
    api.put(service("a", 1, 81));
    cluster.until(|cluster| cluster.port("a") == Some(81));
    assert_eq!(cluster.port("huge"), Some(80));
}

#[test]
fn malformed_list_removes_nothing() {
    let lists = [
        "",
        "garbage",
        "{}",
        "[]",
        "null",
        r#"{"kind":"ServiceList","apiVersion":"v1","items":[]}"#,
        r#"{"kind":"ServiceList","apiVersion":"v1","metadata":{"resourceVersion":"1"},"items":[{"metadata":{"#,
        r#"{"kind":"Status","metadata":{},"code":200,"items":[]}"#,
    ];
    for text in lists {
        let (api, mut cluster) = start_watch();
        api.fault(Fault::GarbageList("services", text));
        api.fault(Fault::Expire);
        cluster.until(|cluster| !cluster.outages.is_empty());
        assert!(cluster.outages[0].starts_with("failed to list services: "), "{text}: {:?}", cluster.outages);
        api.put(service("a", 1, 81));
        api.fault(Fault::Cleared);
        cluster.until(|cluster| cluster.port("a") == Some(81) && cluster.recoveries == 1);
        assert_eq!(cluster.removed, [""; 0], "{text}");
        assert!(cluster.outages.len() <= 2, "{text}: {:?}", cluster.outages);
    }
}
