//! Services of a cluster and their endpoints, as an API server sends them.

use serde_json::{Value, json};

pub(crate) fn service(index: usize) -> Value {
    json!({"kind": "Service", "metadata": {"name": format!("s{index}"), "namespace": format!("n{}", index % 100)},
        "spec": {"clusterIP": format!("10.96.{}.{}", index / 250, index % 250 + 1),
            "ports": [{"name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP"}]}})
}

/// The endpoints of a service. Each version has another last endpoint.
pub(crate) fn slice(index: usize, version: usize) -> Value {
    let address = |number: usize| format!("10.{}.{}.{}", 128 + number, index / 250, index % 250 + 1);
    let last = if version == 0 { 3 } else { 4 + version % 49 };
    let endpoints =
        [0, 1, last].map(|number| json!({"addresses": [address(number)], "conditions": {"ready": true}}));
    let labels = json!({"kubernetes.io/service-name": format!("s{index}")});
    json!({"kind": "EndpointSlice", "addressType": "IPv4", "endpoints": endpoints,
        "metadata": {"name": format!("s{index}-a"), "namespace": format!("n{}", index % 100), "labels": labels},
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}]})
}
