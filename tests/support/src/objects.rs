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

fn containers() -> Value {
    json!([{"name": "agent", "image": "agent"}])
}

/// kube-proxy's DaemonSet, as kubeadm creates it.
pub fn proxy_daemon_set() -> Value {
    let labels = json!({"k8s-app": "kube-proxy"});
    let template = json!({"metadata": {"labels": labels},
        "spec": {"containers": containers(), "nodeSelector": {"kubernetes.io/os": "linux"}}});
    json!({"kind": "DaemonSet", "metadata": {"name": "kube-proxy", "namespace": "kube-system"},
        "spec": {"selector": {"matchLabels": labels}, "template": template}})
}

/// The pod of kube-proxy's DaemonSet on a node, which is ready.
pub fn proxy_pod(node: &str) -> Value {
    let owner = json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "kube-proxy", "uid": "1"});
    let name = format!("kube-proxy-{node}");
    ready_pod(node, json!({"name": name, "namespace": "kube-system", "ownerReferences": [owner]}))
}

/// The pod of the agent on a node, which is ready.
pub fn agent_pod(node: &str) -> Value {
    let labels = json!({"app.kubernetes.io/component": "agent"});
    let name = format!("agent-{node}");
    ready_pod(node, json!({"name": name, "namespace": "portico-system", "labels": labels}))
}

fn ready_pod(node: &str, metadata: Value) -> Value {
    json!({"kind": "Pod", "metadata": metadata, "spec": {"nodeName": node, "containers": containers()},
        "status": {"conditions": [{"type": "Ready", "status": "True"}]}})
}

/// Whether the DaemonSet has a pod on the node, by its affinity to the label of the node.
pub fn has_proxy_pod(daemon_set: &Value, node: &Value) -> bool {
    let avoids = daemon_set["spec"]["template"]["spec"]["affinity"].to_string().contains("NotIn");
    !(avoids && node["metadata"]["labels"]["portico.dev/service-proxy"] == "portico")
}
