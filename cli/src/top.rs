//! `portico top`: live relay traffic per pod and portal, or DNS queries per pod, with rates between two status reports
//! of the agent.
//!
//! The agent is the only source of the data.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::time::Instant;

use agent_ipc::Request;
use anstyle::Style;
use clap::Args;
use relay::{BackendReport, PortalReport, TrafficTotals};

use crate::dns_top::DnsSample;
use crate::live_view::{LiveView, rate, seconds};
use crate::status::fetch;
use crate::table::{Cell, HEALTHY, Table, UNHEALTHY};
use node_agent::Report;

/// Arguments of `portico top`.
#[derive(Debug, Args)]
pub(crate) struct TopArgs {
    /// Path of the agent's Unix socket.
    #[arg(long, value_name = "PATH", default_value = agent_ipc::SOCKET_DEFAULT)]
    pub(crate) socket: PathBuf,
    /// Refresh interval, in seconds.
    #[arg(long, value_name = "S", default_value_t = 1.0, value_parser = seconds)]
    pub(crate) interval: f64,
    /// Number of refreshes (0: until interrupted).
    #[arg(short = 'n', long, value_name = "NUMBER", default_value_t = 0)]
    pub(crate) count: u64,
    /// Show the DNS queries of pods instead: queries per second, failures, and the latency of upstreams.
    #[arg(long)]
    pub(crate) dns: bool,
}

/// Runs `portico top`.
pub(crate) fn run(args: &TopArgs, out: &mut impl Write) -> anyhow::Result<bool> {
    if args.dns {
        run_samples(args, out, DnsSample::fetch, DnsSample::write)
    } else {
        run_samples(args, out, RelaySample::fetch, RelaySample::write)
    }
}

/// Draws samples, each with the rates since the previous one.
fn run_samples<T>(
    args: &TopArgs,
    out: &mut impl Write,
    fetch: fn(&TopArgs) -> anyhow::Result<T>,
    write: fn(&T, &T, &mut Vec<u8>) -> anyhow::Result<()>,
) -> anyhow::Result<bool> {
    let view = LiveView::new(args.interval, args.count)?;
    let mut previous = fetch(args)?;
    if !view.wait() {
        return Ok(true);
    }
    view.run(out, |frame| {
        let current = fetch(args)?;
        write(&current, &previous, frame)?;
        previous = current;
        Ok(true)
    })
}

/// The agent's report, and when it was received.
struct RelaySample {
    received: Instant,
    report: Report,
    /// The relayed portals, by network namespace and portal.
    portals: BTreeMap<(u64, String), PortalReport>,
}

impl RelaySample {
    fn fetch(args: &TopArgs) -> anyhow::Result<Self> {
        let (_, report) = fetch(&args.socket, &Request::status())?;
        let namespaces = report.relay.namespaces.iter();
        let portals = namespaces.flat_map(|netns| {
            netns.portals.iter().map(|portal| ((netns.netns, portal.portal.clone()), portal.clone()))
        });
        Ok(Self { received: Instant::now(), portals: portals.collect(), report })
    }

    /// Writes the sample, with rates since the previous one.
    fn write(&self, previous: &Self, out: &mut impl Write) -> anyhow::Result<()> {
        let relay = &self.report.relay;
        writeln!(
            out,
            "relay: {} connections, {} pending; refused since start: {} over the limit, {} unmatched",
            relay.connections,
            relay.pending(),
            relay.over_limit,
            relay.unmatched
        )?;
        if self.portals.is_empty() {
            writeln!(
                out,
                "no relayed connections yet; connections that the kernel translates are not shown"
            )?;
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
        let seconds = self.received.duration_since(previous.received).as_secs_f64();
        let pods = self.report.pods();
        for ((netns, key), portal) in &self.portals {
            let pod = pods.get(netns).map_or_else(|| format!("netns {netns}"), Clone::clone);
            let before = previous.portals.get(&(*netns, key.clone()));
            table.push(portal_row(pod, portal, before, seconds));
            portal.backends.iter().for_each(|backend| table.push(backend_row(backend)));
        }
        writeln!(out, "\n{table}")?;
        Ok(())
    }
}

fn portal_row(pod: String, portal: &PortalReport, before: Option<&PortalReport>, seconds: f64) -> [Cell; 10] {
    let per_second = |counter: fn(&TrafficTotals) -> u64| {
        rate(counter(&portal.totals), before.map_or(0, |before| counter(&before.totals)), seconds)
    };
    let up = portal.backends.iter().filter(|backend| !backend.is_ejected).count();
    let (style, state) = match (up, portal.backends.len()) {
        (_, 0) => (Style::new(), "-".to_owned()),
        (up, all) if up == all => (HEALTHY, format!("{all} up")),
        (up, all) => (UNHEALTHY, format!("{up} of {all} up")),
    };
    [
        Cell::plain(pod),
        Cell::plain(&portal.portal),
        Cell::plain(portal.service.as_deref().unwrap_or("deleted")),
        Cell::plain(portal.active.to_string()),
        Cell::plain(format!("{:.1}", per_second(|passed| passed.connections))),
        Cell::plain(bytes(per_second(|passed| passed.sent))),
        Cell::plain(bytes(per_second(|passed| passed.received))),
        Cell::plain(portal.totals.retries.to_string()),
        Cell::plain(portal.totals.failed.to_string()),
        Cell { text: state, style },
    ]
}

fn backend_row(backend: &BackendReport) -> [Cell; 10] {
    let (style, state) = match (backend.is_ejected, backend.via_node) {
        (true, _) => (UNHEALTHY, format!("ejected (failures: {})", backend.failures)),
        (false, true) => (HEALTHY, format!("up, from the node, {} us", backend.delay_us)),
        (false, false) => (HEALTHY, format!("up, {} us", backend.delay_us)),
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
    fn portal_row_has_rates_between_two_samples_and_ejected_backends() {
        let portal = |connections, received| PortalReport {
            portal: "10.96.0.1/TCP/80".to_owned(),
            service: Some("default/web".to_owned()),
            active: 3,
            totals: TrafficTotals { connections, received, retries: 1, ..TrafficTotals::default() },
            backends: vec![BackendReport {
                backend: ([10, 1, 0, 1], 80).into(),
                active: 3,
                connections,
                failures: 1,
                is_ejected: true,
                via_node: false,
                delay_us: 90,
            }],
        };
        let row = portal_row("a/b".to_owned(), &portal(30, 5_000_000), Some(&portal(10, 0)), 2.0);
        let texts = row.map(|cell| cell.text);
        assert_eq!(
            texts,
            ["a/b", "10.96.0.1/TCP/80", "default/web", "3", "10.0", "0 B", "2.5 MB", "1", "0", "0 of 1 up"]
        );
        assert_eq!(backend_row(&portal(1, 1).backends[0])[9].text, "ejected (failures: 1)");
    }
}
