//! `DnsReport`: the state of the server, for the status and the metrics of the agent.

use std::net::IpAddr;

use dns::{ClientCounters, ExchangeCounters};
use serde::{Deserialize, Serialize};

/// The state of the server.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DnsReport {
    /// The pods whose queries the server answers.
    pub pods: Vec<DnsPodReport>,
    /// The counters of all pods, also of those that were deleted.
    pub totals: ClientCounters,
    /// The number of open TCP connections of clients.
    pub connections: usize,
    /// The number of exchanges with upstreams in progress.
    pub exchanges: usize,
    /// The number of queries that wait for upstreams.
    pub pending: usize,
    /// The number of responses in the cache.
    pub cache_entries: usize,
    /// The memory of these responses.
    pub cache_bytes: usize,
    /// The counters of messages that were exchanged with upstreams.
    pub exchange_counters: ExchangeCounters,
}

/// The state of one pod.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
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
