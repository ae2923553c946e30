//! `Portal`: an address and port that lead to a service, as one node's pods see it.
//!
//! `service_portals` gives the portals of one service; `Portals` holds those of all services that a view
//! sees, knows which service wins where two claim the same address and port, and follows a snapshot by
//! the keys that changed. A pod always takes the short way: external addresses lead to the same endpoints
//! as for any client inside the cluster, whatever `externalTrafficPolicy` says (that is for traffic that
//! arrives at a node from outside).

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;
use rpds::RedBlackTreeMapSync as Map;
use serde::{Serialize, Serializer};

use crate::address::Family;
use crate::node::Node;
use crate::select::{Choice, Fate, choice, fate};
use crate::service::{Dial, Mode, Protocol, Scheduler, Service, ServiceKey, ServicePort, TrafficPolicy};
use crate::snapshot::{Changed, Snapshot};

pub use kind::PortalKind;

/// More backends than this are left out of a portal: the count has 14 bits in the ruleset.
pub const BACKENDS_MAX: usize = (1 << 14) - 1;

/// What the kernel looks at: destination address, protocol and port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct PortalKey {
    /// The destination address.
    pub address: IpAddr,
    /// The protocol.
    pub protocol: Protocol,
    /// The destination port.
    pub port: u16,
}

impl fmt::Display for PortalKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.address, self.protocol, self.port)
    }
}

/// What happens to a connection to a portal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It is sent to a backend.
    Forward,
    /// It is refused at once: the service has no endpoint.
    Reject,
    /// It is dropped: the service has endpoints, but its policy forbids those.
    Drop,
}

impl Verdict {
    /// The name in output.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::Reject => "reject",
            Self::Drop => "drop",
        }
    }
}

/// An address and port that lead to a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Portal {
    /// The service.
    #[serde(flatten, serialize_with = "service_fields")]
    pub service: ServiceKey,
    /// The name of the service port; empty where it has none.
    pub port_name: Arc<str>,
    /// The address, protocol and port.
    #[serde(flatten)]
    pub key: PortalKey,
    /// Where the address comes from.
    pub kind: PortalKind,
    /// What happens to a connection.
    pub verdict: Verdict,
    /// Where connections are sent, sorted.
    pub backends: Arc<[SocketAddr]>,
    /// How many backends `BACKENDS_MAX` left out.
    #[serde(skip)]
    pub left_out: usize,
    /// For how many seconds a client stays with its backend.
    #[serde(skip)]
    pub affinity_s: Option<u32>,
    /// How a backend is chosen, unless affinity has chosen it already.
    #[serde(skip)]
    pub scheduler: Option<Scheduler>,
    /// From where the relay opens connections.
    #[serde(skip)]
    pub dial: Dial,
    /// For how many milliseconds a connection waits for a first backend.
    #[serde(skip)]
    pub hold_ms: Option<u32>,
    /// Who may use it, where not everyone may.
    #[serde(skip)]
    pub sources: Option<Arc<[IpNet]>>,
    /// How a backend is reached.
    #[serde(skip)]
    pub mode: Mode,
}

impl Portal {
    /// Whether the kernel gives connections to the backends in turn. Affinity comes first: who has a backend
    /// stays with it.
    #[must_use]
    pub fn is_in_turn(&self) -> bool {
        let by_kernel = self.mode == Mode::Kernel && self.affinity_s.is_none();
        by_kernel && self.scheduler == Some(Scheduler::RoundRobin)
    }

    /// Whether connections to it go to the relay: its mode says so, or they wait there for a first backend.
    #[must_use]
    pub fn is_relayed(&self) -> bool {
        match self.verdict {
            Verdict::Forward => self.mode == Mode::Relay,
            // Nothing in user space holds SCTP.
            Verdict::Reject => self.hold_ms.is_some() && self.key.protocol != Protocol::Sctp,
            Verdict::Drop => false,
        }
    }
}

fn service_fields<S: Serializer>(key: &ServiceKey, serializer: S) -> Result<S::Ok, S::Error> {
    use serde::ser::SerializeMap;
    let mut map = serializer.serialize_map(Some(2))?;
    map.serialize_entry("namespace", &key.namespace)?;
    map.serialize_entry("service", &key.name)?;
    map.end()
}

/// What a pod may see. The address of a service that it may not see is like any other address: it passes,
/// or, in a known service range, leads nowhere.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum View {
    /// Every service (the default).
    #[default]
    All,
    /// These services only.
    Only(BTreeSet<ServiceKey>),
}

impl View {
    /// Whether this service is in view.
    #[must_use]
    pub fn sees(&self, service: &ServiceKey) -> bool {
        match self {
            Self::All => true,
            Self::Only(services) => services.contains(service),
        }
    }
}

/// From where portals are seen: they are the same for all pods of a node that share a view.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Standpoint {
    /// The node.
    pub node: Node,
    /// What the pod may see.
    pub view: View,
    /// How services are reached that do not say it themselves.
    pub mode: Mode,
}

/// The portals of one service, sorted by address, protocol and port.
#[must_use]
pub fn service_portals(snapshot: &Snapshot, service: &Service, standpoint: &Standpoint) -> Vec<Portal> {
    let mut portals = Vec::new();
    if !service.has_portals || !standpoint.view.sees(&service.key) {
        return portals;
    }
    for family in Family::BOTH {
        let Some(cluster_ip) = service.cluster_ips.of(family) else { continue };
        let sources = source_ranges(service, family, &standpoint.node);
        for port in &service.ports {
            let maker = Maker { snapshot, service, standpoint, port, family };
            portals.extend(maker.portals(cluster_ip, sources.as_ref()));
        }
    }
    portals.sort_by_key(|portal| (portal.key, portal.kind));
    // One service may name an address twice, as load balancer and as external address: the first kind
    // stands, as it does between services.
    portals.dedup_by_key(|portal| portal.key);
    portals
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

/// Makes the portals of one port in one family; endpoints are chosen once per policy.
struct Maker<'a> {
    snapshot: &'a Snapshot,
    service: &'a Service,
    standpoint: &'a Standpoint,
    port: &'a ServicePort,
    family: Family,
}

impl Maker<'_> {
    fn portals(&self, cluster_ip: IpAddr, sources: Option<&Arc<[IpNet]>>) -> Vec<Portal> {
        let (service, port, family) = (self.service, self.port, self.family);
        let of_family = |addresses: &[IpAddr]| -> Vec<IpAddr> {
            addresses.iter().copied().filter(|address| Family::of(*address) == family).collect()
        };
        let internal = self.target(service.internal_policy);
        let mut portals = vec![self.portal(PortalKind::ClusterIp, cluster_ip, port.port, &internal, None)];
        let node_port = port.node_port.zip(self.standpoint.node.primary(family));
        let (external, balanced) = (of_family(&service.external_ips), of_family(&service.load_balancer_ips));
        if external.is_empty() && balanced.is_empty() && node_port.is_none() {
            return portals;
        }
        let cluster = match service.internal_policy {
            TrafficPolicy::Cluster => internal,
            TrafficPolicy::Local => self.target(TrafficPolicy::Cluster),
        };
        for address in balanced {
            portals.push(self.portal(PortalKind::LoadBalancer, address, port.port, &cluster, sources));
        }
        for address in external {
            portals.push(self.portal(PortalKind::ExternalIp, address, port.port, &cluster, None));
        }
        if let Some((node_port, address)) = node_port {
            portals.push(self.portal(PortalKind::NodePort, address, node_port, &cluster, None));
        }
        portals
    }

    fn portal(
        &self,
        kind: PortalKind,
        address: IpAddr,
        port: u16,
        target: &Target,
        sources: Option<&Arc<[IpNet]>>,
    ) -> Portal {
        Portal {
            service: self.service.key.clone(),
            port_name: self.port.name.clone(),
            key: PortalKey { address, protocol: self.port.protocol, port },
            kind,
            verdict: target.verdict,
            backends: target.backends.clone(),
            left_out: target.left_out,
            affinity_s: self.service.affinity_s,
            scheduler: self.service.scheduler,
            dial: self.service.dial,
            hold_ms: self.service.hold_ms,
            sources: sources.cloned(),
            mode: self.service.mode_of(self.port.protocol, self.standpoint.mode),
        }
    }

    fn target(&self, policy: TrafficPolicy) -> Target {
        let ServicePort { name, protocol, .. } = self.port;
        let endpoints = self.snapshot.endpoints_of(&self.service.key, name, *protocol, self.family);
        let node = &self.standpoint.node;
        let choice = choice(&endpoints, policy, node);
        let chosen = endpoints.iter().filter(|e| fate(choice, e.endpoint, node) == Fate::Chosen);
        let mut backends: Vec<SocketAddr> = chosen.map(|e| e.backend).collect();
        let left_out = backends.len().saturating_sub(BACKENDS_MAX);
        backends.truncate(BACKENDS_MAX);
        let verdict = match choice {
            Choice::None => Verdict::Reject,
            Choice::NoneLocal => Verdict::Drop,
            _ => Verdict::Forward,
        };
        Target { verdict, backends: backends.into(), left_out }
    }
}

/// Where a policy leads.
struct Target {
    verdict: Verdict,
    backends: Arc<[SocketAddr]>,
    left_out: usize,
}

/// A claim of a service on a portal: of two on the same portal, the lesser wins.
type Claim = (PortalKey, PortalKind, ServiceKey);

/// The portals of all services in view.
#[derive(Debug, Clone, Default)]
pub struct Portals {
    by_service: Map<ServiceKey, Arc<[Portal]>>,
    /// Who claims which portal, and where in the service's list it stands.
    claims: Map<Claim, usize>,
    service_ranges: Arc<[IpNet]>,
}

/// The portals that may differ after a change.
pub type Touched = BTreeSet<PortalKey>;

/// The portals of every service, as seen from this standpoint.
#[must_use]
pub fn portals(snapshot: &Snapshot, standpoint: &Standpoint) -> Portals {
    let mut portals = Portals { service_ranges: snapshot.service_ranges().into(), ..Portals::default() };
    for service in snapshot.services() {
        let new = service_portals(snapshot, service, standpoint);
        portals.replace(&service.key, &[], new.into());
    }
    portals
}

impl Portals {
    /// Follows the snapshot by the services that changed, and says which portals may differ now.
    pub fn refresh(&mut self, snapshot: &Snapshot, standpoint: &Standpoint, changed: &Changed) -> Touched {
        if *self.service_ranges != *snapshot.service_ranges() {
            self.service_ranges = snapshot.service_ranges().into();
        }
        let mut touched = Touched::new();
        for key in changed {
            let old = self.by_service.get(key).cloned().unwrap_or_default();
            let service = snapshot.service(key);
            let new =
                service.map(|service| service_portals(snapshot, service, standpoint)).unwrap_or_default();
            touched.extend(old.iter().filter(|portal| !new.contains(portal)).map(|portal| portal.key));
            touched.extend(new.iter().filter(|portal| !old.contains(portal)).map(|portal| portal.key));
            self.replace(key, &old, new.into());
        }
        touched
    }

    fn replace(&mut self, key: &ServiceKey, old: &[Portal], new: Arc<[Portal]>) {
        let claim = |portal: &Portal| (portal.key, portal.kind, key.clone());
        for portal in old {
            self.claims.remove_mut(&claim(portal));
        }
        for (place, portal) in new.iter().enumerate() {
            self.claims.insert_mut(claim(portal), place);
        }
        if new.is_empty() {
            self.by_service.remove_mut(key);
        } else {
            self.by_service.insert_mut(key.clone(), new);
        }
    }

    /// The portal that is in force for this address, protocol and port.
    #[must_use]
    pub fn get(&self, key: PortalKey) -> Option<&Portal> {
        self.claims_on(key).next()
    }

    /// All claims on this portal, the winner first.
    pub fn claims_on(&self, key: PortalKey) -> impl Iterator<Item = &Portal> {
        let from: Claim = (key, PortalKind::ClusterIp, ServiceKey::default());
        self.claims
            .range(from..)
            .take_while(move |((found, ..), _)| *found == key)
            .filter_map(|((_, _, service), place)| self.by_service.get(service)?.get(*place))
    }

    /// All portals, service by service, also those that another service's claim puts out of force.
    pub fn by_service(&self) -> impl Iterator<Item = &Portal> {
        self.by_service.values().flat_map(|portals| portals.iter())
    }

    /// The ranges of service addresses: what is in them and belongs to no service goes nowhere.
    #[must_use]
    pub fn service_ranges(&self) -> &[IpNet] {
        &self.service_ranges
    }
}

mod in_force;
mod kind;
#[cfg(test)]
mod tests;
