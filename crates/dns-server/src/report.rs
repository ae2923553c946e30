//! `DnsReport`: the state of the server, for the status and the metrics of the agent.

use std::net::IpAddr;

use dns::ClientCounters;
use serde::{Deserialize, Serialize};

/// The state of the server.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct DnsReport {
    /// The pods whose queries the server answers.
    pub pods: Vec<DnsPodReport>,
    /// The counters of all pods, also of those that were deleted.
    pub totals: ClientCounters,
    /// The number of open TCP connections of clients.
    pub connections: usize,
    /// The number of exchanges with upstreams.
    pub exchanges: usize,
}

/// The state of one pod.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DnsPodReport {
    /// The inode of the network namespace.
    pub netns_inode: u64,
    /// The DNS addresses of the pod that lead to the server.
    pub servers: Vec<IpAddr>,
    /// Whether the kernel redirects queries to the server now. Otherwise the portal of the cluster's DNS serves the pod.
    pub armed: bool,
    /// Why the redirect is not armed.
    pub error: Option<String>,
    /// The counters of the pod.
    pub counters: ClientCounters,
}
