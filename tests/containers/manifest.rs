//! Manifests that the agent watches: services, their endpoints, and the nodes of zones.

use std::fs;
use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::backend::{Backend, TCP_PORT, UDP_PORT};
use crate::node::HOME;

pub(crate) const SERVICE_RANGES: [&str; 2] = ["10.96.0.0/16", "fd96::/112"];
/// The portals of the service `web`.
pub(crate) const WEB: &str = "10.96.0.80";
pub(crate) const WEB6: &str = "fd96::80";
/// The portal of a service whose only endpoint is the client pod.
pub(crate) const ITSELF: &str = "10.96.0.81";
pub(crate) const ITSELF6: &str = "fd96::81";

/// A portal.
pub(crate) fn portal(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse().expect("an address"), port)
}

/// Sets the backends of `web`.
pub(crate) fn set_backends(backends: &[Backend]) {
    let endpoint = |address: &str, name: &str| {
        let zone = format!("zone-{name}");
        json!({"addresses": [address], "zone": zone, "hints": {"forZones": [{"name": zone}]}})
    };
    let v4 = backends.iter().map(|backend| endpoint(backend.address, backend.name)).collect();
    let v6 = backends.iter().map(|backend| endpoint(backend.address6, backend.name)).collect();
    write("web", vec![service("web", WEB, WEB6), slice("web", "IPv4", v4), slice("web", "IPv6", v6)]);
}

/// Adds a service whose only endpoint is the pod with these addresses.
pub(crate) fn set_own_service(address: &str, address6: &str) {
    let endpoint = |address: &str| vec![json!({"addresses": [address]})];
    let slices = [slice("itself", "IPv4", endpoint(address)), slice("itself", "IPv6", endpoint(address6))];
    write("itself", [vec![service("itself", ITSELF, ITSELF6)], slices.to_vec()].concat());
}

/// Adds two nodes in different zones.
pub(crate) fn set_zones() {
    let node = |name: &str| {
        let labels = json!({"topology.kubernetes.io/zone": format!("zone-{name}")});
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": format!("node-{name}"), "labels": labels}})
    };
    write("nodes", vec![node("a"), node("b")]);
}

/// Writes the manifest `name` with these objects, and replaces an earlier one.
pub(crate) fn write(name: &str, items: Vec<Value>) {
    let text = json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string();
    let path = format!("{HOME}/manifests/{name}.json");
    fs::write(format!("{HOME}/{name}.new"), text).expect("write a manifest");
    fs::rename(format!("{HOME}/{name}.new"), path).expect("rename a manifest");
}

fn service(name: &str, address: &str, address6: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "clusterIP": address, "clusterIPs": [address, address6],
            "ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": "RequireDualStack",
            "trafficDistribution": "PreferSameZone",
            "ports": [
                {"name": "http", "port": 80, "targetPort": TCP_PORT, "protocol": "TCP"},
                {"name": "dns", "port": 53, "targetPort": UDP_PORT, "protocol": "UDP"},
            ],
        },
    })
}

fn slice(name: &str, family: &str, endpoints: Vec<Value>) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": family,
        "metadata": {
            "name": format!("{name}-{}", family.to_lowercase()), "namespace": "default",
            "labels": {"kubernetes.io/service-name": name},
        },
        "ports": [
            {"name": "http", "port": TCP_PORT, "protocol": "TCP"},
            {"name": "dns", "port": UDP_PORT, "protocol": "UDP"},
        ],
        "endpoints": endpoints,
    })
}
