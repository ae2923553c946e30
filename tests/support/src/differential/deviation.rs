//! `Deviation`: a destination at which Portico intentionally differs from kube-proxy, or at which kube-proxy's result is
//! undefined.
//!
//! Whether a destination is one follows from the objects, not from the results.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use proxy_core::address::{forbidden_external, parse_ip_sloppy};
use proxy_core::portal::PortalKey;
use proxy_core::service::Protocol;
use serde_json::Value;

use super::node_profile::SERVICE_RANGES;
use super::outcome::{PacketOutcome, Seen};
use super::probe::{Probe, claims, cluster_ips, name, node_ports};
use super::random_cluster::RandomCluster;
use crate::objects::OTHER_PROXY;

/// Why Portico may differ from kube-proxy at a destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Deviation {
    /// Two services claim the address and port. kube-proxy's result depends on the order of a Go map; in Portico the
    /// older service has it (docs/operations.md, differences from kube-proxy).
    Contested,
    /// An external address is the cluster address of a service. kube-proxy lets services take it over; Portico does not
    /// (docs/security.md, external addresses).
    ClusterAddress,
    /// A load-balancer address is link-local, such as that of a cloud's metadata service (docs/security.md, external
    /// addresses).
    ForbiddenAddress,
    /// An endpoint of the service has an address in a service range. kube-proxy translates to it, and then rejects or
    /// drops the packet. Portico skips the endpoint if the address is that of a service.
    EndpointInServiceRange,
    /// An endpoint has the address and port of an external address without endpoints. kube-proxy refuses translated
    /// packets there, too; Portico checks the original destination only.
    EndpointIsFrontend,
    /// The address of the node is an external address of a service, with the number of another service's node port. If
    /// the former has no endpoint, kube-proxy serves the node port; in Portico, addresses take precedence.
    NodePortOfAnother,
    /// An address is that of an endpoint on this node in one service, and elsewhere in another. If the endpoint is its
    /// own client, Portico masquerades it in either service; without that, it gets no reply.
    EndpointOnTwoNodes,
    /// Another proxy has services. kube-proxy drops packets to their addresses like those to unallocated ones; Portico
    /// leaves addresses that look unallocated to the other proxy.
    ForeignService,
}

impl Deviation {
    pub const ALL: [Self; 8] = [
        Self::Contested,
        Self::ClusterAddress,
        Self::ForbiddenAddress,
        Self::EndpointInServiceRange,
        Self::EndpointIsFrontend,
        Self::NodePortOfAnother,
        Self::EndpointOnTwoNodes,
        Self::ForeignService,
    ];
}

/// The deviations of a cluster.
pub struct Deviations {
    /// The services that claim each address and port.
    claimants: BTreeMap<PortalKey, BTreeSet<String>>,
    /// The services of the node ports at each address of the node.
    node_ports: BTreeMap<PortalKey, String>,
    /// The external addresses and ports whose address is a cluster address.
    captured: BTreeSet<PortalKey>,
    /// The cluster addresses of services of this proxy.
    served: BTreeSet<IpAddr>,
    /// The services with an endpoint in a service range.
    loops: BTreeSet<String>,
    /// The services with an endpoint that has the address and port of a service.
    refused: BTreeSet<String>,
    has_foreign_services: bool,
}

fn is_foreign(service: &Value) -> bool {
    !service["metadata"]["labels"][OTHER_PROXY].is_null()
}

fn is_served(service: &Value) -> bool {
    let is_external_name = service["spec"]["type"] == "ExternalName";
    !is_foreign(service) && !is_external_name && !cluster_ips(service).is_empty()
}

/// Returns the namespace and name of the service of a slice.
fn owner(slice: &Value) -> String {
    let service = &slice["metadata"]["labels"]["kubernetes.io/service-name"];
    let namespace = slice["metadata"]["namespace"].as_str().expect("a namespace");
    format!("{namespace}/{}", service.as_str().unwrap_or_default())
}

/// Returns the addresses and ports of the endpoints of a slice.
fn endpoints(slice: &Value) -> Vec<PortalKey> {
    let ports = slice["ports"].as_array().expect("ports").iter().filter_map(|port| {
        let number = port["port"].as_u64().and_then(|number| u16::try_from(number).ok())?;
        Some((port["protocol"].as_str().and_then(Protocol::parse)?, number))
    });
    let ports: Vec<(Protocol, u16)> = ports.collect();
    let endpoints = slice["endpoints"].as_array().expect("endpoints").iter();
    let addresses = endpoints.filter_map(|endpoint| parse_ip_sloppy(endpoint["addresses"][0].as_str()?));
    addresses
        .flat_map(|address| {
            ports.iter().map(move |(protocol, port)| PortalKey { address, protocol: *protocol, port: *port })
        })
        .collect()
}

impl Deviations {
    pub fn new(cluster: &RandomCluster) -> Self {
        let served = || cluster.services.iter().filter(|service| is_served(service));
        let cluster_ips_of = |service: &Value| cluster_ips(service);
        let cluster_ips: BTreeSet<IpAddr> = cluster.services.iter().flat_map(cluster_ips).collect();
        let mut claimants: BTreeMap<PortalKey, BTreeSet<String>> = BTreeMap::new();
        let mut captured = BTreeSet::new();
        for service in served() {
            let own = cluster_ips_of(service);
            for key in claims(service) {
                claimants.entry(key).or_default().insert(name(service));
                if cluster_ips.contains(&key.address) && !own.contains(&key.address) {
                    captured.insert(key);
                }
            }
        }
        let (mut loops, mut refused) = (BTreeSet::new(), BTreeSet::new());
        for slice in &cluster.slices {
            let endpoints = endpoints(slice);
            if endpoints.iter().any(|endpoint| is_in_service_range(endpoint.address)) {
                loops.insert(owner(slice));
            }
            if endpoints.iter().any(|endpoint| claimants.contains_key(endpoint)) {
                refused.insert(owner(slice));
            }
        }
        let node_ports = served()
            .flat_map(|service| node_ports(service).into_iter().map(|key| (key, name(service))))
            .collect();
        Self {
            claimants,
            node_ports,
            captured,
            served: served().flat_map(cluster_ips_of).collect(),
            loops,
            refused,
            has_foreign_services: cluster.services.iter().any(is_foreign),
        }
    }

    /// Returns the deviation that explains a difference.
    pub fn explain(&self, probe: &Probe, own: &PacketOutcome, other: &PacketOutcome) -> Option<Deviation> {
        let destination = probe.destination;
        let claimants = self.claimants.get(&destination);
        let node_port = self.node_ports.get(&destination);
        let is_claimed_by = |services: &BTreeSet<String>| {
            let mut users = claimants.into_iter().flatten().chain(node_port);
            users.any(|user| services.contains(user))
        };
        let explains = |deviation: &Deviation| match deviation {
            Deviation::Contested => claimants.is_some_and(|users| users.len() > 1),
            Deviation::ClusterAddress => self.captured.contains(&destination),
            Deviation::ForbiddenAddress => forbidden_external(destination.address).is_some(),
            Deviation::EndpointInServiceRange => is_claimed_by(&self.loops),
            Deviation::EndpointIsFrontend => is_claimed_by(&self.refused),
            Deviation::NodePortOfAnother => {
                let is_refused = matches!(own, PacketOutcome::Reject | PacketOutcome::Drop);
                is_refused && claimants.is_some() && node_port.is_some()
            }
            Deviation::EndpointOnTwoNodes => is_own_backend_masqueraded(probe, own, other),
            Deviation::ForeignService => {
                let is_served = self.served.contains(&destination.address);
                self.has_foreign_services && !is_served && is_in_service_range(destination.address)
            }
        };
        Deviation::ALL.into_iter().find(explains)
    }
}

/// Whether the only difference is that Portico masquerades the client if it is also the backend.
fn is_own_backend_masqueraded(probe: &Probe, own: &PacketOutcome, other: &PacketOutcome) -> bool {
    let PacketOutcome::Forward { backends, affinity_s } = own else { return false };
    let mut backends = backends.clone();
    for (backend, seen) in &mut backends {
        if backend.ip() == probe.client.source {
            *seen = Seen::Client;
        }
    }
    *other == PacketOutcome::Forward { backends, affinity_s: *affinity_s }
}

fn is_in_service_range(address: IpAddr) -> bool {
    let ranges = SERVICE_RANGES.iter().filter_map(|range| range.parse::<ipnet::IpNet>().ok());
    ranges.into_iter().any(|range| range.contains(&address))
}
