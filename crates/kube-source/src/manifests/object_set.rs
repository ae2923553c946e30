//! `Objects`: the valid objects of the input, as core types.
//!
//! The result of `read`, and what `snapshot` turns into a `Snapshot` of the cluster.

use std::collections::BTreeMap;
use std::sync::Arc;

use ipnet::IpNet;
use proxy_core::dns::Namespace;
use proxy_core::endpoint::{EndpointSlice, SliceKey};
use proxy_core::node::Node;
use proxy_core::service::{Service, ServiceKey};
use proxy_core::snapshot::{Change, Snapshot};

use crate::objects::node::dns_namespace;

/// The valid objects of the input.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Objects {
    /// The services. Each service that needs a cluster IP has one.
    pub services: BTreeMap<ServiceKey, Service>,
    /// The EndpointSlices of the input, and those derived from v1 Endpoints and from pods.
    pub slices: BTreeMap<SliceKey, EndpointSlice>,
    /// The nodes.
    pub nodes: BTreeMap<Arc<str>, Node>,
    /// The `portico.dev/` annotations of each namespace.
    pub namespaces: BTreeMap<Arc<str>, BTreeMap<String, String>>,
    /// The ranges of all `ServiceCIDR` objects.
    pub service_ranges: Vec<IpNet>,
}

impl Objects {
    /// Returns a snapshot of these objects.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.clone().into_snapshot()
    }

    /// Converts these objects to a snapshot.
    #[must_use]
    pub fn into_snapshot(self) -> Snapshot {
        let namespaces = self.dns_namespaces().map(Change::Namespace).collect::<Vec<_>>();
        let Self { services, slices, nodes: _, namespaces: _, service_ranges } = self;
        let ranges = (!service_ranges.is_empty()).then_some(Change::ServiceRanges(service_ranges));
        let services = services.into_values().map(Change::Service);
        let slices = slices.into_values().map(Change::Slice);
        ranges.into_iter().chain(namespaces).chain(services).chain(slices).collect()
    }

    /// Returns the namespaces with their DNS annotation. An invalid annotation is ignored.
    pub(crate) fn dns_namespaces(&self) -> impl Iterator<Item = Namespace> {
        self.namespaces.iter().map(|(name, annotations)| dns_namespace(name.clone(), annotations))
    }
}
