//! `Place`: whose connections the portals serve, the pods' or the node's.
//!
//! A pod is always a client inside the cluster. On the node, connections also arrive from outside, so external addresses
//! need the endpoints of `externalTrafficPolicy: Local`, and node ports are served on several addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use super::{PortalKey, Verdict};
use crate::model::address::Family;

/// The place of a ruleset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Place {
    /// The network namespace of a pod.
    #[default]
    Pod,
    /// The network namespace of the node.
    Node,
}

/// What a portal has only on the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeEndpoints {
    /// With `externalTrafficPolicy: Local`: what happens to connections from outside the cluster.
    pub external: Option<ExternalTarget>,
    /// The addresses of the portal's backends on this node, sorted.
    pub local: Vec<IpAddr>,
}

/// The endpoints for connections from outside the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExternalTarget {
    /// What happens to a connection.
    pub verdict: Verdict,
    /// The backends, sorted.
    pub backends: Arc<[SocketAddr]>,
}

/// Returns the address in the keys of node ports on the node: it represents all addresses with node ports.
#[must_use]
pub const fn node_port_address(family: Family) -> IpAddr {
    match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        Family::V6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    }
}

impl PortalKey {
    /// Whether this is a node port on all addresses with node ports.
    #[must_use]
    pub const fn is_node_port(self) -> bool {
        self.address.is_unspecified()
    }
}
