//! `NodeSettings` and `NodeEnvironment`: what the node's table depends on in addition to portals.
//!
//! A change of the settings replaces the table. A change of the environment changes elements of sets.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::model::address::Family;
use crate::model::guest::InterfacePattern;

/// The settings of the node's table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct NodeSettings {
    /// The priority of the NAT chains at prerouting and output; -101 is before kube-proxy's.
    pub nat_priority: i32,
    /// The port of the listener on the loopback addresses that serves node ports there; 0 if there is no listener.
    pub loopback_port: u16,
    /// The families in which `NodeEnvironment` describes pods, so that other clients of cluster addresses are
    /// masqueraded.
    pub detects_pods: PodDetection,
    /// Whether pods, too, are masqueraded as clients of cluster addresses.
    pub masquerade_all: bool,
    /// Whether clients of external addresses keep their address if the selected endpoint is on this node. kube-proxy
    /// masquerades them.
    pub keep_client_address: bool,
}

impl Default for NodeSettings {
    fn default() -> Self {
        Self {
            nat_priority: -101,
            loopback_port: 0,
            detects_pods: PodDetection::NONE,
            masquerade_all: false,
            keep_client_address: false,
        }
    }
}

/// The address families in which pods are detected, as kube-proxy has a detector of each family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PodDetection {
    /// Whether pods are detected in IPv4.
    pub v4: bool,
    /// Whether pods are detected in IPv6.
    pub v6: bool,
}

impl PodDetection {
    /// No pod is detected.
    pub const NONE: Self = Self { v4: false, v6: false };
    /// Pods are detected in both families.
    pub const BOTH: Self = Self { v4: true, v6: true };

    /// Returns the families of the addresses of pods; an interface is in both families.
    #[must_use]
    pub fn of(NodeEnvironment { pod_ranges, pod_interfaces, .. }: &NodeEnvironment) -> Self {
        let is_detected = |family| {
            !pod_interfaces.is_empty() || pod_ranges.iter().any(|range| Family::of_net(range) == family)
        };
        Self { v4: is_detected(Family::V4), v6: is_detected(Family::V6) }
    }

    /// Whether pods are detected in a family.
    #[must_use]
    pub const fn in_family(self, family: Family) -> bool {
        match family {
            Family::V4 => self.v4,
            Family::V6 => self.v6,
        }
    }
}

/// The addresses and interfaces of the node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeEnvironment {
    /// The addresses of the node on which node ports are served.
    pub addresses: Arc<BTreeSet<IpAddr>>,
    /// The addresses of pods: connections to cluster addresses from other clients are masqueraded.
    pub pod_ranges: Arc<BTreeSet<IpNet>>,
    /// The interfaces behind which pods are.
    pub pod_interfaces: Arc<BTreeSet<InterfacePattern>>,
}
