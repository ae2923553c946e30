//! Services of a cluster and their endpoints, as an API server sends them.

use proxy_core::sample::{cluster_ip, cluster_slice, svc};
use proxy_core::snapshot::{Change, Snapshot};
use serde_json::{Value, json};

/// The node of benchmarks of node portals, and its address.
pub(crate) const NODE: &str = "n1";
pub(crate) const NODE_ADDRESS: &str = "10.240.0.5";
/// The node port of the first service; the range of node ports must be widened for many services.
const FIRST_NODE_PORT: u16 = 10_000;

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

/// The node.
pub(crate) fn node() -> Value {
    json!({"kind": "Node", "metadata": {"name": NODE},
        "status": {"addresses": [{"type": "InternalIP", "address": NODE_ADDRESS}]}})
}

/// The node port of a service.
pub(crate) fn node_port(index: usize) -> u16 {
    FIRST_NODE_PORT + u16::try_from(index).expect("the range has fewer ports")
}

/// The cluster IP of a service with a node port, in the service range of the test servers.
pub(crate) fn node_port_cluster_ip(index: usize) -> String {
    format!("10.0.{}.{}", index / 250 + 1, index % 250 + 1)
}

/// A service of type `NodePort`. `slice` has its endpoints.
pub(crate) fn node_port_service(index: usize) -> Value {
    let mut service = service(index);
    service["spec"]["type"] = json!("NodePort");
    service["spec"]["clusterIP"] = json!(node_port_cluster_ip(index));
    service["spec"]["ports"][0]["nodePort"] = json!(node_port(index));
    service
}

/// The same services with their endpoints, as values of the core.
pub(crate) fn node_port_snapshot(services: u32, endpoints: u32) -> Snapshot {
    let changes = (0..services).flat_map(|index| {
        let service = svc(&format!("svc-{index}")).ip(&cluster_ip(index).to_string()).tcp("http", 80);
        let node_port = node_port(usize::try_from(index).expect("a small number"));
        [Change::Service(service.node_port(node_port)), cluster_slice(index, endpoints, 0).into()]
    });
    changes.collect()
}
