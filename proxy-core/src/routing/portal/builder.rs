//! The portals of one service: its addresses times its ports, with their backends.
//!
//! First all requests of the service are listed by kind and key. Those that the operator does not allow, and those
//! beyond the limit of a service, are refused before endpoints are selected. A pod is always a client inside the
//! cluster: external addresses have the same endpoints as for any such client.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;

use super::{
    BACKENDS_MAX, ExternalTarget, NodeContext, NodeEndpoints, Place, Portal, PortalKey, PortalKind,
    RefusalReason, Refusals, Verdict, node_port_address,
};
use crate::model::address::Family;
use crate::model::node::Node;
use crate::model::service::{Created, Mode, Protocol, Service, ServicePort, TrafficPolicy};
use crate::model::snapshot::Snapshot;
use crate::routing::endpoint_selection::{
    EndpointStatus, SelectionRule, endpoint_status, is_local, selection_rule,
};

/// A portal that a service requests.
#[derive(Debug, Clone, Copy)]
struct Request {
    kind: PortalKind,
    key: PortalKey,
    /// The index of the service's port.
    port: usize,
}

/// The endpoints that a traffic policy selects.
#[derive(Debug, Clone)]
struct Target {
    verdict: Verdict,
    backends: Arc<[SocketAddr]>,
    omitted_backends: usize,
    /// The addresses of its backends on this node, sorted. Empty in pods.
    local: Vec<IpAddr>,
}

/// Builds the portals of one service. Endpoints are selected once per port, family and policy.
pub(super) struct PortalBuilder<'a> {
    snapshot: &'a Snapshot,
    service: &'a Service,
    node_context: &'a NodeContext,
    targets: BTreeMap<(usize, Family, bool), Target>,
    sources: [Option<Option<Arc<[IpNet]>>>; 2],
}

impl<'a> PortalBuilder<'a> {
    pub(super) fn new(snapshot: &'a Snapshot, service: &'a Service, node_context: &'a NodeContext) -> Self {
        let (targets, sources) = Default::default();
        Self { snapshot, service, node_context, targets, sources }
    }

    /// Returns the portals up to a kind, in the order of kind and key, and the refusals.
    pub(super) fn up_to(&mut self, last: PortalKind) -> (Vec<Portal>, Refusals) {
        let (requests, refused) = self.requests(last);
        (requests.into_iter().map(|request| self.portal(request)).collect(), refused)
    }

    /// Returns the portals of one kind in the order of their keys. They are built lazily.
    pub(super) fn of_kind(&mut self, kind: PortalKind) -> impl Iterator<Item = Portal> + use<'_, 'a> {
        let (requests, _) = self.requests(kind);
        requests.into_iter().filter(move |request| request.kind == kind).map(|request| self.portal(request))
    }

    /// Returns the number of requested portals that are not refused, and the refusals. If the result need not be exact,
    /// it is computed without listing each portal, and the addresses of API servers and duplicate addresses are
    /// counted.
    pub(super) fn count(&self, is_exact: bool) -> (usize, Refusals) {
        if is_exact || !self.is_visible() {
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
        let portals_max = self.node_context.limits.service_portals;
        refused.add(RefusalReason::ServicePortals, count.saturating_sub(portals_max));
        (count.min(portals_max), refused)
    }

    fn is_visible(&self) -> bool {
        self.service.has_portals && self.node_context.filter.includes(&self.service.key)
    }

    pub(super) fn created(&self) -> Created {
        self.service.created
    }

    /// Whether a cluster address has a portal that the relay cannot serve.
    pub(super) fn needs_kernel(&self) -> bool {
        let by_kernel = |protocol| self.service.mode_of(protocol, self.node_context.mode) == Mode::Kernel;
        let needs_kernel = |port: &ServicePort| {
            port.protocol == Protocol::Sctp || (self.service.affinity_s.is_some() && by_kernel(port.protocol))
        };
        self.service.ports.iter().any(needs_kernel)
    }

    fn addresses(&self, kind: PortalKind, family: Family, refused: &mut Refusals) -> Vec<IpAddr> {
        let service = self.service;
        if service.cluster_ips.of(family).is_none() {
            return Vec::new();
        }
        let external: &[IpAddr] = match kind {
            PortalKind::ClusterIp => return service.cluster_ips.of(family).into_iter().collect(),
            PortalKind::NodePort => {
                let primary = || self.node_context.node.primary(family);
                let address = match self.node_context.place {
                    Place::Pod => primary(),
                    Place::Node => Some(node_port_address(family)),
                };
                return address.into_iter().collect();
            }
            PortalKind::LoadBalancer => &service.load_balancer_ips,
            PortalKind::ExternalIp => &service.external_ips,
        };
        let of_family = external.iter().copied().filter(|address| Family::of(*address) == family);
        let mut is_allowed = |address: &IpAddr| {
            let refusal = self.node_context.external.refusal(self.snapshot, kind, *address);
            refusal.into_iter().for_each(|reason| refused.add(reason, service.ports.len()));
            refusal.is_none()
        };
        of_family.filter(|address| is_allowed(address)).collect()
    }

    fn requests(&self, last: PortalKind) -> (Vec<Request>, Refusals) {
        let (mut requests, mut refused) = (Vec::new(), Refusals::default());
        if !self.is_visible() {
            return (requests, refused);
        }
        let kinds = PortalKind::ALL.into_iter().take_while(|kind| *kind <= last);
        for (kind, family) in kinds.flat_map(|kind| Family::BOTH.map(|family| (kind, family))) {
            for address in self.addresses(kind, family, &mut refused) {
                let ports = self.service.ports.iter().enumerate().filter_map(|(port, service_port)| {
                    let number = if kind == PortalKind::NodePort {
                        service_port.node_port?
                    } else {
                        service_port.port
                    };
                    let key = PortalKey { address, protocol: service_port.protocol, port: number };
                    Some(Request { kind, key, port })
                });
                requests.extend(ports);
            }
        }
        // A service can have an address both from a load balancer and as an external address. The first kind takes
        // precedence, as it does between services.
        requests.sort_unstable_by_key(|request| (request.key, request.kind));
        requests.dedup_by_key(|request| request.key);
        let is_external = |kind| matches!(kind, PortalKind::LoadBalancer | PortalKind::ExternalIp);
        let before = requests.len();
        requests.retain(|request| !is_external(request.kind) || !self.snapshot.is_api_server(request.key));
        refused.add(RefusalReason::ApiServer, before - requests.len());
        requests.sort_unstable_by_key(|request| (request.kind, request.key));
        let portals_max = self.node_context.limits.service_portals;
        refused.add(RefusalReason::ServicePortals, requests.len().saturating_sub(portals_max));
        requests.truncate(portals_max);
        (requests, refused)
    }

    fn portal(&mut self, Request { kind, key, port }: Request) -> Portal {
        let family = Family::of(key.address);
        let sources = if kind == PortalKind::LoadBalancer { self.sources(family) } else { None };
        let policy = match kind {
            PortalKind::ClusterIp => self.service.internal_policy,
            _ => TrafficPolicy::Cluster,
        };
        let Target { verdict, backends, omitted_backends, mut local } = self.target(port, family, policy);
        let service = self.service;
        let is_on_node = self.node_context.place == Place::Node;
        let has_external = is_on_node && kind != PortalKind::ClusterIp;
        let external = (has_external && service.external_policy == TrafficPolicy::Local).then(|| {
            let Target { verdict, backends, local: on_node, .. } =
                self.target(port, family, TrafficPolicy::Local);
            // The policies select terminating endpoints separately, and only one of them follows hints.
            local.extend(on_node);
            local.sort_unstable();
            local.dedup();
            ExternalTarget { verdict, backends }
        });
        let node = (external.is_some() || !local.is_empty()).then_some(NodeEndpoints { external, local });
        let mode =
            if is_on_node { Mode::Kernel } else { service.mode_of(key.protocol, self.node_context.mode) };
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
            hold_ms: service.hold_ms.filter(|_| !is_on_node),
            sources,
            mode,
            policy,
            node: node.map(Arc::new),
        }
    }

    fn sources(&mut self, family: Family) -> Option<Arc<[IpNet]>> {
        let (service, node) = (self.service, &self.node_context.node);
        self.sources[family as usize].get_or_insert_with(|| source_ranges(service, family, node)).clone()
    }

    fn target(&mut self, port: usize, family: Family, policy: TrafficPolicy) -> Target {
        let Self { snapshot, service, node_context, .. } = *self;
        let key = (port, family, policy == TrafficPolicy::Local);
        let target = || target(snapshot, service, &service.ports[port], family, (policy, node_context));
        self.targets.entry(key).or_insert_with(target).clone()
    }
}

/// Returns the source ranges with access. If they contain the node's address, a request of the node can have a
/// load-balancer address as its source, so these are added (kube-proxy, nftables/proxier.go `allowFromNode`).
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
    (policy, node_context): (TrafficPolicy, &NodeContext),
) -> Target {
    let node = &node_context.node;
    let endpoints = snapshot.endpoints_of(&service.key, &port.name, port.protocol, family);
    let rule = selection_rule(&endpoints, policy, node);
    let selected =
        || endpoints.iter().filter(|e| endpoint_status(rule, e.endpoint, node) == EndpointStatus::Selected);
    let mut backends: Vec<SocketAddr> = selected().map(|e| e.backend).collect();
    let mut local: Vec<IpAddr> = match node_context.place {
        Place::Pod => Vec::new(),
        Place::Node => selected().filter(|e| is_local(e.endpoint, node)).map(|e| e.backend.ip()).collect(),
    };
    local.dedup();
    let omitted_backends = backends.len().saturating_sub(BACKENDS_MAX);
    backends.truncate(BACKENDS_MAX);
    let verdict = match rule {
        SelectionRule::None => Verdict::Reject,
        SelectionRule::NoneLocal => Verdict::Drop,
        _ => Verdict::Forward,
    };
    Target { verdict, backends: backends.into(), omitted_backends, local }
}
