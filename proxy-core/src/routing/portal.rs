//! `Portal`: an address and port at which a service is reached, for the pods of a node.
//!
//! `Portals` contains the portals of all services that a filter includes, within the limits. It determines which
//! service takes precedence if two claim the same address and port, and it is updated by the keys of changed services.
//! `builder` computes the portals of a service, and `admit` and `share` apply the limits.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use ipnet::IpNet;
use rpds::RedBlackTreeMapSync as Map;
use serde::{Serialize, Serializer};

use crate::model::node::Node;
use crate::model::service::{Created, Dial, Mode, Protocol, Scheduler, ServiceKey, TrafficPolicy};
use crate::model::snapshot::{ChangedServices, Snapshot};

pub use crate::model::portal_key::PortalKey;
use admit::{AdmittedService, NamespaceUsage};
pub use conflict::{ClaimedPort, PortalConflict, conflicts_on_every_node};
pub use every_node::refused_on_every_node;
pub use external::{ExternalKinds, ExternalPolicy};
pub use kind::PortalKind;
pub use limits::{Cost, PortalLimits, ROUND_ROBIN_CHAIN_ELEMENTS, STICKY_CHAIN_ELEMENTS};
pub use place::{ExternalTarget, NodeEndpoints, Place, node_port_address};
pub use refusal::{RefusalReason, Refusals};
pub use service_filter::{ServiceFilter, ServiceSet};
pub use share::TableKind;

/// The maximum number of backends of a portal: the count has 14 bits in the ruleset. More backends are omitted.
pub const BACKENDS_MAX: usize = (1 << 14) - 1;

/// What happens to a connection to a portal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It is forwarded to a backend.
    Forward,
    /// It is rejected immediately: the service has no endpoint.
    Reject,
    /// It is dropped: the service has endpoints, but its traffic policy excludes them.
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

/// An address and port at which a service is reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Portal {
    /// The service.
    #[serde(flatten, serialize_with = "service_fields")]
    pub service: ServiceKey,
    /// The name of the service port; empty if it has none.
    pub port_name: Arc<str>,
    /// The address, protocol and port.
    #[serde(flatten)]
    pub key: PortalKey,
    /// The kind of the address.
    pub kind: PortalKind,
    /// What happens to a connection.
    pub verdict: Verdict,
    /// The backends, sorted.
    pub backends: Arc<[SocketAddr]>,
    /// The number of backends that were omitted because of `BACKENDS_MAX`.
    #[serde(skip)]
    pub omitted_backends: usize,
    /// The timeout of session affinity, in seconds.
    #[serde(skip)]
    pub affinity_s: Option<u32>,
    /// The scheduler, for clients without an affinity entry.
    #[serde(skip)]
    pub scheduler: Option<Scheduler>,
    /// The network namespace from which the relay connects.
    #[serde(skip)]
    pub dial: Dial,
    /// How long a connection waits for a first backend, in milliseconds.
    #[serde(skip)]
    pub hold_ms: Option<u32>,
    /// The source ranges with access; `None` means all.
    #[serde(skip)]
    pub sources: Option<Arc<[IpNet]>>,
    /// Whether the kernel or the relay forwards connections.
    #[serde(skip)]
    pub mode: Mode,
    /// The traffic policy that selected the backends.
    #[serde(skip)]
    pub policy: TrafficPolicy,
    /// What the portal has only on the node; `None` in pods, and if there is nothing.
    #[serde(skip)]
    pub node: Option<Arc<NodeEndpoints>>,
}

impl Portal {
    /// Whether the kernel selects backends by strict round robin. Session affinity takes precedence.
    #[must_use]
    pub fn is_round_robin(&self) -> bool {
        let by_kernel = self.mode == Mode::Kernel && self.affinity_s.is_none();
        by_kernel && self.scheduler == Some(Scheduler::RoundRobin)
    }

    /// Whether connections are redirected to the relay: because of the mode, or to wait for a first backend.
    #[must_use]
    pub fn is_relayed(&self) -> bool {
        match self.verdict {
            Verdict::Forward => self.mode == Mode::Relay,
            // The relay does not support SCTP.
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

/// What portals depend on in addition to the snapshot. They are equal for all pods of a node with the same filter.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NodeContext {
    /// The node.
    pub node: Node,
    /// Whether the portals are those of a pod or of the node itself.
    pub place: Place,
    /// The services that are visible to the pod.
    pub filter: ServiceFilter,
    /// The mode of services without one.
    pub mode: Mode,
    /// The external addresses that become portals.
    pub external: ExternalPolicy,
    /// The limits of portals and elements.
    pub limits: PortalLimits,
}

/// A service's claim to a portal. The least claim takes precedence, so a service cannot take over the address of one
/// that was created earlier.
type Claim = (PortalKey, PortalKind, Created, ServiceKey);

/// The portals of all visible services.
#[derive(Debug, Clone, Default)]
pub struct Portals {
    by_service: Map<ServiceKey, AdmittedService>,
    /// The index of each claimed portal in the list of its service.
    claims: Map<Claim, usize>,
    service_ranges: Arc<[IpNet]>,
    namespaces: Map<Arc<str>, NamespaceUsage>,
    /// The cost of all portals.
    total: Cost,
    /// By `TableKind`: the number of elements that each namespace is guaranteed, if they do not all fit into the table.
    levels: [Option<usize>; 2],
}

/// The portals that can differ after a change.
pub type ChangedPortals = BTreeSet<PortalKey>;

/// Computes the portals of all services.
#[must_use]
pub fn portals(snapshot: &Snapshot, node_context: &NodeContext) -> Portals {
    let mut portals = Portals { service_ranges: snapshot.service_ranges().into(), ..Portals::default() };
    let keys: Vec<&ServiceKey> = snapshot.services().map(|service| &service.key).collect();
    portals.update(snapshot, node_context, &keys, None);
    portals
}

impl Portals {
    /// Updates the portals of changed services, and returns the portals that can differ now.
    pub fn refresh(
        &mut self,
        snapshot: &Snapshot,
        node_context: &NodeContext,
        changed: &ChangedServices,
    ) -> ChangedPortals {
        let mut differing = ChangedPortals::new();
        if *self.service_ranges == *snapshot.service_ranges() {
            let keys: Vec<&ServiceKey> = changed.iter().collect();
            self.update(snapshot, node_context, &keys, Some(&mut differing));
            return differing;
        }
        // The cost of an unused portal depends on the service ranges.
        self.service_ranges = snapshot.service_ranges().into();
        let known: ChangedServices = self.by_service.keys().cloned().collect();
        let all: BTreeSet<&ServiceKey> = known.iter().chain(changed).collect();
        self.update(snapshot, node_context, &all.into_iter().collect::<Vec<_>>(), Some(&mut differing));
        differing
    }

    /// Updates services, which are in the order of their keys.
    fn update(
        &mut self,
        snapshot: &Snapshot,
        node_context: &NodeContext,
        changed: &[&ServiceKey],
        mut differing: Option<&mut ChangedPortals>,
    ) {
        let mut namespaces = BTreeSet::new();
        for services in changed.chunk_by(|left, right| left.namespace == right.namespace) {
            self.update_namespace(snapshot, node_context, services, differing.as_deref_mut());
            namespaces.extend(services.first().map(|first| first.namespace.clone()));
        }
        self.update_shares(node_context.limits, &namespaces, differing);
    }

    /// Returns the portal of the service that takes precedence.
    #[must_use]
    pub fn get(&self, key: PortalKey) -> Option<&Portal> {
        self.claims_on(key).next()
    }

    /// Returns the portals of all services that claim a key, in the order of precedence.
    pub fn claims_on(&self, key: PortalKey) -> impl Iterator<Item = &Portal> {
        let from: Claim = (key, PortalKind::ClusterIp, Created::FIRST, ServiceKey::default());
        self.claims
            .range(from..)
            .take_while(move |((found, ..), _)| *found == key)
            .filter_map(|((.., service), index)| self.by_service.get(service)?.portals.get(*index))
    }

    /// Returns each portal that another service has, with that service's portal. It looks each portal up.
    pub fn conflicts(&self) -> impl Iterator<Item = (&Portal, &Portal)> {
        self.by_service().filter_map(|portal| {
            let owner = self.get(portal.key).filter(|owner| owner.service != portal.service)?;
            Some((portal, owner))
        })
    }

    /// Returns the number of claims. It exceeds the number of keys if services claim the same portal.
    #[must_use]
    pub fn claim_count(&self) -> usize {
        self.claims.size()
    }

    /// Returns all portals by service, including those of services without precedence.
    pub fn by_service(&self) -> impl Iterator<Item = &Portal> {
        self.by_service.values().flat_map(|service| service.portals.iter())
    }

    /// Returns the service ranges, in which addresses without a service are rejected.
    #[must_use]
    pub fn service_ranges(&self) -> &[IpNet] {
        &self.service_ranges
    }
}

mod admit;
mod builder;
mod conflict;
mod every_node;
mod external;
mod kind;
mod limits;
mod place;
mod precedence;
mod refusal;
mod service_filter;
mod share;
#[cfg(test)]
mod tests;
