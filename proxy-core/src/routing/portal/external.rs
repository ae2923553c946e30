//! `ExternalPolicy`: which external addresses of services become portals.
//!
//! Users with write access to services choose external addresses, so the operator must allow them: connections of all
//! pods to an address of another owner would reach the service (CVE-2020-8554). The cluster itself assigns cluster
//! addresses and node ports.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::{PortalKind, RefusalReason};
use crate::model::address::forbidden_external;
use crate::model::snapshot::Snapshot;

/// The kinds of external addresses that become portals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ExternalKinds {
    /// None.
    None,
    /// Load-balancer addresses in the status of services (the default).
    #[default]
    LoadBalancer,
    /// Load-balancer addresses and `spec.externalIPs`.
    All,
}

/// The rule of the operator that selects external addresses.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ExternalPolicy {
    /// The allowed kinds.
    pub kinds: ExternalKinds,
    /// The CIDRs that must contain the addresses; empty means any.
    pub cidrs: Arc<[IpNet]>,
}

impl ExternalPolicy {
    /// Allows all external addresses.
    #[must_use]
    pub fn all() -> Self {
        Self { kinds: ExternalKinds::All, ..Self::default() }
    }

    /// Returns why an external address does not become a portal.
    #[must_use]
    pub fn refusal(&self, snapshot: &Snapshot, kind: PortalKind, address: IpAddr) -> Option<RefusalReason> {
        let is_allowed = match self.kinds {
            ExternalKinds::None => false,
            ExternalKinds::LoadBalancer => kind == PortalKind::LoadBalancer,
            ExternalKinds::All => true,
        };
        if !is_allowed {
            Some(RefusalReason::ExternalAddresses)
        } else if forbidden_external(address).is_some() {
            Some(RefusalReason::ForbiddenAddress)
        } else if snapshot.owner_of(address).is_some() {
            Some(RefusalReason::ClusterAddress)
        } else if !self.cidrs.is_empty() && !self.cidrs.iter().any(|cidr| cidr.contains(&address)) {
            Some(RefusalReason::ExternalCidrs)
        } else {
            None
        }
    }
}
