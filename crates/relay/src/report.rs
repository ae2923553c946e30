//! What the relay tells of itself, for `portico top` and for metrics.
//!
//! What must not go in here: how it is shown.

use std::net::SocketAddr;
use std::ops::AddAssign;

use serde::{Deserialize, Serialize};

/// Everything the relay tells.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RelayReport {
    /// Connections that are there now.
    pub connections: usize,
    /// Connections that were refused because there were too many.
    pub over_limit: u64,
    /// The same by reason.
    #[serde(default)]
    pub refused: RefusalCounts,
    /// Connections that were broken off because one end took nothing while memory was short.
    #[serde(default)]
    pub evicted: u64,
    /// Connections to the relay's own port, or to addresses that are nobody's.
    pub unmatched: u64,
    /// What passed since the start, also through portals and network namespaces that are gone.
    #[serde(default)]
    pub totals: TrafficTotals,
    /// The network namespaces in which something was relayed.
    pub namespaces: Vec<NetnsReport>,
}

impl RelayReport {
    /// Connections that wait for a first backend.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.namespaces.iter().map(|place| place.pending).sum()
    }
}

/// How many connections and flows were refused, by reason.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RefusalCounts {
    /// The node has as many as it may.
    pub node: u64,
    /// The pod has its share.
    pub pod: u64,
    /// No socket is to be had.
    pub sockets: u64,
}

impl RefusalCounts {
    /// All of them.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.node + self.pod + self.sockets
    }
}

/// What passed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TrafficTotals {
    /// Connections and flows.
    pub connections: u64,
    /// Bytes from clients to backends.
    pub sent: u64,
    /// Bytes from backends to clients.
    pub received: u64,
    /// How often another backend had to be tried.
    pub retries: u64,
    /// How many connections found no backend.
    pub failed: u64,
}

impl AddAssign for TrafficTotals {
    fn add_assign(&mut self, more: Self) {
        let Self { connections, sent, received, retries, failed } = more;
        self.connections += connections;
        self.sent += sent;
        self.received += received;
        self.retries += retries;
        self.failed += failed;
    }
}

/// What is told of a network namespace.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NetnsReport {
    /// The inode of the network namespace.
    pub netns: u64,
    /// Connections that wait for a first backend.
    pub pending: usize,
    /// Its portals, in the order of their keys.
    pub portals: Vec<PortalReport>,
}

/// What is told of a portal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortalReport {
    /// Address, protocol and port.
    pub portal: String,
    /// The service, where there still is one.
    pub service: Option<String>,
    /// Connections that are there now.
    pub active: u64,
    /// What passed since the start.
    #[serde(flatten)]
    pub totals: TrafficTotals,
    /// Its backends, in order.
    pub backends: Vec<BackendReport>,
}

/// What is told of a backend.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackendReport {
    /// Its address and port.
    pub backend: SocketAddr,
    /// Connections that are there now.
    pub active: u32,
    /// Connections since the start.
    pub connections: u64,
    /// How often it did not answer.
    pub failures: u64,
    /// Whether it is passed over at the moment.
    pub is_ejected: bool,
    /// Whether only the node reaches it.
    pub via_node: bool,
    /// How long it takes to answer, in microseconds.
    pub delay_us: u32,
}
