//! `ServiceEntry`: a service with its endpoints, as questions need them.
//!
//! The addresses of a headless service are computed at a change, not at a query: without duplicates, and only those on
//! the node or in its zone if the service requests it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use proxy_core::dns::DnsEndpoints;
use proxy_core::endpoint::{Endpoint, EndpointPort, EndpointSlice};
use proxy_core::service::{ClusterIps, Protocol, Service};
use proxy_core::snapshot::Snapshot;

use super::config::ZoneConfig;
use crate::message::Name;

/// How the name of a service is answered.
#[derive(Debug)]
pub(crate) enum ServiceKind {
    /// With its cluster addresses.
    ClusterIp(ClusterIps),
    /// With the addresses of its ready endpoints.
    Headless { v4: Box<[Ipv4Addr]>, v6: Box<[Ipv6Addr]> },
    /// With an alias. None: the external name is not a name, so the service has no records (as in CoreDNS).
    External(Option<Box<Name>>),
}

/// A service and its endpoints.
#[derive(Debug)]
pub(crate) struct ServiceEntry {
    pub(crate) service: Arc<Service>,
    pub(crate) kind: ServiceKind,
    slices: Box<[Arc<EndpointSlice>]>,
    /// The endpoints that the name of the service stands for.
    pub(crate) selection: DnsEndpoints,
}

impl ServiceEntry {
    /// Returns the entry of a service in a snapshot.
    pub(crate) fn new(service: &Arc<Service>, snapshot: &Snapshot, config: &ZoneConfig) -> Self {
        let mut entry = Self {
            service: service.clone(),
            kind: ServiceKind::ClusterIp(service.cluster_ips),
            slices: snapshot.slices_of(&service.key).cloned().collect(),
            selection: DnsEndpoints::All,
        };
        if let Some(name) = &service.external_name {
            let target = name.parse::<IpAddr>().is_err().then(|| Name::parse(name)).flatten();
            entry.kind = ServiceKind::External(target.map(Box::new));
        } else if service.cluster_ips == ClusterIps::Headless {
            let requested = service.dns_endpoints;
            let has_any = entry.ready().any(|(_, endpoint)| is_selected(endpoint, requested, config));
            entry.selection = if has_any { requested } else { DnsEndpoints::All };
            entry.kind = entry.headless(config);
        }
        entry
    }

    fn headless(&self, config: &ZoneConfig) -> ServiceKind {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for (_, endpoint) in self.selected(config) {
            match endpoint.address {
                IpAddr::V4(address) => v4.push(address),
                IpAddr::V6(address) => v6.push(address),
            }
        }
        v4.sort_unstable();
        v4.dedup();
        v6.sort_unstable();
        v6.dedup();
        ServiceKind::Headless { v4: v4.into(), v6: v6.into() }
    }

    /// Returns the ready endpoints of all slices, with their ports.
    pub(crate) fn ready(&self) -> impl Iterator<Item = (&[EndpointPort], &Endpoint)> {
        self.slices.iter().flat_map(|slice| {
            let ready = slice.endpoints.iter().filter(|endpoint| endpoint.conditions.ready);
            ready.map(|endpoint| (slice.ports.as_slice(), endpoint))
        })
    }

    /// Returns the ready endpoints that the name of the service stands for.
    pub(crate) fn selected(&self, config: &ZoneConfig) -> impl Iterator<Item = (&[EndpointPort], &Endpoint)> {
        self.ready().filter(|(_, endpoint)| is_selected(endpoint, self.selection, config))
    }

    /// Whether a port of the service satisfies a condition on its name and protocol. The ports of a headless service
    /// are those of the ready endpoints that its name stands for.
    pub(crate) fn any_port(&self, config: &ZoneConfig, is_match: impl Fn(&str, Protocol) -> bool) -> bool {
        match self.kind {
            ServiceKind::ClusterIp(_) => {
                self.service.ports.iter().any(|port| is_match(&port.name, port.protocol))
            }
            ServiceKind::Headless { .. } => self
                .selected(config)
                .any(|(ports, _)| ports.iter().any(|port| is_match(&port.name, port.protocol))),
            ServiceKind::External(_) => false,
        }
    }

    /// Whether this is a cluster address of the service.
    pub(crate) fn has_cluster_ip(&self, address: IpAddr) -> bool {
        self.service.cluster_ips.iter().any(|own| own == address)
    }

    /// Returns the addresses that have PTR records: the cluster addresses and those of ready endpoints, sorted and
    /// without duplicates.
    pub(crate) fn reverse_addresses(&self) -> Vec<IpAddr> {
        let cluster_ips = match self.kind {
            ServiceKind::ClusterIp(addresses) => addresses,
            ServiceKind::Headless { .. } => ClusterIps::Headless,
            ServiceKind::External(_) => return Vec::new(),
        };
        let endpoints = self.ready().map(|(_, endpoint)| endpoint.address);
        let mut addresses: Vec<IpAddr> = cluster_ips.iter().chain(endpoints).collect();
        addresses.sort_unstable();
        addresses.dedup();
        addresses
    }
}

fn is_selected(endpoint: &Endpoint, selection: DnsEndpoints, config: &ZoneConfig) -> bool {
    let is = |own: &Arc<str>, value: &Option<Arc<str>>| !own.is_empty() && value.as_ref() == Some(own);
    match selection {
        DnsEndpoints::All => true,
        DnsEndpoints::Node => is(&config.node, &endpoint.node),
        DnsEndpoints::Zone => is(&config.node_zone, &endpoint.zone),
    }
}
