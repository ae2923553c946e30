//! `RelayReport`: the state and counters of the relay, for `portico top`, `portico status` and metrics.
//!
//! The names of the fields are the JSON keys of `portico status -o json`.

use std::net::SocketAddr;
use std::ops::AddAssign;

use serde::{Deserialize, Serialize};

/// The state and counters of the relay.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RelayReport {
    /// Open connections and flows.
    pub connections: usize,
    /// Connections and flows that were refused because of a limit.
    pub over_limit: u64,
    /// The same, by limit.
    #[serde(default)]
    pub refused: RefusalCounts,
    /// Stalled connections that were reset because their buffers exceeded the memory limit.
    #[serde(default)]
    pub evicted: u64,
    /// Connections and datagrams that matched no portal: to the relay's own port, or to an unassigned address.
    pub unmatched: u64,
    /// Traffic since the start, including portals and network namespaces that were removed.
    #[serde(default)]
    pub totals: TrafficTotals,
    /// The network namespaces with relayed traffic.
    pub namespaces: Vec<NetnsReport>,
}

impl RelayReport {
    /// Connections that wait for a first backend.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.namespaces.iter().map(|netns| netns.pending).sum()
    }
}

/// Refused connections and flows, by limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RefusalCounts {
    /// The limit of the node.
    pub node: u64,
    /// The limits of a pod.
    pub pod: u64,
    /// The limit of file descriptors or socket memory.
    pub sockets: u64,
}

impl RefusalCounts {
    /// Returns the sum of all limits.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.node + self.pod + self.sockets
    }
}

/// Counters of connections and bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TrafficTotals {
    /// Connections and flows.
    pub connections: u64,
    /// Bytes from clients to backends.
    pub sent: u64,
    /// Bytes from backends to clients.
    pub received: u64,
    /// Attempts to connect to a further backend after one had failed.
    pub retries: u64,
    /// Connections and flows that found no backend.
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

/// The relayed portals of a network namespace.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NetnsReport {
    /// The inode of the network namespace.
    pub netns: u64,
    /// Connections that wait for a first backend.
    pub pending: usize,
    /// The portals, sorted by key.
    pub portals: Vec<PortalReport>,
}

/// A relayed portal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortalReport {
    /// Address, protocol and port.
    pub portal: String,
    /// The service, unless it was removed.
    pub service: Option<String>,
    /// Open connections and flows.
    pub active: u64,
    /// Traffic since the start.
    #[serde(flatten)]
    pub totals: TrafficTotals,
    /// The backends, sorted by address.
    pub backends: Vec<BackendReport>,
}

/// A backend of a relayed portal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackendReport {
    /// The address and port.
    pub backend: SocketAddr,
    /// Open connections and flows.
    pub active: u32,
    /// Connections and flows since the start.
    pub connections: u64,
    /// Failed attempts.
    pub failures: u64,
    /// Whether it is skipped at the moment because it failed.
    pub is_ejected: bool,
    /// Whether it was reached from the node and not from the pod.
    pub via_node: bool,
    /// Its smoothed response time, in microseconds; 0 if unknown.
    pub delay_us: u32,
}
