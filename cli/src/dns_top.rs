//! The part of `portico top` about DNS: the pods with the most queries, with rates between two status reports.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::io::Write;
use std::time::Instant;

use agent_ipc::Request;
use anstyle::Style;
use node_agent::{DnsPodReport, Report};

use crate::live_view::rate;
use crate::status::fetch;
use crate::table::{Cell, Table, UNHEALTHY};
use crate::top::TopArgs;

/// The maximum number of pods in a frame.
const PODS_MAX: usize = 40;

/// The agent's report, and when it was received.
pub(crate) struct DnsSample {
    received: Instant,
    report: Report,
}

impl DnsSample {
    pub(crate) fn fetch(args: &TopArgs) -> anyhow::Result<Self> {
        let (_, report) = fetch(&args.socket, &Request::status())?;
        Ok(Self { received: Instant::now(), report })
    }

    fn pods(&self) -> &[DnsPodReport] {
        self.report.dns.as_ref().map_or(&[], |dns| &dns.server.pods)
    }

    /// Writes the sample, with rates since the previous one.
    pub(crate) fn write(&self, previous: &Self, out: &mut impl Write) -> anyhow::Result<()> {
        let Some(dns) = &self.report.dns else {
            writeln!(out, "the agent does not answer DNS queries: it has no --dns")?;
            return Ok(());
        };
        let server = &dns.server;
        writeln!(
            out,
            "dns: {} pods, {} TCP connections, {} queries wait for upstreams; cache: {} responses, {} KiB",
            server.pods.len(),
            server.connections,
            server.pending,
            server.cache_entries,
            server.cache_bytes >> 10
        )?;
        let before: BTreeMap<u64, &DnsPodReport> =
            previous.pods().iter().map(|pod| (pod.netns_inode, pod)).collect();
        let seconds = self.received.duration_since(previous.received).as_secs_f64();
        let mut pods: Vec<(f64, &DnsPodReport)> = server
            .pods
            .iter()
            .map(|pod| {
                let before = before.get(&pod.netns_inode).map_or(0, |before| before.counters.queries);
                (rate(pod.counters.queries, before, seconds), pod)
            })
            .collect();
        pods.sort_by(|left, right| {
            let by_total = |pod: &DnsPodReport| (Reverse(pod.counters.queries), pod.netns_inode);
            right.0.total_cmp(&left.0).then_with(|| by_total(left.1).cmp(&by_total(right.1)))
        });
        let heading = [
            "POD",
            "QUERIES/S",
            "QUERIES",
            "NXDOMAIN",
            "SERVFAIL",
            "CACHE",
            "COLLAPSED",
            "LIMITED",
            "UPSTREAM",
            "MEAN",
            "MAX",
        ];
        let mut table = Table::new(heading.map(str::to_owned));
        let names = self.report.pods();
        for (rate, pod) in pods.iter().take(PODS_MAX) {
            let inode = pod.netns_inode;
            let name = names.get(&inode).map_or_else(|| format!("netns {inode}"), Clone::clone);
            table.push(row(name, *rate, pod));
        }
        writeln!(out, "\n{table}")?;
        if pods.len() > PODS_MAX {
            writeln!(out, "and {} more pods", pods.len() - PODS_MAX)?;
        }
        Ok(())
    }
}

fn row(name: String, rate: f64, pod: &DnsPodReport) -> [Cell; 11] {
    let counters = &pod.counters;
    let plain = |number: u64| Cell::plain(number.to_string());
    let failures = |number: u64| Cell {
        text: number.to_string(),
        style: if number > 0 { UNHEALTHY } else { Style::new() },
    };
    let lookups = counters.upstream_lookups;
    let mean = counters.upstream_time_us.checked_div(lookups);
    [
        Cell::plain(name),
        Cell::plain(format!("{rate:.1}")),
        plain(counters.queries),
        plain(counters.nxdomain),
        failures(counters.servfail),
        plain(counters.cache_hits),
        plain(counters.collapsed),
        failures(counters.limited),
        plain(lookups),
        Cell::plain(milliseconds(mean)),
        Cell::plain(milliseconds(mean.map(|_| counters.upstream_time_max_us))),
    ]
}

/// Formats a time in microseconds; "-" without lookups.
fn milliseconds(time_us: Option<u64>) -> String {
    time_us.map_or_else(|| "-".to_owned(), |us| format!("{:.1} ms", us as f64 / 1_000.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn row_has_the_rate_and_the_latency_of_upstreams() {
        let mut pod = DnsPodReport {
            netns_inode: 1,
            servers: Vec::new(),
            armed: true,
            error: None,
            counters: Default::default(),
        };
        pod.counters.queries = 30;
        let texts = row("a/b".to_owned(), 2.5, &pod).map(|cell| cell.text);
        assert_eq!(texts, ["a/b", "2.5", "30", "0", "0", "0", "0", "0", "0", "-", "-"]);
        pod.counters.upstream_lookups = 4;
        pod.counters.upstream_time_us = 10_000;
        pod.counters.upstream_time_max_us = 6_200;
        let texts = row("a/b".to_owned(), 2.5, &pod).map(|cell| cell.text);
        assert_eq!(texts[8..], ["4", "2.5 ms", "6.2 ms"]);
    }
}
