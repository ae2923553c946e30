//! `TrafficReport`: the hits of portals and backends, as reported to `portico status --watch`.
//!
//! A hit is one connection or UDP flow, because only first packets pass the rules. The kernel starts counting when an
//! element is written; a smaller number than before means that the element was replaced and its counter restarted.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::net::SocketAddr;

use netns_nft::Counters;
use proxy_core::portal::{Portal, Portals, Verdict};
use serde::{Deserialize, Serialize};

/// The maximum number of portals and backends in a report.
const LINES_MAX: usize = 50_000;

/// The hits of portals.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TrafficReport {
    /// The network namespaces of the request.
    pub namespaces: Vec<NetnsTraffic>,
    /// The number of omitted portals: those with the fewest hits, if the report would be too large.
    pub omitted: usize,
}

/// The hits of the portals of a network namespace.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NetnsTraffic {
    /// The inode of the network namespace.
    pub netns: u64,
    /// Why the counters could not be read, if they could not.
    pub error: Option<String>,
    /// The portals with hits, except relayed ones, which are in the report of the relay.
    pub portals: Vec<PortalHits>,
}

/// The hits of a portal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortalHits {
    /// Address, protocol and port.
    pub portal: String,
    /// The service, unless it was deleted.
    pub service: Option<String>,
    /// What serves the portal.
    pub by: ServedBy,
    /// The number of connections and UDP flows.
    pub hits: u64,
    /// The backends in order; empty unless backends have counters.
    pub backends: Vec<BackendHits>,
}

/// The hits of a backend.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct BackendHits {
    /// Address and port.
    pub backend: SocketAddr,
    /// The number of connections and UDP flows.
    pub hits: u64,
}

/// What serves a portal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ServedBy {
    /// The kernel translates connections.
    Kernel,
    /// The relay proxies connections.
    Relay,
    /// Connections are refused.
    Refused,
    /// Packets are dropped.
    Dropped,
}

impl ServedBy {
    /// The name in output.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Relay => "relay",
            Self::Refused => "refused",
            Self::Dropped => "dropped",
        }
    }

    fn of(portal: &Portal) -> Self {
        match portal.verdict {
            _ if portal.is_relayed() => Self::Relay,
            Verdict::Forward => Self::Kernel,
            Verdict::Reject => Self::Refused,
            Verdict::Drop => Self::Dropped,
        }
    }
}

/// Converts the kernel's counters to portals with hits, with the names of their services.
pub(crate) fn portal_hits(counters: Counters, portals: &Portals) -> Vec<PortalHits> {
    let Counters { portals: counted, mut backends } = counters;
    let used = counted.into_iter().filter(|(_, hits)| *hits > 0);
    let with_names = used.map(|(key, hits)| {
        let portal = portals.get(key);
        let mut backends = backends.remove(&key).unwrap_or_default();
        backends.sort_unstable();
        PortalHits {
            portal: key.to_string(),
            service: portal.map(|portal| portal.service.to_string()),
            by: portal.map_or(ServedBy::Kernel, ServedBy::of),
            hits,
            backends: backends.into_iter().map(|(backend, hits)| BackendHits { backend, hits }).collect(),
        }
    });
    with_names.filter(|portal| portal.by != ServedBy::Relay).collect()
}

impl TrafficReport {
    /// A report of these network namespaces, within its maximum size.
    pub(crate) fn new(namespaces: impl Iterator<Item = NetnsTraffic>) -> Self {
        let mut report = Self { namespaces: namespaces.collect(), omitted: 0 };
        report.truncate(LINES_MAX);
        report
    }

    /// Omits the portals with the fewest hits, so that at most this number of lines remains. Each portal and each
    /// backend is a line.
    fn truncate(&mut self, lines_max: usize) {
        let mut order = Vec::new();
        for (netns, NetnsTraffic { portals, .. }) in self.namespaces.iter().enumerate() {
            let line = |(index, portal): (usize, &PortalHits)| {
                (Reverse(portal.hits), netns, index, 1 + portal.backends.len())
            };
            order.extend(portals.iter().enumerate().map(line));
        }
        order.sort_unstable();
        let mut total = 0;
        let exceeds = |(.., lines): &(Reverse<u64>, usize, usize, usize)| {
            total += lines;
            total > lines_max
        };
        let Some(first_omitted) = order.iter().position(exceeds) else { return };
        let omitted: BTreeSet<(usize, usize)> =
            order[first_omitted..].iter().map(|(_, netns, index, _)| (*netns, *index)).collect();
        self.omitted = omitted.len();
        for (netns, NetnsTraffic { portals, .. }) in self.namespaces.iter_mut().enumerate() {
            let mut indices = 0..;
            portals.retain(|_| indices.next().is_some_and(|index| !omitted.contains(&(netns, index))));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn netns_traffic(netns: u64, hits: &[u64]) -> NetnsTraffic {
        let portal = |hits: &u64| PortalHits {
            portal: format!("10.96.0.1/TCP/{hits}"),
            service: None,
            by: ServedBy::Kernel,
            hits: *hits,
            backends: vec![BackendHits { backend: ([10, 1, 0, 1], 80).into(), hits: *hits }],
        };
        NetnsTraffic { netns, error: None, portals: hits.iter().map(portal).collect() }
    }

    #[test]
    fn report_is_bounded_and_keeps_the_portals_with_the_most_hits() {
        let namespaces = [netns_traffic(1, &[1, 9, 4]), netns_traffic(2, &[]), netns_traffic(3, &[7, 4])];
        let mut report = TrafficReport::new(namespaces.into_iter());
        assert_eq!(report.omitted, 0);
        report.truncate(7);
        let left: Vec<Vec<u64>> = (report.namespaces.iter())
            .map(|netns| netns.portals.iter().map(|portal| portal.hits).collect())
            .collect();
        assert_eq!((left, report.omitted), (vec![vec![9, 4], vec![], vec![7]], 2));
    }
}
