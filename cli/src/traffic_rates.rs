//! `TrafficRow`: a used portal and its hits, of the kernel and of the relay alike, with rates between two reports.
//!
//! A rate is known only if the previous report includes the same network namespace. It is the increase of a counter
//! per second; a counter that was reset in between counts from 0.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use anstyle::Style;
use serde::Serialize;

use crate::live_view::rate;
use crate::table::{Cell, Table, UNHEALTHY};
use node_agent::{BackendHits, PortalHits, Report, ServedBy};

/// The traffic of a portal in a pod.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TrafficRow {
    /// The inode of the pod's network namespace.
    pub(crate) netns: u64,
    pub(crate) pod: String,
    /// The portal and its hits.
    #[serde(flatten)]
    pub(crate) portal: PortalHits,
    /// Hits per second, if known.
    pub(crate) per_second: Option<f64>,
    /// Hits per second of each backend, in the order of the portal's backends.
    pub(crate) backends_per_second: Vec<Option<f64>>,
}

/// The previous report, and how many seconds ago it was taken.
pub(crate) type PreviousSample<'a> = Option<(&'a Report, f64)>;

/// Returns the used portals of one pod, or of all pods, in descending order of their rates, then of their hits.
pub(crate) fn traffic_rows(
    report: &Report,
    previous: PreviousSample<'_>,
    pod: Option<&str>,
) -> Vec<TrafficRow> {
    let pods = report.pods();
    let selected: Option<BTreeSet<u64>> =
        pod.map(|pod| report.attachments_of(Some(pod)).map(|attachment| attachment.netns_inode).collect());
    let previous = previous.map(|(report, seconds)| SampleIndex::new(report, seconds));
    let is_selected = |netns: &u64| selected.as_ref().is_none_or(|selected| selected.contains(netns));
    let mut rows: Vec<TrafficRow> = all_traffic(report)
        .filter(|(netns, _)| is_selected(netns))
        .map(|(netns, portal)| {
            let rates = previous
                .as_ref()
                .map_or_else(|| Rates::unknown(&portal), |index| index.rates(netns, &portal));
            TrafficRow {
                netns,
                pod: pods.get(&netns).map_or_else(|| format!("netns {netns}"), Clone::clone),
                per_second: rates.portal,
                backends_per_second: rates.backends,
                portal,
            }
        })
        .collect();
    rows.sort_by(|left, right| {
        let [right_rate, left_rate] = [right, left].map(|row| row.per_second.unwrap_or(0.0));
        let by_hits = |row: &TrafficRow| (Reverse(row.portal.hits), row.netns);
        right_rate.total_cmp(&left_rate).then_with(|| by_hits(left).cmp(&by_hits(right)))
    });
    rows
}

/// The hits of all used portals, of the kernel and of the relay, by network namespace.
fn all_traffic(report: &Report) -> impl Iterator<Item = (u64, PortalHits)> {
    let namespaces = report.traffic.iter().flat_map(|traffic| &traffic.namespaces);
    let kernel =
        namespaces.flat_map(|netns| netns.portals.iter().map(|portal| (netns.netns, portal.clone())));
    let relayed = report.relay.namespaces.iter().flat_map(|netns| {
        netns.portals.iter().map(|portal| {
            let backends = portal.backends.iter();
            let hits = PortalHits {
                portal: portal.portal.clone(),
                service: portal.service.clone(),
                by: ServedBy::Relay,
                hits: portal.totals.connections,
                backends: backends
                    .map(|backend| BackendHits { backend: backend.backend, hits: backend.connections })
                    .collect(),
            };
            (netns.netns, hits)
        })
    });
    kernel.chain(relayed)
}

/// The rates of a portal and of its backends.
struct Rates {
    portal: Option<f64>,
    backends: Vec<Option<f64>>,
}

impl Rates {
    fn unknown(portal: &PortalHits) -> Self {
        Self { portal: None, backends: vec![None; portal.backends.len()] }
    }
}

/// An index of the previous report's hits.
struct SampleIndex {
    /// The time since that report.
    seconds: f64,
    portals: BTreeMap<(u64, String, ServedBy), PortalHits>,
    /// The network namespaces whose counters that report includes.
    namespaces: BTreeSet<u64>,
    /// Whether that report includes all used portals.
    is_complete: bool,
}

impl SampleIndex {
    fn new(report: &Report, seconds: f64) -> Self {
        let with_key =
            |(netns, portal): (u64, PortalHits)| ((netns, portal.portal.clone(), portal.by), portal);
        let portals = all_traffic(report).map(with_key).collect();
        let namespaces = report.traffic.iter().flat_map(|traffic| &traffic.namespaces);
        let namespaces = namespaces.filter(|netns| netns.error.is_none()).map(|netns| netns.netns).collect();
        let is_complete = report.traffic.as_ref().is_some_and(|traffic| traffic.omitted == 0);
        Self { seconds, portals, namespaces, is_complete }
    }

    /// The rates since that report. They are unknown if the portal may have had hits that the report omits.
    fn rates(&self, netns: u64, portal: &PortalHits) -> Rates {
        let before = self.portals.get(&(netns, portal.portal.clone(), portal.by));
        // The relay reports all its portals, so a relayed portal that is missing had no connections.
        let had_no_hits =
            portal.by == ServedBy::Relay || (self.is_complete && self.namespaces.contains(&netns));
        if before.is_none() && !had_no_hits {
            return Rates::unknown(portal);
        }
        let backend_rate = |now: &BackendHits| {
            let before = before.into_iter().flat_map(|before| &before.backends);
            let before =
                before.filter(|before| before.backend == now.backend).map(|before| before.hits).next();
            Some(rate(now.hits, before.unwrap_or(0), self.seconds))
        };
        Rates {
            portal: Some(rate(portal.hits, before.map_or(0, |before| before.hits), self.seconds)),
            backends: portal.backends.iter().map(backend_rate).collect(),
        }
    }
}

/// Formats rows as a table, with at most `backends_max` backends of each portal.
pub(crate) fn table(rows: &[TrafficRow], backends_max: usize) -> Table<6> {
    let heading = ["POD", "PORTAL", "SERVICE", "BY", "HITS", "HITS/S"];
    let mut table = Table::new(heading.map(str::to_owned));
    let rate_text = |rate: Option<f64>| rate.map_or_else(|| "-".to_owned(), |rate| format!("{rate:.1}"));
    for TrafficRow { netns: _, pod, portal, per_second, backends_per_second } in rows {
        let PortalHits { portal, service, by, hits, backends } = portal;
        let is_rejected = matches!(by, ServedBy::Refused | ServedBy::Dropped);
        let style = if is_rejected { UNHEALTHY } else { Style::new() };
        table.push([
            Cell::plain(pod),
            Cell::plain(portal),
            Cell::plain(service.as_deref().unwrap_or("deleted")),
            Cell { text: by.name().to_owned(), style },
            Cell::plain(hits.to_string()),
            Cell::plain(rate_text(*per_second)),
        ]);
        let backend_row = |text: String, hits: String, rate: String| {
            [String::new(), text, String::new(), String::new(), hits, rate].map(Cell::plain)
        };
        for (BackendHits { backend, hits }, rate) in
            backends.iter().zip(backends_per_second).take(backends_max)
        {
            table.push(backend_row(format!("  {backend}"), hits.to_string(), rate_text(*rate)));
        }
        if backends.len() > backends_max {
            let more = backends.len() - backends_max;
            table.push(backend_row(format!("  and {more} more"), String::new(), String::new()));
        }
    }
    table
}

#[cfg(test)]
mod tests;
