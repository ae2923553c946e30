//! `PortalKind`: where the address of a portal comes from.
//!
//! What must not go in here: which address it is.

use serde::Serialize;

/// Where the address of a portal comes from; where two services claim one portal, the earlier kind wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum PortalKind {
    /// The service's cluster address. Nobody else can take it over.
    #[serde(rename = "clusterIP")]
    ClusterIp,
    /// The address that a load balancer published.
    LoadBalancer,
    /// An external address of the service.
    #[serde(rename = "externalIP")]
    ExternalIp,
    /// The node's own address and the service's node port.
    NodePort,
}

impl PortalKind {
    /// All of them, in their order.
    pub const ALL: [Self; 4] = [Self::ClusterIp, Self::LoadBalancer, Self::ExternalIp, Self::NodePort];

    /// The name in output.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ClusterIp => "clusterIP",
            Self::LoadBalancer => "loadBalancer",
            Self::ExternalIp => "externalIP",
            Self::NodePort => "nodePort",
        }
    }
}
