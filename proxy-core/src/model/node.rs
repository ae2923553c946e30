//! `Node`: what portals depend on besides services and endpoints.

use std::net::IpAddr;
use std::sync::Arc;

use serde::Serialize;

use crate::model::address::Family;

/// The node on which the pods run.
///
/// An unknown name or zone is empty, and matches nothing: no endpoint is local, no hint applies.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Node {
    /// The name.
    pub name: Arc<str>,
    /// The label `topology.kubernetes.io/zone`.
    pub zone: Arc<str>,
    /// Its addresses: the internal ones, or where it has none, the external ones, in the object's order.
    pub addresses: Vec<IpAddr>,
}

impl Node {
    /// The address that node ports are bound to: the first of the family, as kube-proxy's `primary`.
    #[must_use]
    pub fn primary(&self, family: Family) -> Option<IpAddr> {
        self.addresses.iter().copied().find(|address| Family::of(*address) == family)
    }
}
