//! `Objects`: what has been read, ready for the core.
//!
//! What must not go in here: how it was read.

use std::collections::BTreeMap;
use std::sync::Arc;

use ipnet::IpNet;
use proxy_core::endpoint::{EndpointSlice, SliceKey};
use proxy_core::node::Node;
use proxy_core::service::{Service, ServiceKey};
use proxy_core::snapshot::{Change, Snapshot};

/// Everything that was read and is right.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Objects {
    /// The services; each that should have an address has one.
    pub services: BTreeMap<ServiceKey, Service>,
    /// The endpoints: slices as they were read, and those made of v1 Endpoints and of pods.
    pub slices: BTreeMap<SliceKey, EndpointSlice>,
    /// The nodes.
    pub nodes: BTreeMap<Arc<str>, Node>,
    /// The annotations of namespaces that are ours (`portico.dev/`).
    pub namespaces: BTreeMap<Arc<str>, BTreeMap<String, String>>,
    /// The ranges of all `ServiceCIDR` objects; empty where there was none.
    pub service_ranges: Vec<IpNet>,
}

impl Objects {
    /// A snapshot of these objects.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.clone().into_snapshot()
    }

    /// The snapshot of these objects.
    #[must_use]
    pub fn into_snapshot(self) -> Snapshot {
        let Self { services, slices, nodes: _, namespaces: _, service_ranges } = self;
        let ranges = (!service_ranges.is_empty()).then_some(Change::ServiceRanges(service_ranges));
        let services = services.into_values().map(Change::Service);
        let slices = slices.into_values().map(Change::Slice);
        ranges.into_iter().chain(services).chain(slices).collect()
    }
}
