//! `RefusalReason`: why an address and port that a service asks for is not a portal, and how often that happened.
//!
//! What must not go in here: the checks themselves.

use std::fmt;

use serde::Serialize;

use super::{NodeContext, PortalKey, PortalKind, Portals, TableKind};
use crate::model::address::Family;
use crate::model::service::{Service, ServiceKey, ServicePort};
use crate::model::snapshot::Snapshot;

/// Why something that a service asks for is not a portal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum RefusalReason {
    /// The operator does not allow external addresses of this kind.
    ExternalAddresses,
    /// The operator allows external addresses in other networks only.
    ExternalCidrs,
    /// No external address may be this: loopback, link-local, multicast, unspecified.
    ForbiddenAddress,
    /// It is the cluster address of a service.
    ClusterAddress,
    /// An API server listens there.
    ApiServer,
    /// The service has more portals than one service may have.
    ServicePortals,
    /// The services of the namespace need more elements than one namespace may have.
    NamespaceElements,
    /// The namespace needs more than its fair share of a table.
    TableElements,
}

impl RefusalReason {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::ExternalAddresses,
        Self::ExternalCidrs,
        Self::ForbiddenAddress,
        Self::ClusterAddress,
        Self::ApiServer,
        Self::ServicePortals,
        Self::NamespaceElements,
        Self::TableElements,
    ];

    /// The name in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ExternalAddresses => "external-addresses",
            Self::ExternalCidrs => "external-cidrs",
            Self::ForbiddenAddress => "forbidden-address",
            Self::ClusterAddress => "cluster-address",
            Self::ApiServer => "api-server",
            Self::ServicePortals => "service-portals",
            Self::NamespaceElements => "namespace-elements",
            Self::TableElements => "table-elements",
        }
    }

    /// Whether a bound on numbers is the reason.
    #[must_use]
    pub const fn is_bound(self) -> bool {
        matches!(self, Self::ServicePortals | Self::NamespaceElements | Self::TableElements)
    }
}

/// As the end of a sentence about one portal or several.
impl fmt::Display for RefusalReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ExternalAddresses => {
                "external addresses of this kind are not allowed here (--external-addresses)"
            }
            Self::ExternalCidrs => "the address is in none of the allowed networks (--external-cidrs)",
            Self::ForbiddenAddress => {
                "no service may have a loopback, link-local, multicast or unspecified address"
            }
            Self::ClusterAddress => "the address is the cluster address of a service",
            Self::ApiServer => "an API server listens there",
            Self::ServicePortals => "the service has more portals than allowed (--service-portals-max)",
            Self::NamespaceElements => {
                "the namespace needs more elements than allowed (--namespace-elements-max)"
            }
            Self::TableElements => {
                "the namespace needs more than its share of a table (--table-elements-max)"
            }
        })
    }
}

/// How many portals of a service were refused, by reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Refusals([u32; RefusalReason::ALL.len()]);

impl Refusals {
    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// How many were refused for this reason.
    #[must_use]
    pub const fn count(&self, reason: RefusalReason) -> usize {
        self.0[reason as usize] as usize
    }

    /// The reasons that occurred, and how often.
    pub fn iter(&self) -> impl Iterator<Item = (RefusalReason, usize)> {
        RefusalReason::ALL
            .into_iter()
            .map(|reason| (reason, self.count(reason)))
            .filter(|(_, count)| *count > 0)
    }

    pub(super) fn add(&mut self, reason: RefusalReason, count: usize) {
        let own = &mut self.0[reason as usize];
        *own = own.saturating_add(u32::try_from(count).unwrap_or(u32::MAX));
    }
}

impl Portals {
    /// What was refused, by service: beyond the limits of services and namespaces, or not allowed at all.
    pub fn refusals(&self) -> impl Iterator<Item = (&ServiceKey, Refusals)> {
        let all = self.by_service.iter().map(|(key, held)| (key, held.refused));
        all.filter(|(_, refused)| !refused.is_empty())
    }

    /// What was refused of one service.
    #[must_use]
    pub fn refusals_of(&self, service: &ServiceKey) -> Refusals {
        self.by_service.get(service).map(|held| held.refused).unwrap_or_default()
    }

    /// Why a service does not have this portal, if it asks for it in vain.
    #[must_use]
    pub fn refusal(
        &self,
        snapshot: &Snapshot,
        node_context: &NodeContext,
        service: &Service,
        key: PortalKey,
    ) -> Option<RefusalReason> {
        if !service.has_portals || !node_context.filter.includes(&service.key) {
            return None;
        }
        let held = self.by_service.get(&service.key);
        let own = held.and_then(|held| held.portals.iter().find(|portal| portal.key == key));
        if let Some(own) = own {
            return (!self.fits_share(TableKind::Full, own)).then_some(RefusalReason::TableElements);
        }
        service.cluster_ips.of(Family::of(key.address))?;
        let has = |port: fn(&ServicePort) -> Option<u16>| {
            service.ports.iter().any(|own| (own.protocol, port(own)) == (key.protocol, Some(key.port)))
        };
        let kind = match () {
            () if service.cluster_ips.iter().any(|own| own == key.address) => PortalKind::ClusterIp,
            () if service.load_balancer_ips.contains(&key.address) => PortalKind::LoadBalancer,
            () if service.external_ips.contains(&key.address) => PortalKind::ExternalIp,
            () => PortalKind::NodePort,
        };
        let is_asked = match kind {
            PortalKind::NodePort => has(|port| port.node_port),
            _ => has(|port| Some(port.port)),
        };
        let refused = held.map(|held| held.refused).unwrap_or_default();
        let bound = [RefusalReason::ServicePortals, RefusalReason::NamespaceElements];
        let bound = || bound.into_iter().find(|reason| refused.count(*reason) > 0);
        match kind {
            _ if !is_asked => None,
            PortalKind::ClusterIp | PortalKind::NodePort => bound(),
            PortalKind::LoadBalancer | PortalKind::ExternalIp => {
                let outside = node_context.external.refusal(snapshot, kind, key.address);
                let api_server = snapshot.is_api_server(key).then_some(RefusalReason::ApiServer);
                outside.or(api_server).or_else(bound)
            }
        }
    }

    /// How many portals were refused for each reason, with those that are beyond their share of a table.
    #[must_use]
    pub fn refusals_by_reason(&self, table: TableKind) -> Refusals {
        let mut sum = Refusals::default();
        for (reason, count) in self.refusals().flat_map(|(_, refused)| refused.iter().collect::<Vec<_>>()) {
            sum.add(reason, count);
        }
        sum.add(RefusalReason::TableElements, self.beyond_share(table).map(|(_, count)| count).sum());
        sum
    }
}
