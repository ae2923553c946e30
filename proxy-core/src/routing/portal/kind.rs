//! `PortalKind`: the kind of a portal's address, which is also its precedence.

use serde::Serialize;

/// The kind of a portal's address. If two services claim one portal, the earlier kind takes precedence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum PortalKind {
    /// The service's cluster address. No other service can take it over.
    #[serde(rename = "clusterIP")]
    ClusterIp,
    /// An address from the status of a load balancer.
    LoadBalancer,
    /// An address from `spec.externalIPs`.
    #[serde(rename = "externalIP")]
    ExternalIp,
    /// The node's address with the service's node port.
    NodePort,
}

impl PortalKind {
    /// All kinds, in their order.
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
