//! `Node`: the node of a pod, on which topology-aware routing and node ports depend.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use serde::Serialize;

use crate::model::address::Family;

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
        let Self { name, zone, addresses, pod_cidrs: _, is_leaving: _ } = self;
        *name == other.name && *zone == other.zone && *addresses == other.addresses
    }
}
