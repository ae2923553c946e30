//! `Line`: a portal that is used and how much, the kernel's and the relay's in one list, with rates between two
//! reports.
//!
//! A rate is told only where the report before told of the same network namespace; what came since then is what
//! the numbers differ by, or all where a number began anew. What must not go in here: when the agent is asked.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use anstyle::Style;
use serde::Serialize;

use crate::agent::{BackendHits, PortalHits, Report, Served};
use crate::picture::rate;
use crate::status::BAD;
use crate::table::{Cell, Table};

/// A portal of a pod.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Line {
    /// The inode of the pod's network namespace.
    pub(crate) netns: u64,
    /// The pod.
    pub(crate) pod: String,
    /// The portal and its hits.
    #[serde(flatten)]
    pub(crate) portal: PortalHits,
    /// How many there were a second; none: not known yet.
    pub(crate) per_second: Option<f64>,
    /// The same of each backend, in their order.
    pub(crate) backends_per_second: Vec<Option<f64>>,
}

/// The report before, and how many seconds ago it was.
pub(crate) type Earlier<'a> = Option<(&'a Report, f64)>;

/// The portals that were used, of one pod or of all: those that are used most come first.
pub(crate) fn lines(report: &Report, earlier: Earlier<'_>, pod: Option<&str>) -> Vec<Line> {
    let pods = report.pods();
    let meant: Option<BTreeSet<u64>> =
        pod.map(|pod| report.attachments_of(Some(pod)).map(|of| of.netns_inode).collect());
    let before = earlier.map(|(earlier, seconds)| (Before::new(earlier), seconds));
    let line = |(netns, portal): (u64, PortalHits)| {
        let known =
            before.as_ref().and_then(|(before, seconds)| Some((before.of(netns, &portal)?, *seconds)));
        let backend = |now: &BackendHits| {
            let (before, seconds) = known?;
            let same = before.into_iter().flat_map(|before| &before.backends);
            let hits = same.filter(|before| before.backend == now.backend).map(|before| before.hits).next();
            Some(rate(now.hits, hits.unwrap_or(0), seconds))
        };
        Line {
            netns,
            pod: pods.get(&netns).map_or_else(|| format!("netns {netns}"), Clone::clone),
            per_second: known
                .map(|(before, seconds)| rate(portal.hits, before.map_or(0, |before| before.hits), seconds)),
            backends_per_second: portal.backends.iter().map(backend).collect(),
            portal,
        }
    };
    let told = told(report).filter(|(netns, _)| meant.as_ref().is_none_or(|meant| meant.contains(netns)));
    let mut lines: Vec<Line> = told.map(line).collect();
    lines.sort_by(|one, other| {
        let [per_second, than] = [other, one].map(|line| line.per_second.unwrap_or(0.0));
        let order = |line: &Line| (Reverse(line.portal.hits), line.netns);
        per_second.total_cmp(&than).then_with(|| order(one).cmp(&order(other)))
    });
    lines
}

/// Everything that a report tells of portals, the kernel's and the relay's.
fn told(report: &Report) -> impl Iterator<Item = (u64, PortalHits)> {
    let places = report.hits.iter().flat_map(|hits| &hits.places);
    let kernel = places.flat_map(|place| place.portals.iter().map(|portal| (place.netns, portal.clone())));
    let relayed = report.relay.places.iter().flat_map(|place| {
        place.portals.iter().map(|portal| {
            let backends = portal.backends.iter();
            let hits = PortalHits {
                portal: portal.portal.clone(),
                service: portal.service.clone(),
                by: Served::Relay,
                hits: portal.passed.connections,
                backends: backends
                    .map(|of| BackendHits { backend: of.backend, hits: of.connections })
                    .collect(),
            };
            (place.netns, hits)
        })
    });
    kernel.chain(relayed)
}

/// What an earlier report told.
struct Before {
    portals: BTreeMap<(u64, String, Served), PortalHits>,
    /// The network namespaces whose portals it told.
    read: BTreeSet<u64>,
    /// Whether it told all portals that were used.
    is_whole: bool,
}

impl Before {
    fn new(report: &Report) -> Self {
        let keyed = |(netns, portal): (u64, PortalHits)| ((netns, portal.portal.clone(), portal.by), portal);
        let portals = told(report).map(keyed).collect();
        let places = report.hits.iter().flat_map(|hits| &hits.places);
        let read = places.filter(|place| place.error.is_none()).map(|place| place.netns).collect();
        Self { portals, read, is_whole: report.hits.as_ref().is_some_and(|hits| hits.left_out == 0) }
    }

    /// What it told of this portal: none where it could not know, some of none where nobody had come yet.
    fn of(&self, netns: u64, portal: &PortalHits) -> Option<Option<&PortalHits>> {
        let found = self.portals.get(&(netns, portal.portal.clone(), portal.by));
        let is_new = portal.by == Served::Relay || (self.is_whole && self.read.contains(&netns));
        if found.is_some() || is_new { Some(found) } else { None }
    }
}

/// The lines as a table, with at most so many backends of each portal.
pub(crate) fn table(lines: &[Line], backends_max: usize) -> Table<6> {
    let heading = ["POD", "PORTAL", "SERVICE", "BY", "HITS", "HITS/S"];
    let mut table = Table::new(heading.map(str::to_owned));
    let per_second = |rate: Option<f64>| rate.map_or_else(|| "-".to_owned(), |rate| format!("{rate:.1}"));
    for Line { netns: _, pod, portal, per_second: all, backends_per_second } in lines {
        let PortalHits { portal, service, by, hits, backends } = portal;
        let style = if matches!(by, Served::Refused | Served::Dropped) { BAD } else { Style::new() };
        table.push([
            Cell::plain(pod),
            Cell::plain(portal),
            Cell::plain(service.as_deref().unwrap_or("gone")),
            Cell { text: by.name().to_owned(), style },
            Cell::plain(hits.to_string()),
            Cell::plain(per_second(*all)),
        ]);
        let below = |text: String, hits: String, rate: String| {
            [String::new(), text, String::new(), String::new(), hits, rate].map(Cell::plain)
        };
        for (BackendHits { backend, hits }, rate) in
            backends.iter().zip(backends_per_second).take(backends_max)
        {
            table.push(below(format!("  {backend}"), hits.to_string(), per_second(*rate)));
        }
        let more = backends.len().saturating_sub(backends_max);
        if more > 0 {
            table.push(below(format!("  and {more} more"), String::new(), String::new()));
        }
    }
    table
}

#[cfg(test)]
mod tests;
