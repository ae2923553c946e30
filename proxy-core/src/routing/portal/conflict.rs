//! The conflicts that every node has: addresses, node ports and health-check node ports that several services claim.
//!
//! `Portals` decides which service takes precedence. One component of the cluster can compute the conflicts from the
//! services only, and report each once instead of every node reporting it. Only the portals of services that share an
//! address or a node port are built, so a cluster without conflicts costs one pass over its services. Conflicts between
//! an external address and the address of a node are not part of the result, because they depend on the node.

use std::collections::BTreeMap;
use std::fmt;

use super::{
    ExternalPolicy, NodeContext, Place, PortalKey, PortalKind, PortalLimits, Portals, ServiceFilter,
    ServiceSet,
};
use crate::model::address::Family;
use crate::model::service::{Created, Protocol, Service, ServiceKey};
use crate::model::snapshot::Snapshot;

/// The number of portals of services that share an address or a node port. The check ignores younger services beyond
/// it, to limit its memory to about 10 MB: a tenant can have many such services.
const CONTESTED_PORTALS_MAX: usize = 20_000;

/// A port that services claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ClaimedPort {
    /// A port of an address.
    Address(PortalKey),
    /// A port of every node.
    NodePort(Protocol, u16),
    /// The port at which every node answers the health checks of load balancers.
    HealthCheckNodePort(u16),
}

impl From<PortalKey> for ClaimedPort {
    fn from(key: PortalKey) -> Self {
        if key.is_node_port() { Self::NodePort(key.protocol, key.port) } else { Self::Address(key) }
    }
}

impl fmt::Display for ClaimedPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(key) => key.fmt(f),
            Self::NodePort(protocol, port) => write!(f, "node port {protocol}/{port}"),
            Self::HealthCheckNodePort(port) => write!(f, "health-check node port {port}"),
        }
    }
}

/// The ports that a service claims, and that other services have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortalConflict {
    /// The creation time of the service.
    pub created: Created,
    /// The first of the ports.
    pub port: ClaimedPort,
    /// The service that has the first port.
    pub owner: ServiceKey,
    /// The number of ports in addition to the first.
    pub others: usize,
}

/// The text of a message about the service.
impl fmt::Display for PortalConflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { port, owner, others, .. } = self;
        write!(f, "{port} conflicts with service {owner}, which takes precedence")?;
        match others {
            0 => Ok(()),
            1 => write!(f, "; 1 more conflict"),
            _ => write!(f, "; {others} more conflicts"),
        }
    }
}

/// Returns the conflicts by the service that does not take precedence.
///
/// The snapshot needs no endpoints. Beyond `CONTESTED_PORTALS_MAX`, the result lacks conflicts of younger services.
#[must_use]
pub fn conflicts_on_every_node(
    snapshot: &Snapshot,
    external: &ExternalPolicy,
    limits: PortalLimits,
) -> BTreeMap<ServiceKey, PortalConflict> {
    let mut owners: BTreeMap<&ServiceKey, BTreeMap<ClaimedPort, &ServiceKey>> = BTreeMap::new();
    let portals = contested_portals(snapshot, external, limits);
    // The cluster assigns each cluster address once.
    for (portal, owner) in portals.conflicts().filter(|(portal, _)| portal.kind != PortalKind::ClusterIp) {
        owners.entry(&portal.service).or_default().entry(portal.key.into()).or_insert(&owner.service);
    }
    let mut checks: Vec<(u16, Created, &ServiceKey)> = snapshot
        .services()
        .filter(|service| service.has_portals)
        .filter_map(|service| Some((service.health_check_node_port?, service.created, &service.key)))
        .collect();
    checks.sort_unstable();
    for claims in checks.chunk_by(|left, right| left.0 == right.0) {
        for (port, _, refused) in &claims[1..] {
            owners.entry(refused).or_default().insert(ClaimedPort::HealthCheckNodePort(*port), claims[0].2);
        }
    }
    let conflict = |(service, ports): (&ServiceKey, BTreeMap<ClaimedPort, &ServiceKey>)| {
        let (port, owner) = ports.first_key_value()?;
        let created = snapshot.service(service)?.created;
        let others = ports.len() - 1;
        Some((service.clone(), PortalConflict { created, port: *port, owner: (*owner).clone(), others }))
    };
    owners.into_iter().filter_map(conflict).collect()
}

/// Builds the portals of the services that share an external address or a node port. A node without addresses has the
/// same precedence.
fn contested_portals(snapshot: &Snapshot, external: &ExternalPolicy, limits: PortalLimits) -> Portals {
    let mut left = CONTESTED_PORTALS_MAX;
    let mut fits = |service: &Service| {
        let addresses = service.load_balancer_ips.len() + service.external_ips.len();
        // Each family has a cluster address and the address of node ports.
        let portals = service.ports.len() * (addresses + 2 * Family::BOTH.len());
        left.checked_sub(portals.min(limits.service_portals)).map(|rest| left = rest).is_some()
    };
    let sharing = sharing_services(snapshot).into_values();
    let sharing: ServiceSet =
        sharing.take_while(|service| fits(service)).map(|service| service.key.clone()).collect();
    let keys: Vec<&ServiceKey> = sharing.services().iter().collect();
    let every_node = NodeContext {
        place: Place::Node,
        filter: ServiceFilter::Only(sharing.clone()),
        external: external.clone(),
        limits,
        ..NodeContext::default()
    };
    let mut portals = Portals::default();
    portals.update(snapshot, &every_node, &keys, None);
    portals
}

/// Returns the services with an external address or a node port of another service, the oldest first.
fn sharing_services(snapshot: &Snapshot) -> BTreeMap<(Created, &ServiceKey), &Service> {
    let mut users: BTreeMap<(Protocol, u16), &Service> = BTreeMap::new();
    let mut sharing = BTreeMap::new();
    for service in snapshot.services().filter(|service| service.has_portals) {
        let service: &Service = service;
        let mut addresses = service.load_balancer_ips.iter().chain(&service.external_ips);
        if addresses.any(|address| snapshot.services_with_external_ip(*address).nth(1).is_some()) {
            sharing.insert((service.created, &service.key), service);
        }
        let node_ports = service.ports.iter().filter_map(|port| Some((port.protocol, port.node_port?)));
        for node_port in node_ports {
            let first = *users.entry(node_port).or_insert(service);
            if first.key != service.key {
                sharing.extend([first, service].map(|user| ((user.created, &user.key), user)));
            }
        }
    }
    sharing
}
