//! The portals of one service: its addresses times its ports, and where each leads.
//!
//! First everything is listed that the service asks for, by kind and then by key; what the operator does not allow
//! and what is beyond the bound of a service is refused there, before anything is looked up about it. A pod always
//! takes the short way: external addresses lead to the same endpoints as for any client inside the cluster.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;

use super::{BACKENDS_MAX, NodeContext, Portal, PortalKey, PortalKind, RefusalReason, Refusals, Verdict};
use crate::model::address::Family;
use crate::model::node::Node;
use crate::model::service::{Created, Mode, Protocol, Service, ServicePort, TrafficPolicy};
use crate::model::snapshot::Snapshot;
use crate::routing::endpoint_selection::{EndpointStatus, SelectionRule, endpoint_status, selection_rule};

/// Something that a service asks for.
#[derive(Debug, Clone, Copy)]
struct Request {
    kind: PortalKind,
    key: PortalKey,
    /// Which of the service's ports.
    port: usize,
}

/// Where a policy leads.
#[derive(Debug, Clone)]
struct Target {
    verdict: Verdict,
    backends: Arc<[SocketAddr]>,
    omitted_backends: usize,
}

/// Makes the portals of one service; endpoints are chosen once for each port, family and policy.
pub(super) struct Maker<'a> {
    snapshot: &'a Snapshot,
    service: &'a Service,
    node_context: &'a NodeContext,
    targets: BTreeMap<(usize, Family, bool), Target>,
    sources: [Option<Option<Arc<[IpNet]>>>; 2],
}

impl<'a> Maker<'a> {
    pub(super) fn new(snapshot: &'a Snapshot, service: &'a Service, node_context: &'a NodeContext) -> Self {
        let (targets, sources) = Default::default();
        Self { snapshot, service, node_context, targets, sources }
    }

    /// The portals up to a kind, in the order of kind and key, and what was refused.
    pub(super) fn up_to(&mut self, last: PortalKind) -> (Vec<Portal>, Refusals) {
        let (requests, refused) = self.requests(last);
        (requests.into_iter().map(|request| self.portal(request)).collect(), refused)
    }

    /// The portals of one kind, made as they are taken, in the order of their keys.
    pub(super) fn of_kind(&mut self, kind: PortalKind) -> impl Iterator<Item = Portal> + use<'_, 'a> {
        let (requests, _) = self.requests(kind);
        requests.into_iter().filter(move |request| request.kind == kind).map(|request| self.portal(request))
    }

    /// How many portals it asks for, and what is refused of them. Without a look at each portal where that is
    /// enough: then the API server's address and addresses that are named twice are counted as any other.
    pub(super) fn asked(&self, is_exact: bool) -> (usize, Refusals) {
        if is_exact || !self.is_seen() {
            let (requests, refused) = self.requests(PortalKind::NodePort);
            return (requests.len(), refused);
        }
        let (mut count, mut refused) = (0, Refusals::default());
        for (kind, family) in
            PortalKind::ALL.into_iter().flat_map(|kind| Family::BOTH.map(|family| (kind, family)))
        {
            let ports = self.service.ports.iter();
            let ports = ports.filter(|port| kind != PortalKind::NodePort || port.node_port.is_some()).count();
            count += ports * self.addresses(kind, family, &mut refused).len();
        }
        let most = self.node_context.limits.service_portals;
        refused.add(RefusalReason::ServicePortals, count.saturating_sub(most));
        (count.min(most), refused)
    }

    fn is_seen(&self) -> bool {
        self.service.has_portals && self.node_context.filter.includes(&self.service.key)
    }

    pub(super) fn created(&self) -> Created {
        self.service.created
    }

    /// Whether its cluster addresses hold a portal that no relay can take.
    pub(super) fn is_special(&self) -> bool {
        let by_kernel = |protocol| self.service.mode_of(protocol, self.node_context.mode) == Mode::Kernel;
        let is_special = |port: &ServicePort| {
            port.protocol == Protocol::Sctp || (self.service.affinity_s.is_some() && by_kernel(port.protocol))
        };
        self.service.ports.iter().any(is_special)
    }

    fn addresses(&self, kind: PortalKind, family: Family, refused: &mut Refusals) -> Vec<IpAddr> {
        let service = self.service;
        if service.cluster_ips.of(family).is_none() {
            return Vec::new();
        }
        let outside: &[IpAddr] = match kind {
            PortalKind::ClusterIp => return service.cluster_ips.of(family).into_iter().collect(),
            PortalKind::NodePort => return self.node_context.node.primary(family).into_iter().collect(),
            PortalKind::LoadBalancer => &service.load_balancer_ips,
            PortalKind::ExternalIp => &service.external_ips,
        };
        let own = outside.iter().copied().filter(|address| Family::of(*address) == family);
        let mut is_allowed = |address: &IpAddr| {
            let refusal = self.node_context.external.refusal(self.snapshot, kind, *address);
            refusal.into_iter().for_each(|reason| refused.add(reason, service.ports.len()));
            refusal.is_none()
        };
        own.filter(|address| is_allowed(address)).collect()
    }

    fn requests(&self, last: PortalKind) -> (Vec<Request>, Refusals) {
        let (mut requests, mut refused) = (Vec::new(), Refusals::default());
        if !self.is_seen() {
            return (requests, refused);
        }
        let kinds = PortalKind::ALL.into_iter().take_while(|kind| *kind <= last);
        for (kind, family) in kinds.flat_map(|kind| Family::BOTH.map(|family| (kind, family))) {
            for address in self.addresses(kind, family, &mut refused) {
                let ports = self.service.ports.iter().enumerate().filter_map(|(port, own)| {
                    let number = if kind == PortalKind::NodePort { own.node_port? } else { own.port };
                    let key = PortalKey { address, protocol: own.protocol, port: number };
                    Some(Request { kind, key, port })
                });
                requests.extend(ports);
            }
        }
        // One service may name an address twice, as load balancer and as external address: the first kind
        // stands, as it does between services.
        requests.sort_unstable_by_key(|request| (request.key, request.kind));
        requests.dedup_by_key(|request| request.key);
        let is_outside = |kind| matches!(kind, PortalKind::LoadBalancer | PortalKind::ExternalIp);
        let before = requests.len();
        requests.retain(|request| !is_outside(request.kind) || !self.snapshot.is_api_server(request.key));
        refused.add(RefusalReason::ApiServer, before - requests.len());
        requests.sort_unstable_by_key(|request| (request.kind, request.key));
        let most = self.node_context.limits.service_portals;
        refused.add(RefusalReason::ServicePortals, requests.len().saturating_sub(most));
        requests.truncate(most);
        (requests, refused)
    }

    fn portal(&mut self, Request { kind, key, port }: Request) -> Portal {
        let family = Family::of(key.address);
        let sources = if kind == PortalKind::LoadBalancer { self.sources(family) } else { None };
        let policy = match kind {
            PortalKind::ClusterIp => self.service.internal_policy,
            _ => TrafficPolicy::Cluster,
        };
        let Target { verdict, backends, omitted_backends } = self.target(port, family, policy);
        let service = self.service;
        Portal {
            service: service.key.clone(),
            port_name: service.ports[port].name.clone(),
            key,
            kind,
            verdict,
            backends,
            omitted_backends,
            affinity_s: service.affinity_s,
            scheduler: service.scheduler,
            dial: service.dial,
            hold_ms: service.hold_ms,
            sources,
            mode: service.mode_of(key.protocol, self.node_context.mode),
        }
    }

    fn sources(&mut self, family: Family) -> Option<Arc<[IpNet]>> {
        let (service, node) = (self.service, &self.node_context.node);
        self.sources[family as usize].get_or_insert_with(|| source_ranges(service, family, node)).clone()
    }

    fn target(&mut self, port: usize, family: Family, policy: TrafficPolicy) -> Target {
        let Self { snapshot, service, node_context, .. } = *self;
        let key = (port, family, policy == TrafficPolicy::Local);
        let target = || target(snapshot, service, &service.ports[port], family, (policy, &node_context.node));
        self.targets.entry(key).or_insert_with(target).clone()
    }
}

/// Where the ranges hold the node's own address, a request from the node may come with a load-balancer
/// address as its source, so these are let in too (kube-proxy, nftables/proxier.go `allowFromNode`).
fn source_ranges(service: &Service, family: Family, node: &Node) -> Option<Arc<[IpNet]>> {
    let mut ranges = service.source_ranges_of(family)?;
    let from_node = node.primary(family).is_some_and(|own| ranges.iter().any(|net| net.contains(&own)));
    if from_node {
        let own = service.load_balancer_ips.iter().filter(|ip| Family::of(**ip) == family);
        ranges.extend(own.map(|ip| IpNet::from(*ip)));
    }
    Some(IpNet::aggregate(&ranges).into())
}

fn target(
    snapshot: &Snapshot,
    service: &Service,
    port: &ServicePort,
    family: Family,
    (policy, node): (TrafficPolicy, &Node),
) -> Target {
    let endpoints = snapshot.endpoints_of(&service.key, &port.name, port.protocol, family);
    let rule = selection_rule(&endpoints, policy, node);
    let chosen =
        endpoints.iter().filter(|e| endpoint_status(rule, e.endpoint, node) == EndpointStatus::Chosen);
    let mut backends: Vec<SocketAddr> = chosen.map(|e| e.backend).collect();
    let omitted_backends = backends.len().saturating_sub(BACKENDS_MAX);
    backends.truncate(BACKENDS_MAX);
    let verdict = match rule {
        SelectionRule::None => Verdict::Reject,
        SelectionRule::NoneLocal => Verdict::Drop,
        _ => Verdict::Forward,
    };
    Target { verdict, backends: backends.into(), omitted_backends }
}
