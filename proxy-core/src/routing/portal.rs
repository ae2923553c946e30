//! `Portal`: an address and port that lead to a service, as one node's pods see it.
//!
//! `Portals` holds those of all services that a view includes, as many as the limits allow, knows which service wins
//! where two claim the same address and port, and follows a snapshot by the keys that changed. What must not go in
//! here: how the portals of one service are made (`builder`), and who has how many (`admit`, `share`).

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use ipnet::IpNet;
use rpds::RedBlackTreeMapSync as Map;
use serde::{Serialize, Serializer};

use crate::model::node::Node;
use crate::model::service::{Created, Dial, Mode, Protocol, Scheduler, ServiceKey};
use crate::model::snapshot::{ChangedServices, Snapshot};

pub use crate::model::portal_key::PortalKey;
use admit::{Allotment, Held};
pub use every_node::refused_on_every_node;
pub use external::{ExternalKinds, ExternalPolicy};
pub use kind::PortalKind;
pub use limits::{Cost, PortalLimits, ROUND_ROBIN_CHAIN_ELEMENTS, STICKY_CHAIN_ELEMENTS};
pub use refusal::{RefusalReason, Refusals};
pub use service_filter::{ServiceFilter, ServiceSet};
pub use share::TableKind;

/// More backends than this are left out of a portal: the count has 14 bits in the ruleset.
pub const BACKENDS_MAX: usize = (1 << 14) - 1;

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
    pub omitted_backends: usize,
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
    pub fn is_round_robin(&self) -> bool {
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

/// From where portals are seen: they are the same for all pods of a node that share a view.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NodeContext {
    /// The node.
    pub node: Node,
    /// What the pod may see.
    pub filter: ServiceFilter,
    /// How services are reached that do not say it themselves.
    pub mode: Mode,
    /// Which external addresses of services become portals.
    pub external: ExternalPolicy,
    /// How much services may put into tables.
    pub limits: PortalLimits,
}

/// A claim of a service on a portal: of two on the same portal the lesser wins, so an address that a service has is
/// not taken over by one that was created later.
type Claim = (PortalKey, PortalKind, Created, ServiceKey);

/// The portals of all services in view.
#[derive(Debug, Clone, Default)]
pub struct Portals {
    by_service: Map<ServiceKey, Held>,
    /// Who claims which portal, and where in the service's list it stands.
    claims: Map<Claim, usize>,
    service_ranges: Arc<[IpNet]>,
    namespaces: Map<Arc<str>, Allotment>,
    /// What the portals of all namespaces cost.
    total: Cost,
    /// How many elements each namespace has at least, where a table has no room for all; see `TableKind`.
    levels: [Option<usize>; 2],
}

/// The portals that may differ after a change.
pub type ChangedPortals = BTreeSet<PortalKey>;

/// The portals of every service, as seen from this node_context.
#[must_use]
pub fn portals(snapshot: &Snapshot, node_context: &NodeContext) -> Portals {
    let mut portals = Portals { service_ranges: snapshot.service_ranges().into(), ..Portals::default() };
    let keys: Vec<&ServiceKey> = snapshot.services().map(|service| &service.key).collect();
    portals.follow(snapshot, node_context, &keys, None);
    portals
}

impl Portals {
    /// Follows the snapshot by the services that changed, and says which portals may differ now.
    pub fn refresh(
        &mut self,
        snapshot: &Snapshot,
        node_context: &NodeContext,
        changed: &ChangedServices,
    ) -> ChangedPortals {
        let mut touched = ChangedPortals::new();
        if *self.service_ranges == *snapshot.service_ranges() {
            let keys: Vec<&ServiceKey> = changed.iter().collect();
            self.follow(snapshot, node_context, &keys, Some(&mut touched));
            return touched;
        }
        // What an unused portal costs depends on the ranges.
        self.service_ranges = snapshot.service_ranges().into();
        let known: ChangedServices = self.by_service.keys().cloned().collect();
        let all: BTreeSet<&ServiceKey> = known.iter().chain(changed).collect();
        self.follow(snapshot, node_context, &all.into_iter().collect::<Vec<_>>(), Some(&mut touched));
        touched
    }

    /// Follows services in the order of their keys.
    fn follow(
        &mut self,
        snapshot: &Snapshot,
        node_context: &NodeContext,
        changed: &[&ServiceKey],
        mut touched: Option<&mut ChangedPortals>,
    ) {
        let mut namespaces = BTreeSet::new();
        for services in changed.chunk_by(|one, other| one.namespace == other.namespace) {
            self.follow_namespace(snapshot, node_context, services, touched.as_deref_mut());
            namespaces.extend(services.first().map(|first| first.namespace.clone()));
        }
        self.share_out(node_context.limits, &namespaces, touched);
    }

    /// The portal that is in force for this address, protocol and port.
    #[must_use]
    pub fn get(&self, key: PortalKey) -> Option<&Portal> {
        self.claims_on(key).next()
    }

    /// All claims on this portal, the winner first.
    pub fn claims_on(&self, key: PortalKey) -> impl Iterator<Item = &Portal> {
        let from: Claim = (key, PortalKind::ClusterIp, Created::FIRST, ServiceKey::default());
        self.claims
            .range(from..)
            .take_while(move |((found, ..), _)| *found == key)
            .filter_map(|((.., service), place)| self.by_service.get(service)?.portals.get(*place))
    }

    /// All portals, service by service, also those that another service's claim puts out of force.
    pub fn by_service(&self) -> impl Iterator<Item = &Portal> {
        self.by_service.values().flat_map(|held| held.portals.iter())
    }

    /// The ranges of service addresses: what is in them and belongs to no service goes nowhere.
    #[must_use]
    pub fn service_ranges(&self) -> &[IpNet] {
        &self.service_ranges
    }
}

mod admit;
mod builder;
mod every_node;
mod external;
mod kind;
mod limits;
mod precedence;
mod refusal;
mod service_filter;
mod share;
#[cfg(test)]
mod tests;
