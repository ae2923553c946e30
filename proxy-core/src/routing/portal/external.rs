//! `ExternalPolicy`: which external addresses of services become portals.
//!
//! Whoever may write a Service chooses its external addresses, so they are the operator's to allow: an address that
//! is somebody else's would send every pod's connections to the service instead (CVE-2020-8554). What must not go in
//! here: cluster addresses and node ports, which the cluster gives out.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::{PortalKind, RefusalReason};
use crate::model::address::forbidden_external;
use crate::model::snapshot::Snapshot;

/// Which kinds of external addresses become portals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ExternalKinds {
    /// None.
    None,
    /// Those that a load balancer published in the status of its service (the default).
    #[default]
    LoadBalancer,
    /// Those, and `spec.externalIPs`.
    All,
}

/// Which external addresses of services become portals.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ExternalPolicy {
    /// Which kinds.
    pub kinds: ExternalKinds,
    /// In which networks they may be; empty: in any.
    pub cidrs: Arc<[IpNet]>,
}

impl ExternalPolicy {
    /// Every external address that is possible at all.
    #[must_use]
    pub fn all() -> Self {
        Self { kinds: ExternalKinds::All, ..Self::default() }
    }

    /// Why no service may have this external address, if none may.
    #[must_use]
    pub fn refusal(&self, snapshot: &Snapshot, kind: PortalKind, address: IpAddr) -> Option<RefusalReason> {
        let is_allowed = match self.kinds {
            ExternalKinds::None => false,
            ExternalKinds::LoadBalancer => kind == PortalKind::LoadBalancer,
            ExternalKinds::All => true,
        };
        match () {
            () if !is_allowed => Some(RefusalReason::ExternalAddresses),
            () if forbidden_external(address).is_some() => Some(RefusalReason::ForbiddenAddress),
            () if snapshot.owner_of(address).is_some() => Some(RefusalReason::ClusterAddress),
            () if !self.cidrs.is_empty() && !self.cidrs.iter().any(|net| net.contains(&address)) => {
                Some(RefusalReason::ExternalCidrs)
            }
            () => None,
        }
    }
}
