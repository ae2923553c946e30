//! `portico top`: what the relay serves, pod by pod and portal by portal, as it happens.
//!
//! What must not go in here: looking anywhere but at the agent, and when a picture is shown.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::time::Instant;

use anstyle::Style;
use attachment::Request;
use clap::Args;
use relay::{BackendReport, Passed, PortalReport};

use crate::agent::Report;
use crate::picture::{Pictures, rate, seconds};
use crate::status::{BAD, GOOD, fetch};
use crate::table::{Cell, Table};

/// `portico top`.
#[derive(Debug, Args)]
pub(crate) struct TopArgs {
    /// Where the agent listens.
    #[arg(long, value_name = "PATH", default_value = attachment::SOCKET_DEFAULT)]
    pub(crate) socket: PathBuf,
    /// So many seconds pass between two pictures.
    #[arg(long, value_name = "S", default_value_t = 1.0, value_parser = seconds)]
    pub(crate) interval: f64,
    /// So many pictures are shown; 0: until it is interrupted.
    #[arg(short = 'n', long, value_name = "NUMBER", default_value_t = 0)]
    pub(crate) count: u64,
}

/// Answers `portico top`.
pub(crate) fn answer(args: &TopArgs, out: &mut impl Write) -> anyhow::Result<bool> {
    let pictures = Pictures::new(args.interval, args.count)?;
    let mut last = Picture::take(args)?;
    if !pictures.wait() {
        return Ok(true);
    }
    pictures.show(out, |text| {
        let next = Picture::take(args)?;
        next.write(&last, text)?;
        last = next;
        Ok(true)
    })
}

/// What the agent tells at one moment.
struct Picture {
    at: Instant,
    report: Report,
    /// The portals, by network namespace and key.
    portals: BTreeMap<(u64, String), PortalReport>,
}

impl Picture {
    fn take(args: &TopArgs) -> anyhow::Result<Self> {
        let (_, report) = fetch(&args.socket, &Request::status())?;
        let places = report.relay.places.iter();
        let portals = places.flat_map(|place| {
            place.portals.iter().map(|portal| ((place.netns, portal.portal.clone()), portal.clone()))
        });
        Ok(Self { at: Instant::now(), portals: portals.collect(), report })
    }

    /// Writes it, with rates since an earlier one.
    fn write(&self, earlier: &Self, out: &mut impl Write) -> anyhow::Result<()> {
        let relay = &self.report.relay;
        writeln!(
            out,
            "relayed: {} connections, {} held; refused since the start: {} over the limit, {} to no portal",
            relay.connections,
            relay.held(),
            relay.over_limit,
            relay.strangers
        )?;
        if self.portals.is_empty() {
            writeln!(out, "nothing was relayed yet; portals of the kernel are not counted here")?;
            return Ok(());
        }
        let heading = [
            "POD",
            "PORTAL",
            "SERVICE",
            "ACTIVE",
            "CONN/S",
            "SENT/S",
            "RECEIVED/S",
            "RETRIES",
            "FAILED",
            "STATE",
        ];
        let mut table = Table::new(heading.map(str::to_owned));
        let seconds = self.at.duration_since(earlier.at).as_secs_f64();
        let pods = self.report.pods();
        for ((netns, key), portal) in &self.portals {
            let pod = pods.get(netns).map_or_else(|| format!("netns {netns}"), Clone::clone);
            let before = earlier.portals.get(&(*netns, key.clone()));
            table.push(portal_row(pod, portal, before, seconds));
            portal.backends.iter().for_each(|backend| table.push(backend_row(backend)));
        }
        writeln!(out, "\n{table}")?;
        Ok(())
    }
}

fn portal_row(pod: String, portal: &PortalReport, before: Option<&PortalReport>, seconds: f64) -> [Cell; 10] {
    let per_second = |of: fn(&Passed) -> u64| {
        rate(of(&portal.passed), before.map_or(0, |before| of(&before.passed)), seconds)
    };
    let up = portal.backends.iter().filter(|backend| !backend.is_resting).count();
    let (style, state) = match (up, portal.backends.len()) {
        (_, 0) => (Style::new(), "-".to_owned()),
        (up, all) if up == all => (GOOD, format!("{all} up")),
        (up, all) => (BAD, format!("{up} of {all} up")),
    };
    [
        Cell::plain(pod),
        Cell::plain(&portal.portal),
        Cell::plain(portal.service.as_deref().unwrap_or("gone")),
        Cell::plain(portal.active.to_string()),
        Cell::plain(format!("{:.1}", per_second(|passed| passed.connections))),
        Cell::plain(bytes(per_second(|passed| passed.sent))),
        Cell::plain(bytes(per_second(|passed| passed.received))),
        Cell::plain(portal.passed.retries.to_string()),
        Cell::plain(portal.passed.failed.to_string()),
        Cell { text: state, style },
    ]
}

fn backend_row(backend: &BackendReport) -> [Cell; 10] {
    let (style, state) = match (backend.is_resting, backend.by_node) {
        (true, _) => (BAD, format!("resting (failures: {})", backend.failures)),
        (false, true) => (GOOD, format!("up, from the node, {} us", backend.delay_us)),
        (false, false) => (GOOD, format!("up, {} us", backend.delay_us)),
    };
    let empty = || Cell::plain("");
    [
        empty(),
        Cell::plain(format!("  {}", backend.backend)),
        empty(),
        Cell::plain(backend.active.to_string()),
        empty(),
        empty(),
        empty(),
        empty(),
        Cell::plain(backend.failures.to_string()),
        Cell { text: state, style },
    ]
}

fn bytes(rate: f64) -> String {
    match rate {
        rate if rate >= 1e9 => format!("{:.1} GB", rate / 1e9),
        rate if rate >= 1e6 => format!("{:.1} MB", rate / 1e6),
        rate if rate >= 1e3 => format!("{:.1} kB", rate / 1e3),
        rate => format!("{rate:.0} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_those_between_two_pictures_and_a_resting_backend_shows() {
        let portal = |connections, received| PortalReport {
            portal: "10.96.0.1/TCP/80".to_owned(),
            service: Some("default/web".to_owned()),
            active: 3,
            passed: Passed { connections, received, retries: 1, ..Passed::default() },
            backends: vec![BackendReport {
                backend: ([10, 1, 0, 1], 80).into(),
                active: 3,
                connections,
                failures: 1,
                is_resting: true,
                by_node: false,
                delay_us: 90,
            }],
        };
        let row = portal_row("a/b".to_owned(), &portal(30, 5_000_000), Some(&portal(10, 0)), 2.0);
        let texts = row.map(|cell| cell.text);
        assert_eq!(
            texts,
            ["a/b", "10.96.0.1/TCP/80", "default/web", "3", "10.0", "0 B", "2.5 MB", "1", "0", "0 of 1 up"]
        );
        assert_eq!(backend_row(&portal(1, 1).backends[0])[9].text, "resting (failures: 1)");
    }
}
