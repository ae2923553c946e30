//! `PortalLimits`: how much services may put into the table of a pod, and what a portal costs there.
//!
//! The unit is an element of a map or set. What else a portal makes (a chain of its own) is counted as so many
//! elements as it has memory. What must not go in here: who gets what there is; see `admit` and `share`.

use std::ops::{AddAssign, SubAssign};

use ipnet::IpNet;

use super::{Portal, PortalKind, Verdict};
use crate::model::service::{AFFINITY_S_DEFAULT, Mode, Protocol};

/// How much services may put into tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortalLimits {
    /// How many portals one service has at most.
    pub service_portals: usize,
    /// How many elements the services of one namespace make at most.
    pub namespace_elements: usize,
    /// How many elements one table has at most.
    pub table_elements: usize,
    /// How many elements a table on demand has at most before anything is used.
    pub unused_elements: usize,
}

impl PortalLimits {
    /// What the programs take where nothing else is asked for.
    pub const STANDARD: Self = Self {
        service_portals: 1_024,
        namespace_elements: 10_000,
        table_elements: 40_000,
        unused_elements: 40_000,
    };
}

/// No limits.
impl Default for PortalLimits {
    fn default() -> Self {
        Self {
            service_portals: usize::MAX,
            namespace_elements: usize::MAX,
            table_elements: usize::MAX,
            unused_elements: usize::MAX,
        }
    }
}

/// A chain for backends in turn has the memory of so many elements.
pub const ROUND_ROBIN_CHAIN_ELEMENTS: usize = 8;
/// A chain for sticky clients with a time-out of its own has the memory of so many elements.
pub const STICKY_CHAIN_ELEMENTS: usize = 32;

/// A number of elements: of what is always there in a table on demand, and of a full table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cost {
    /// In a full table.
    pub full: usize,
    /// In a table on demand, as long as nothing is used.
    pub unused: usize,
}

impl AddAssign for Cost {
    fn add_assign(&mut self, other: Self) {
        self.full += other.full;
        self.unused += other.unused;
    }
}

impl SubAssign for Cost {
    fn sub_assign(&mut self, other: Self) {
        self.full -= other.full;
        self.unused -= other.unused;
    }
}

impl Portal {
    /// How many elements it makes in a full table, without that of its address.
    #[must_use]
    pub fn elements(&self) -> usize {
        let sources = self.sources.as_ref().map_or(0, |sources| sources.len());
        if self.verdict != Verdict::Forward || self.is_relayed() {
            return 1 + sources;
        }
        let backends = self.backends.len();
        let per_backend = if self.affinity_s.is_some() { 2 } else { 1 };
        let chain = match self.affinity_s {
            None if self.is_round_robin() && backends > 1 => ROUND_ROBIN_CHAIN_ELEMENTS,
            // All that have the usual time-out share a few chains.
            Some(affinity_s) if affinity_s != AFFINITY_S_DEFAULT => STICKY_CHAIN_ELEMENTS,
            _ => 0,
        };
        1 + sources + backends * per_backend + chain
    }

    /// Whether the first connection must meet what all later ones meet, so that no relay can take it: SCTP is not
    /// relayed, and who may use a portal and where sticky clients go is known to the kernel alone.
    #[must_use]
    pub fn is_kernel_only(&self) -> bool {
        let is_sticky = self.mode == Mode::Kernel && self.affinity_s.is_some();
        self.key.protocol == Protocol::Sctp || self.sources.is_some() || is_sticky
    }
}

/// Counts what the portals of one service cost, which come in the order of their ranks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Meter<'a> {
    ranges: &'a [IpNet],
    /// Whether the cluster addresses of the service are always there with all their portals.
    is_special: bool,
    address: Option<std::net::IpAddr>,
}

impl<'a> Meter<'a> {
    pub(super) fn new(ranges: &'a [IpNet], is_special: bool) -> Self {
        Self { ranges, is_special, address: None }
    }

    /// What the next portal costs.
    pub(super) fn cost(&mut self, portal: &Portal) -> Cost {
        let is_cluster_ip = portal.kind == PortalKind::ClusterIp;
        let is_new = is_cluster_ip && self.address.replace(portal.key.address) != Some(portal.key.address);
        let address = usize::from(is_new);
        let full = portal.elements() + address;
        let is_whole = portal.is_kernel_only() || (is_cluster_ip && self.is_special);
        let unused = match () {
            () if is_whole => full,
            () if !self.ranges.iter().any(|net| net.contains(&portal.key.address)) => 1 + address,
            () => 0,
        };
        Cost { full, unused }
    }
}
