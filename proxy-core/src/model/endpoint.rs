//! `EndpointSlice` and `Endpoint`: the addresses behind services, already checked.
//!
//! The names follow discovery.k8s.io/v1. Older forms (v1 Endpoints, Ready pods) are turned into slices
//! where they are read. Conditions are resolved here already: a nil `ready` is true.

use std::cmp::Ordering;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::model::service::{Protocol, ServiceKey, text_order};

/// The identity of a slice.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SliceKey {
    /// The namespace.
    pub namespace: Arc<str>,
    /// The name within the namespace.
    pub name: Arc<str>,
}

impl SliceKey {
    /// The key of slice `name` in `namespace`.
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

/// By namespace, then by name.
impl Ord for SliceKey {
    fn cmp(&self, other: &Self) -> Ordering {
        text_order(&self.namespace, &other.namespace).then_with(|| text_order(&self.name, &other.name))
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

/// A port of a slice; it belongs to the service port of the same name **and** protocol.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EndpointPort {
    /// The name of the service port; empty for an unnamed one.
    pub name: Arc<str>,
    /// The protocol.
    pub protocol: Protocol,
    /// The port on the endpoint.
    pub port: u16,
}

/// The state of an endpoint, with Kubernetes' defaults for what was not said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Conditions {
    /// It takes new connections; true where nothing is said.
    pub ready: bool,
    /// It answers, though it may be on its way out; true where nothing is said.
    pub serving: bool,
    /// It is on its way out; false where nothing is said.
    pub terminating: bool,
}

impl Default for Conditions {
    fn default() -> Self {
        Self { ready: true, serving: true, terminating: false }
    }
}

/// One address behind a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Endpoint {
    /// The address; of the slice's family, and not one of the forbidden ones.
    pub address: IpAddr,
    /// Its state.
    pub conditions: Conditions,
    /// The node it runs on.
    pub node: Option<Arc<str>>,
    /// Hint: the zones whose clients should use it.
    pub zone_hints: Vec<Arc<str>>,
    /// Hint: the nodes whose clients should use it.
    pub node_hints: Vec<Arc<str>>,
}

/// A slice of the endpoints of one service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EndpointSlice {
    /// Its identity.
    pub key: SliceKey,
    /// The service it belongs to.
    pub service: ServiceKey,
    /// The ports that all its endpoints have.
    pub ports: Vec<EndpointPort>,
    /// The endpoints.
    pub endpoints: Vec<Endpoint>,
}
