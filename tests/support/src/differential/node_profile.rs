//! `NodeProfile`: a node and the settings of its proxy, for kube-proxy and for Portico.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;

use proxy_core::guest::InterfacePattern;
use proxy_core::ruleset::node::{NodeEnvironment, NodeSettings, PodDetection};
use proxy_core::sample::ip;
use serde_json::{Value, json};

use crate::node_places::{CLIENT_GATEWAY, GATEWAY, NODE, NODE_ON_LINK, NODE_OUTSIDE};

/// The name of the node, and of the other one.
pub const NODE_NAME: &str = "n1";
pub const OTHER_NODE_NAME: &str = "n2";
/// The service ranges.
pub const SERVICE_RANGES: [&str; 2] = ["10.96.0.0/16", "2001:db8:96::/64"];
/// The addresses of the pods of all nodes.
const CLUSTER_CIDRS: [&str; 2] = ["10.1.0.0/16", "2001:db8:10::/60"];

/// How pods are detected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DetectsPods {
    /// By these CIDRs; none: not at all.
    ClusterCidrs(&'static [&'static str]),
    /// By the CIDRs in the node object.
    NodeCidrs,
    /// By this interface.
    Bridge(&'static str),
    /// By the prefix of the interface.
    Prefix(&'static str),
}

/// A node and the settings of its proxy.
#[derive(Debug, Clone, Copy)]
pub struct NodeProfile {
    pub name: &'static str,
    /// The label `topology.kubernetes.io/zone`; empty: the node has none.
    pub zone: &'static str,
    /// The addresses in the node object, with their types.
    pub addresses: &'static [(&'static str, &'static str)],
    /// The value of `--nodeport-addresses`.
    pub node_port_addresses: &'static [&'static str],
    pub detects_pods: DetectsPods,
    pub masquerade_all: bool,
    /// Whether the cluster has services of another proxy.
    pub has_foreign_services: bool,
}

const DEFAULT: NodeProfile = NodeProfile {
    name: "default",
    zone: "a",
    addresses: &[("InternalIP", NODE[0]), ("InternalIP", NODE[1]), ("Hostname", "n1")],
    node_port_addresses: &["primary"],
    detects_pods: DetectsPods::ClusterCidrs(&CLUSTER_CIDRS),
    masquerade_all: false,
    has_foreign_services: false,
};

/// The profiles. A snapshot uses the one with its number, modulo their number.
pub const PROFILES: [NodeProfile; 10] = [
    DEFAULT,
    NodeProfile { name: "masquerade-all", masquerade_all: true, ..DEFAULT },
    NodeProfile {
        name: "no-detection-no-zone",
        zone: "",
        detects_pods: DetectsPods::ClusterCidrs(&[]),
        ..DEFAULT
    },
    NodeProfile {
        name: "ipv4-cluster-cidr",
        detects_pods: DetectsPods::ClusterCidrs(&[CLUSTER_CIDRS[0]]),
        ..DEFAULT
    },
    NodeProfile { name: "all-addresses", node_port_addresses: &["0.0.0.0/0", "::/0"], ..DEFAULT },
    NodeProfile {
        name: "selected-addresses",
        node_port_addresses: &["198.51.100.0/24", "10.240.0.0/16", "2001:db8:51::/64"],
        has_foreign_services: true,
        ..DEFAULT
    },
    NodeProfile {
        name: "external-ipv6-address",
        zone: "b",
        addresses: &[
            ("ExternalIP", NODE[1]),
            ("ExternalIP", NODE_OUTSIDE[0]),
            ("InternalIP", NODE[0]),
            ("InternalIP", NODE_ON_LINK[0]),
        ],
        ..DEFAULT
    },
    NodeProfile { name: "node-cidr", detects_pods: DetectsPods::NodeCidrs, ..DEFAULT },
    NodeProfile {
        name: "bridge-interface",
        detects_pods: DetectsPods::Bridge("to-client"),
        has_foreign_services: true,
        ..DEFAULT
    },
    NodeProfile { name: "interface-prefix", zone: "c", detects_pods: DetectsPods::Prefix("to-l"), ..DEFAULT },
];

impl NodeProfile {
    /// Returns all addresses of the node's network namespace, except loopback ones.
    pub fn local_addresses() -> BTreeSet<IpAddr> {
        let all = [NODE, NODE_ON_LINK, GATEWAY, CLIENT_GATEWAY, NODE_OUTSIDE];
        all.into_iter().flatten().map(ip).collect()
    }

    /// Returns the objects of the node and of the cluster.
    pub fn objects(&self) -> Vec<Value> {
        let addresses: Vec<Value> =
            self.addresses.iter().map(|(kind, address)| json!({"type": kind, "address": address})).collect();
        let mut node = json!({"kind": "Node", "metadata": {"name": NODE_NAME, "labels": {}},
            "spec": {"podCIDR": "10.1.0.0/22", "podCIDRs": ["10.1.0.0/22", "2001:db8:10::/63"]},
            "status": {"addresses": addresses}});
        if !self.zone.is_empty() {
            node["metadata"]["labels"]["topology.kubernetes.io/zone"] = self.zone.into();
        }
        let ranges = json!({"kind": "ServiceCIDR", "metadata": {"name": "kubernetes"}, "spec": {"cidrs": SERVICE_RANGES},
            "status": {"conditions": [{"type": "Ready", "status": "True", "reason": "", "message": "",
                "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
        vec![node, ranges]
    }

    /// Returns the configuration of kube-proxy.
    pub fn kube_proxy_config(&self, kubeconfig: &Path) -> Value {
        let (mode, bridge, prefix) = match self.detects_pods {
            DetectsPods::ClusterCidrs(_) => ("ClusterCIDR", "", ""),
            DetectsPods::NodeCidrs => ("NodeCIDR", "", ""),
            DetectsPods::Bridge(name) => ("BridgeInterface", name, ""),
            DetectsPods::Prefix(prefix) => ("InterfaceNamePrefix", "", prefix),
        };
        let cidrs = match self.detects_pods {
            DetectsPods::ClusterCidrs(cidrs) => cidrs.join(","),
            _ => String::new(),
        };
        json!({
            "mode": "nftables",
            "clientConnection": {"kubeconfig": kubeconfig, "contentType": "application/json",
                "acceptContentTypes": "application/json"},
            "hostnameOverride": NODE_NAME, "clusterCIDR": cidrs, "detectLocalMode": mode,
            "detectLocal": {"bridgeInterface": bridge, "interfaceNamePrefix": prefix},
            "nodePortAddresses": self.node_port_addresses,
            "nftables": {"masqueradeAll": self.masquerade_all, "minSyncPeriod": "50ms"}})
    }

    /// Returns the settings of Portico's table in this environment.
    pub fn settings(&self, environment: &NodeEnvironment) -> NodeSettings {
        NodeSettings {
            detects_pods: PodDetection::of(environment),
            masquerade_all: self.masquerade_all,
            ..NodeSettings::default()
        }
    }

    /// Returns the environment of Portico's table, with the selected addresses for node ports.
    pub fn environment(&self, node_port_addresses: BTreeSet<IpAddr>) -> NodeEnvironment {
        let ranges: &[&str] = match self.detects_pods {
            DetectsPods::ClusterCidrs(cidrs) => cidrs,
            DetectsPods::NodeCidrs => &["10.1.0.0/22", "2001:db8:10::/63"],
            DetectsPods::Bridge(_) | DetectsPods::Prefix(_) => &[],
        };
        let interface = match self.detects_pods {
            DetectsPods::Bridge(name) => Some(name.to_owned()),
            DetectsPods::Prefix(prefix) => Some(format!("{prefix}*")),
            DetectsPods::ClusterCidrs(_) | DetectsPods::NodeCidrs => None,
        };
        let ranges: BTreeSet<_> = ranges.iter().map(|range| range.parse().expect("a CIDR")).collect();
        let interface = interface.map(|text| InterfacePattern::parse(&text).expect("an interface"));
        NodeEnvironment {
            addresses: node_port_addresses.into(),
            pod_ranges: ranges.into(),
            pod_interfaces: interface.into_iter().collect::<BTreeSet<_>>().into(),
        }
    }
}
