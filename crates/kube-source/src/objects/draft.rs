//! `ServiceDraft`: a Service object after validation, before the rules that involve several objects.
//!
//! The parsers of ports, addresses and services share these types. `resolve` turns a draft into the final service.

use std::net::IpAddr;
use std::sync::Arc;

use proxy_core::address::Family;
use proxy_core::service::{ClusterIps, Service, ServicePort};

/// The type of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ServiceType {
    ClusterIp,
    NodePort,
    LoadBalancer,
    ExternalName,
}

impl ServiceType {
    pub(crate) const NAMES: [(&'static str, Self); 4] = [
        ("ClusterIP", Self::ClusterIp),
        ("NodePort", Self::NodePort),
        ("LoadBalancer", Self::LoadBalancer),
        ("ExternalName", Self::ExternalName),
    ];

    pub(crate) fn has_node_ports(self) -> bool {
        matches!(self, Self::NodePort | Self::LoadBalancer)
    }
}

/// The port on the pods of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum TargetPort {
    Number(u16),
    /// The name of a container port.
    Name(Box<str>),
}

/// A port of a service, and the port on its pods.
#[derive(Debug)]
pub(crate) struct PortDraft {
    pub(crate) port: ServicePort,
    pub(crate) target: TargetPort,
}

/// The value of `ipFamilyPolicy`: the number of IP families of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FamilyPolicy {
    Single,
    PreferDual,
    RequireDual,
}

/// The cluster IPs of a service, and the families for which it needs one.
#[derive(Debug)]
pub(crate) struct Addresses {
    /// Whether the service has no cluster IP: `clusterIP: None`, or type ExternalName.
    pub(crate) headless: bool,
    /// The cluster IPs in the manifest, the primary one first, at most one per family.
    pub(crate) given: Vec<IpAddr>,
    /// The values of `ipFamilies`, the primary one first.
    pub(crate) families: Vec<Family>,
    pub(crate) policy: Option<FamilyPolicy>,
    /// The primary cluster IP as written.
    pub(crate) text: Option<Arc<str>>,
}

impl Addresses {
    /// The addresses of a service without cluster IP.
    pub(crate) fn none() -> Self {
        Self { headless: true, given: Vec::new(), families: Vec::new(), policy: None, text: None }
    }

    /// Returns the cluster IPs. A service to which none is assigned yet counts as headless.
    pub(crate) fn cluster_ips(&self) -> ClusterIps {
        match self.given[..] {
            [IpAddr::V4(v4), IpAddr::V6(v6), ..] | [IpAddr::V6(v6), IpAddr::V4(v4), ..] => {
                ClusterIps::Dual(v4, v6)
            }
            [address, ..] => ClusterIps::One(address),
            [] => ClusterIps::Headless,
        }
    }
}

/// A service that is valid by itself. Its cluster IPs may not be assigned yet.
#[derive(Debug)]
pub(crate) struct ServiceDraft {
    pub(crate) service: Service,
    pub(crate) addresses: Addresses,
    /// The labels of its pods. If it is empty, the endpoints of the service are managed separately.
    pub(crate) selector: Vec<(Box<str>, Box<str>)>,
    /// The port on the pods, for each port of the service.
    pub(crate) target_ports: Vec<TargetPort>,
    pub(crate) publish_not_ready: bool,
}
