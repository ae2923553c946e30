//! An independent model of kube-proxy: written from its source, simple, and without incremental updates.
//!
//! The structure is that of `CategorizeEndpoints` (pkg/proxy/topology.go) and of the nftables proxier, not that of the
//! core, so that both are unlikely to have the same mistake.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use super::generators::ObjectModel;
use crate::inspect::trace::Packet;
use crate::model::address::Family;
use crate::model::endpoint::Endpoint;
use crate::model::node::Node;
use crate::model::service::{Mode, Protocol, Scheduler, Service, ServicePort, TrafficPolicy};
use crate::routing::portal::{NodeContext, PortalKind};

/// The result for a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ConnectionResult {
    /// Translated to one of these backends.
    Forward(BTreeSet<SocketAddr>),
    /// Relayed to one of these backends.
    Relay(BTreeSet<SocketAddr>),
    Reject,
    Drop,
    SourceDenied,
    WrongPort,
    Unallocated,
    Pass,
}

/// Returns what kube-proxy would do with a connection of a pod on the node.
pub(super) fn expected_result(
    objects: &ObjectModel,
    node_context: &NodeContext,
    packet: &Packet,
) -> ConnectionResult {
    let address = packet.destination.address;
    let visible = || {
        let all = objects.services.values();
        all.filter(|service| service.has_portals && node_context.filter.includes(&service.key))
    };
    let claims = visible().flat_map(|service| {
        let ports = service.ports.iter();
        ports.filter_map(move |port| {
            let kind = kind_of(service, port, node_context, packet)?;
            let is_outside = matches!(kind, PortalKind::LoadBalancer | PortalKind::ExternalIp);
            // Where we are stricter than kube-proxy: a cluster address is never also an external one.
            let is_taken =
                objects.services.values().any(|other| other.cluster_ips.iter().any(|own| own == address));
            let rank = (kind, service.created, service.key.clone());
            (!is_outside || !is_taken).then_some((rank, (kind, service, port)))
        })
    });
    if let Some((_, (kind, service, port))) = claims.min_by_key(|(rank, _)| rank.clone()) {
        return at_portal(objects, node_context, packet, (kind, service, port));
    }
    if visible().any(|service| service.cluster_ips.iter().any(|own| own == address)) {
        ConnectionResult::WrongPort
    } else if !has_foreign(objects) && objects.ranges.iter().any(|range| range.contains(&address)) {
        ConnectionResult::Unallocated
    } else {
        ConnectionResult::Pass
    }
}

/// If another proxy has services, an address that looks unallocated can be one of them.
fn has_foreign(objects: &ObjectModel) -> bool {
    objects
        .services
        .values()
        .any(|service| !service.has_portals && service.cluster_ips.iter().next().is_some())
}

fn kind_of(
    service: &Service,
    port: &ServicePort,
    node_context: &NodeContext,
    packet: &Packet,
) -> Option<PortalKind> {
    let to = packet.destination;
    let own = service.cluster_ips.of(Family::of(to.address))?;
    if port.protocol != to.protocol {
        return None;
    }
    let primary = node_context.node.addresses.iter().find(|a| Family::of(**a) == Family::of(to.address));
    if port.node_port == Some(to.port) && primary == Some(&to.address) {
        return Some(PortalKind::NodePort);
    }
    match () {
        () if port.port != to.port => None,
        () if own == to.address => Some(PortalKind::ClusterIp),
        () if service.load_balancer_ips.contains(&to.address) => Some(PortalKind::LoadBalancer),
        () if service.external_ips.contains(&to.address) => Some(PortalKind::ExternalIp),
        () => None,
    }
}

fn at_portal(
    objects: &ObjectModel,
    node_context: &NodeContext,
    packet: &Packet,
    (kind, service, port): (PortalKind, &Service, &ServicePort),
) -> ConnectionResult {
    let family = Family::of(packet.destination.address);
    if kind == PortalKind::LoadBalancer
        && !is_source_allowed(service, family, &node_context.node, packet.source)
    {
        return ConnectionResult::SourceDenied;
    }
    let endpoints = endpoints_of(objects, service, port, family);
    let (cluster, local, any) = categorize(&endpoints, &node_context.node);
    if !any {
        if service.hold_ms.is_some() && port.protocol != Protocol::Sctp {
            return ConnectionResult::Relay(BTreeSet::new());
        }
        return ConnectionResult::Reject;
    }
    let bound = kind == PortalKind::ClusterIp && service.internal_policy == TrafficPolicy::Local;
    let backends = if bound { local } else { cluster };
    let mode = match service.scheduler {
        None | Some(Scheduler::Random | Scheduler::RoundRobin) => service.mode.unwrap_or(node_context.mode),
        _ => Mode::Relay,
    };
    match mode {
        _ if backends.is_empty() => ConnectionResult::Drop,
        Mode::Relay if port.protocol != Protocol::Sctp => ConnectionResult::Relay(backends),
        _ => ConnectionResult::Forward(backends),
    }
}

fn is_source_allowed(service: &Service, family: Family, node: &Node, source: Option<IpAddr>) -> bool {
    let ranges: Vec<_> = service.source_ranges.iter().filter(|net| Family::of_net(net) == family).collect();
    let holds = |address: IpAddr| ranges.iter().any(|net| net.contains(&address));
    if ranges.is_empty() || ranges.iter().any(|net| net.prefix_len() == 0) {
        return true;
    }
    let Some(source) = source else { return false };
    let primary = node.addresses.iter().copied().find(|own| Family::of(*own) == family);
    holds(source) || (primary.is_some_and(holds) && service.load_balancer_ips.contains(&source))
}

fn endpoints_of<'a>(
    objects: &'a ObjectModel,
    service: &Service,
    port: &ServicePort,
    family: Family,
) -> BTreeMap<SocketAddr, &'a Endpoint> {
    let forbidden: BTreeSet<IpAddr> =
        objects.services.values().flat_map(|other| other.cluster_ips.iter()).collect();
    let mut found: BTreeMap<SocketAddr, &Endpoint> = BTreeMap::new();
    for slice in objects.slices.values().filter(|slice| slice.service == service.key) {
        for own in &slice.ports {
            if own.name != port.name || own.protocol != port.protocol {
                continue;
            }
            for endpoint in &slice.endpoints {
                let address = endpoint.address;
                let backend = SocketAddr::new(address, own.port);
                let wins = !found.contains_key(&backend) || !endpoint.conditions.terminating;
                if Family::of(address) == family && !forbidden.contains(&address) && wins {
                    found.insert(backend, endpoint);
                }
            }
        }
    }
    found
}

type Backends = BTreeSet<SocketAddr>;

/// The endpoints of policy Cluster, those of policy Local, and whether there is any endpoint.
fn categorize(endpoints: &BTreeMap<SocketAddr, &Endpoint>, node: &Node) -> (Backends, Backends, bool) {
    let filter = |wanted: &dyn Fn(&Endpoint) -> bool| -> Backends {
        endpoints.iter().filter(|(_, e)| wanted(e)).map(|(backend, _)| *backend).collect()
    };
    let ready = |e: &Endpoint| e.conditions.ready;
    let leaving = |e: &Endpoint| e.conditions.serving && e.conditions.terminating;
    let local = |e: &Endpoint| !node.name.is_empty() && e.node.as_ref() == Some(&node.name);
    let for_node = |e: &Endpoint| !node.name.is_empty() && e.node_hints.contains(&node.name);
    let for_zone = |e: &Endpoint| !node.zone.is_empty() && e.zone_hints.contains(&node.zone);

    let all_ready = || endpoints.values().filter(|e| ready(e));
    let all_have_node_hints = all_ready().all(|e| !e.node_hints.is_empty());
    let all_have_zone_hints = all_ready().all(|e| !e.zone_hints.is_empty());
    let mut cluster = if all_have_node_hints && all_ready().any(|e| for_node(e)) {
        filter(&|e| ready(e) && for_node(e))
    } else if all_have_zone_hints && all_ready().any(|e| for_zone(e)) {
        filter(&|e| ready(e) && for_zone(e))
    } else {
        filter(&ready)
    };
    if cluster.is_empty() {
        cluster = filter(&leaving);
    }
    let mut here = filter(&|e| local(e) && ready(e));
    if here.is_empty() {
        here = filter(&|e| local(e) && leaving(e));
    }
    let any = !filter(&|e| ready(e) || leaving(e)).is_empty();
    (cluster, here, any)
}
