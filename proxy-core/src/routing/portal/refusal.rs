//! `RefusalReason`: why a requested address and port is not a portal, and the number of refusals by reason.

use std::fmt;

use serde::Serialize;

use super::{NodeContext, PortalKey, PortalKind, Portals, TableKind};
use crate::model::address::Family;
use crate::model::service::{Service, ServiceKey, ServicePort};
use crate::model::snapshot::Snapshot;

/// Why a requested address and port is not a portal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum RefusalReason {
    /// The operator does not allow this kind of external addresses.
    ExternalAddresses,
    /// The operator allows external addresses only in other CIDRs.
    ExternalCidrs,
    /// The address is loopback, link-local, multicast or unspecified.
    ForbiddenAddress,
    /// The address is the cluster address of a service.
    ClusterAddress,
    /// It is the address and port of an API server.
    ApiServer,
    /// The service exceeds the limit of portals.
    ServicePortals,
    /// The namespace exceeds the limit of elements.
    NamespaceElements,
    /// The namespace exceeds its share of a table.
    TableElements,
}

impl RefusalReason {
    /// All reasons.
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
}

/// The text follows "refused: " in a message about one or more portals.
impl fmt::Display for RefusalReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ExternalAddresses => {
                "external addresses of this kind are not allowed (--external-addresses)"
            }
            Self::ExternalCidrs => "the address is not in an allowed CIDR (--external-cidrs)",
            Self::ForbiddenAddress => {
                "loopback, link-local, multicast and unspecified addresses are not allowed"
            }
            Self::ClusterAddress => "the address is the cluster address of a service",
            Self::ApiServer => "it is the address and port of an API server",
            Self::ServicePortals => "the service exceeds the limit of portals (--service-portals-max)",
            Self::NamespaceElements => {
                "the namespace exceeds the limit of elements (--namespace-elements-max)"
            }
            Self::TableElements => "the namespace exceeds its share of a table (--table-elements-max)",
        })
    }
}

/// The number of refused portals, by reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Refusals([u32; RefusalReason::ALL.len()]);

impl Refusals {
    /// Whether no portal was refused.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Returns the number of portals that were refused for a reason.
    #[must_use]
    pub const fn count(&self, reason: RefusalReason) -> usize {
        self.0[reason as usize] as usize
    }

    /// Returns the reasons of refusals with their numbers.
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
    /// Returns the refusals by service, without those of `TableElements`.
    pub fn refusals(&self) -> impl Iterator<Item = (&ServiceKey, Refusals)> {
        let all = self.by_service.iter().map(|(key, admitted)| (key, admitted.refused));
        all.filter(|(_, refused)| !refused.is_empty())
    }

    /// Returns the refusals of a service, without those of `TableElements`.
    #[must_use]
    pub fn refusals_of(&self, service: &ServiceKey) -> Refusals {
        self.by_service.get(service).map(|admitted| admitted.refused).unwrap_or_default()
    }

    /// Returns why a service does not have a portal that it requests.
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
        let admitted = self.by_service.get(&service.key);
        let own = admitted.and_then(|admitted| admitted.portals.iter().find(|portal| portal.key == key));
        if let Some(own) = own {
            return (!self.fits_share(TableKind::Full, own)).then_some(RefusalReason::TableElements);
        }
        service.cluster_ips.of(Family::of(key.address))?;
        let has = |port: fn(&ServicePort) -> Option<u16>| {
            service.ports.iter().any(|own| (own.protocol, port(own)) == (key.protocol, Some(key.port)))
        };
        let kind = if service.cluster_ips.iter().any(|own| own == key.address) {
            PortalKind::ClusterIp
        } else if service.load_balancer_ips.contains(&key.address) {
            PortalKind::LoadBalancer
        } else if service.external_ips.contains(&key.address) {
            PortalKind::ExternalIp
        } else {
            PortalKind::NodePort
        };
        let is_requested = match kind {
            PortalKind::NodePort => has(|port| port.node_port),
            _ => has(|port| Some(port.port)),
        };
        let refused = admitted.map(|admitted| admitted.refused).unwrap_or_default();
        let limits = [RefusalReason::ServicePortals, RefusalReason::NamespaceElements];
        let limit = || limits.into_iter().find(|reason| refused.count(*reason) > 0);
        match kind {
            _ if !is_requested => None,
            PortalKind::ClusterIp | PortalKind::NodePort => limit(),
            PortalKind::LoadBalancer | PortalKind::ExternalIp => {
                let policy = node_context.external.refusal(snapshot, kind, key.address);
                let api_server = snapshot.is_api_server(key).then_some(RefusalReason::ApiServer);
                policy.or(api_server).or_else(limit)
            }
        }
    }

    /// Returns all refusals, including those of a table.
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
