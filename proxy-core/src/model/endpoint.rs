//! `EndpointSlice` and `Endpoint`: the validated endpoints of services.
//!
//! The names are those of discovery.k8s.io/v1. `kube-source` converts older forms (v1 Endpoints, ready pods) to slices,
//! and resolves the defaults of conditions: a missing `ready` is true.

use std::cmp::Ordering;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::model::service::{Protocol, ServiceKey, compare_shared};

/// The namespace and name of a slice.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SliceKey {
    /// The namespace.
    pub namespace: Arc<str>,
    /// The name in the namespace.
    pub name: Arc<str>,
}

impl SliceKey {
    /// Returns the key of slice `name` in `namespace`.
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

/// By namespace, then by name.
impl Ord for SliceKey {
    fn cmp(&self, other: &Self) -> Ordering {
        compare_shared(&self.namespace, &other.namespace)
            .then_with(|| compare_shared(&self.name, &other.name))
    }
}

impl PartialOrd for SliceKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for SliceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A port of a slice. It belongs to the service port with the same name and protocol.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EndpointPort {
    /// The name of the service port; empty for an unnamed one.
    pub name: Arc<str>,
    /// The protocol.
    pub protocol: Protocol,
    /// The port on the endpoint.
    pub port: u16,
}

/// The conditions of an endpoint, with the defaults of Kubernetes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Conditions {
    /// Whether it accepts new connections; true by default.
    pub ready: bool,
    /// Whether it serves connections, also while it terminates; true by default.
    pub serving: bool,
    /// Whether it is being terminated; false by default.
    pub terminating: bool,
}

impl Default for Conditions {
    fn default() -> Self {
        Self { ready: true, serving: true, terminating: false }
    }
}

/// An endpoint of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Endpoint {
    /// The address: of the slice's family, and not a forbidden one (`address::forbidden`).
    pub address: IpAddr,
    /// The conditions.
    pub conditions: Conditions,
    /// The node on which it runs.
    pub node: Option<Arc<str>>,
    /// The zone in which it runs.
    pub zone: Option<Arc<str>>,
    /// The host name, a DNS label: it has the name `HOSTNAME.SERVICE.NAMESPACE.svc`.
    pub hostname: Option<Arc<str>>,
    /// Hints: the zones whose clients should use it.
    pub zone_hints: Vec<Arc<str>>,
    /// Hints: the nodes whose clients should use it.
    pub node_hints: Vec<Arc<str>>,
}

/// A slice of the endpoints of one service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EndpointSlice {
    /// The namespace and name.
    pub key: SliceKey,
    /// The service.
    pub service: ServiceKey,
    /// Whether the endpoints are backends of portals: false for slices with the label `service.kubernetes.io/headless`
    /// or `service.kubernetes.io/service-proxy-name`, which kube-proxy does not watch. They have names only.
    pub has_portals: bool,
    /// The ports, which all endpoints have.
    pub ports: Vec<EndpointPort>,
    /// The endpoints.
    pub endpoints: Vec<Endpoint>,
}
