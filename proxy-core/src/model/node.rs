//! `Node`: the node of a pod, on which topology-aware routing and node ports depend.

use std::net::IpAddr;
use std::sync::Arc;

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
}

impl Node {
    /// Returns the address of node ports: the first of the family, as kube-proxy's `primary`.
    #[must_use]
    pub fn primary(&self, family: Family) -> Option<IpAddr> {
        self.addresses.iter().copied().find(|address| Family::of(*address) == family)
    }
}
