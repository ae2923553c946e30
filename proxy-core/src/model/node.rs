//! `Node`: the node of a pod, on which topology-aware routing and node ports depend.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use serde::Serialize;

use crate::model::address::Family;

/// The service proxies of a node, from its label `portico.dev/service-proxy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ServiceProxy {
    /// kube-proxy, or another proxy, serves the node. Also without the label.
    #[default]
    KubeProxy,
    /// Portico serves the node, and kube-proxy still runs.
    Both,
    /// Portico serves the node, and kube-proxy must not run on it.
    Portico,
}

impl ServiceProxy {
    /// All values.
    pub const ALL: [Self; 3] = [Self::KubeProxy, Self::Both, Self::Portico];

    /// Returns the value of the label.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::KubeProxy => "kube-proxy",
            Self::Both => "both",
            Self::Portico => "portico",
        }
    }

    /// Parses the value of the label.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|proxy| proxy.name() == text)
    }
}

/// A node.
///
/// An unknown name or zone is empty and matches nothing: no endpoint is local, and no hint applies.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Node {
    /// The name.
    pub name: Arc<str>,
    /// The label `topology.kubernetes.io/zone`.
    pub zone: Arc<str>,
    /// The internal addresses, or if there are none, the external ones, in the order of the object.
    pub addresses: Vec<IpAddr>,
    /// The CIDRs of the node's pods, at most one of each family.
    pub pod_cidrs: Vec<IpNet>,
    /// Whether the node is being deleted, or the cluster autoscaler is about to delete it: load balancers must not send
    /// new connections (KEP-3836).
    pub is_leaving: bool,
    /// The label `portico.dev/service-proxy`.
    pub service_proxy: ServiceProxy,
    /// The annotation `portico.dev/verify-node`; empty without a request.
    pub verification: Arc<str>,
    /// The annotation `portico.dev/remove-kube-proxy-rules`; empty without a request.
    pub rule_removal: Arc<str>,
}

impl Node {
    /// Returns the address of node ports: the first of the family, as kube-proxy's `primary`.
    #[must_use]
    pub fn primary(&self, family: Family) -> Option<IpAddr> {
        self.addresses.iter().copied().find(|address| Family::of(*address) == family)
    }

    /// Whether the two nodes have the same name, zone and addresses, on which the portals of pods depend.
    #[must_use]
    pub fn has_same_portals(&self, other: &Self) -> bool {
        let Self { name, zone, addresses, .. } = self;
        *name == other.name && *zone == other.zone && *addresses == other.addresses
    }
}
