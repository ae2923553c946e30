//! `TrafficReport`: what came to portals and went to backends, as the agent tells it to whoever asks.
//!
//! A hit is one connection or UDP flow, since only first packets meet portals. Numbers begin when an element is
//! written, so one may be smaller than it was: then it began anew at 0. What must not go in here: reading them,
//! and rates, which are for whoever has two reports.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::net::SocketAddr;

use netns_nft::Counters;
use proxy_core::portal::{Portal, Portals, Verdict};
use serde::{Deserialize, Serialize};

/// More portals and backends than this are not told.
const LINES_MAX: usize = 50_000;

/// What came to portals.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TrafficReport {
    /// The network namespaces that were asked about.
    pub places: Vec<NetnsTraffic>,
    /// How many portals are not told, since there were too many: those with the fewest hits.
    pub left_out: usize,
}

/// What came to the portals of a network namespace.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NetnsTraffic {
    /// The inode of the network namespace.
    pub netns: u64,
    /// Why it could not be read.
    pub error: Option<String>,
    /// Its portals that were hit, but for relayed ones: those are the relay's to tell.
    pub portals: Vec<PortalHits>,
}

/// What came to a portal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortalHits {
    /// Address, protocol and port.
    pub portal: String,
    /// The service, where there still is one.
    pub service: Option<String>,
    /// What became of what came.
    pub by: ServedBy,
    /// How often somebody came.
    pub hits: u64,
    /// Its backends, in order; empty unless backends count.
    pub backends: Vec<BackendHits>,
}

/// What went to a backend.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct BackendHits {
    /// Its address and port.
    pub backend: SocketAddr,
    /// How often it was chosen.
    pub hits: u64,
}

/// Who serves a portal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ServedBy {
    /// The kernel sends connections to backends.
    Kernel,
    /// The relay takes them.
    Relay,
    /// Nobody: they are refused.
    Refused,
    /// Nobody: they are dropped.
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

/// What the kernel counted, with the names of services.
pub(crate) fn hits_of(counted: Counters, portals: &Portals) -> Vec<PortalHits> {
    let Counters { portals: found, mut backends } = counted;
    let used = found.into_iter().filter(|(_, hits)| *hits > 0);
    let told = used.map(|(key, hits)| {
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
    told.filter(|portal| portal.by != ServedBy::Relay).collect()
}

impl TrafficReport {
    /// Of these network namespaces as much as may be told.
    pub(crate) fn of(places: impl Iterator<Item = NetnsTraffic>) -> Self {
        let mut report = Self { places: places.collect(), left_out: 0 };
        report.cut(LINES_MAX);
        report
    }

    /// Leaves out the portals with the fewest hits, so that at most so many lines are left.
    fn cut(&mut self, lines_max: usize) {
        let mut order = Vec::new();
        for (place, NetnsTraffic { portals, .. }) in self.places.iter().enumerate() {
            let lines = |(at, portal): (usize, &PortalHits)| {
                (Reverse(portal.hits), place, at, 1 + portal.backends.len())
            };
            order.extend(portals.iter().enumerate().map(lines));
        }
        order.sort_unstable();
        let mut lines_told = 0;
        let is_too_much = |(.., lines): &(Reverse<u64>, usize, usize, usize)| {
            lines_told += lines;
            lines_told > lines_max
        };
        let Some(told) = order.iter().position(is_too_much) else { return };
        let left_out: BTreeSet<(usize, usize)> =
            order[told..].iter().map(|(_, place, at, _)| (*place, *at)).collect();
        self.left_out = left_out.len();
        for (place, NetnsTraffic { portals, .. }) in self.places.iter_mut().enumerate() {
            let mut places = 0..;
            portals.retain(|_| places.next().is_some_and(|at| !left_out.contains(&(place, at))));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(netns: u64, hits: &[u64]) -> NetnsTraffic {
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
    fn what_is_told_is_bounded_and_the_most_used_portals_are_told() {
        let mut report =
            TrafficReport::of([place(1, &[1, 9, 4]), place(2, &[]), place(3, &[7, 4])].into_iter());
        assert_eq!(report.left_out, 0);
        report.cut(7);
        let left: Vec<Vec<u64>> = (report.places.iter())
            .map(|place| place.portals.iter().map(|portal| portal.hits).collect())
            .collect();
        assert_eq!((left, report.left_out), (vec![vec![9, 4], vec![], vec![7]], 2));
    }
}
