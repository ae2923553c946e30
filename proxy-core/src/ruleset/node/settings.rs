//! `NodeSettings` and `NodeEnvironment`: what the node's table depends on in addition to portals.
//!
//! A change of the settings replaces the table. A change of the environment changes elements of sets.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::model::guest::InterfacePattern;

/// The settings of the node's table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct NodeSettings {
    /// The priority of the NAT chains at prerouting and output; -101 is before kube-proxy's.
    pub nat_priority: i32,
    /// The port of the listener on the loopback addresses that serves node ports there; 0 if there is no listener.
    pub loopback_port: u16,
    /// Whether `NodeEnvironment` describes the addresses or interfaces of pods, so that other clients of cluster
    /// addresses are masqueraded.
    pub detects_pods: bool,
    /// Whether all connections are masqueraded.
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
            detects_pods: false,
            masquerade_all: false,
            keep_client_address: false,
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
