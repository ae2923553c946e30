//! `PortalLimits`: how many portals and elements services can have, and the cost of a portal.
//!
//! The unit of cost is an element of a map or set. A chain of a portal's own counts as many elements as take the same
//! memory. `admit` and `share` distribute the elements.

use std::ops::{AddAssign, SubAssign};

use ipnet::IpNet;

use super::{Portal, PortalKind, Verdict};
use crate::model::service::{AFFINITY_S_DEFAULT, Mode, Protocol};

/// The limits of portals and elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortalLimits {
    /// The maximum number of portals of a service.
    pub service_portals: usize,
    /// The maximum number of elements of the services of a namespace.
    pub namespace_elements: usize,
    /// The maximum number of elements of a full table.
    pub table_elements: usize,
    /// The maximum number of elements of an on-demand table without active portals.
    pub unused_elements: usize,
}

impl PortalLimits {
    /// The default of the command line.
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

/// The cost of a round-robin chain: the number of elements with the same memory.
pub const ROUND_ROBIN_CHAIN_ELEMENTS: usize = 8;
/// The cost of a chain for session affinity with a timeout other than the default.
pub const STICKY_CHAIN_ELEMENTS: usize = 32;

/// The cost of portals, in elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cost {
    /// In a full table.
    pub full: usize,
    /// In an on-demand table without active portals.
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
    /// Returns the number of its elements in a full table, without that of its address.
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
            // Portals with the default timeout share a few chains.
            Some(affinity_s) if affinity_s != AFFINITY_S_DEFAULT => STICKY_CHAIN_ELEMENTS,
            _ => 0,
        };
        1 + sources + backends * per_backend + chain
    }

    /// Whether the relay cannot serve the first connection as the kernel serves later ones: the relay does not support
    /// SCTP, and only the kernel knows source ranges and the clients of session affinity.
    #[must_use]
    pub fn is_kernel_only(&self) -> bool {
        let is_sticky = self.mode == Mode::Kernel && self.affinity_s.is_some();
        self.key.protocol == Protocol::Sctp || self.sources.is_some() || is_sticky
    }
}

/// Computes the cost of the portals of one service, in the order of their ranks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Meter<'a> {
    ranges: &'a [IpNet],
    /// Whether the cluster addresses of the service are pinned in on-demand tables, with all their portals.
    needs_kernel: bool,
    address: Option<std::net::IpAddr>,
}

impl<'a> Meter<'a> {
    pub(super) fn new(ranges: &'a [IpNet], needs_kernel: bool) -> Self {
        Self { ranges, needs_kernel, address: None }
    }

    /// Returns the cost of the next portal.
    pub(super) fn cost(&mut self, portal: &Portal) -> Cost {
        let is_cluster_ip = portal.kind == PortalKind::ClusterIp;
        let is_new = is_cluster_ip && self.address.replace(portal.key.address) != Some(portal.key.address);
        let address = usize::from(is_new);
        let full = portal.elements() + address;
        let is_pinned = portal.is_kernel_only() || (is_cluster_ip && self.needs_kernel);
        let unused = if is_pinned {
            full
        } else if self.ranges.iter().any(|range| range.contains(&portal.key.address)) {
            0
        } else {
            1 + address
        };
        Cost { full, unused }
    }
}
