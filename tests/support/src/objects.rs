//! Kubernetes objects as users and controllers create them.

use serde_json::{Value, json};

pub const OTHER_PROXY: &str = "service.kubernetes.io/service-proxy-name";
pub const HEADLESS: &str = "service.kubernetes.io/headless";

/// A service with the address 10.0.x.y, for a number below 65,000, and one port.
pub fn service(name: &str, number: u16, port: u16) -> Value {
    let [high, low] = (number + 256).to_be_bytes();
    json!({"kind": "Service", "metadata": {"name": name, "namespace": "default"}, "spec": {
        "clusterIP": format!("10.0.{high}.{low}"), "ports": [{"name": "main", "port": port, "protocol": "TCP"}]}})
}

/// Adds a label to a service.
pub fn with_label(mut service: Value, label: &str) -> Value {
    service["metadata"]["labels"] = json!({label: "x"});
    service
}

/// The endpoints of a service.
pub fn slice(name: &str, service: &str, addresses: &[&str]) -> Value {
    let endpoints: Vec<Value> = addresses.iter().map(|address| json!({"addresses": [address]})).collect();
    let labels = json!({"kubernetes.io/service-name": service});
    json!({"kind": "EndpointSlice", "metadata": {"name": name, "namespace": "default", "labels": labels},
        "addressType": "IPv4", "endpoints": endpoints, "ports": [{"name": "main", "port": 8080, "protocol": "TCP"}]})
}

pub fn node(name: &str, zone: &str) -> Value {
    json!({"kind": "Node", "metadata": {"name": name, "labels": {"topology.kubernetes.io/zone": zone}},
        "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.7"}]}})
}

pub fn service_cidr(name: &str, cidr: &str) -> Value {
    json!({"kind": "ServiceCIDR", "metadata": {"name": name}, "spec": {"cidrs": [cidr]}})
}
