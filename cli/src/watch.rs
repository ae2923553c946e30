//! `portico status --watch`: the agent's status and the traffic of portals, refreshed periodically.
//!
//! The agent reads traffic counters only on request, so that they cost nothing while no command watches. If the agent
//! becomes unreachable, the command reports it and continues when the agent is back.

use std::io::Write;
use std::path::Path;
use std::time::Instant;

use agent_ipc::Request;
use clap::Args;
use serde_json::{Value, json};

use crate::live_view::{LiveView, seconds};
use crate::status::{StatusOutput, fetch, is_healthy, write_attachments, write_summary};
use crate::table::UNHEALTHY;
use crate::traffic_rates::{TrafficRow, table, traffic_rows};
use node_agent::{AttachmentReport, Report};

/// Arguments of `portico status --watch`.
#[derive(Debug, Args)]
pub(crate) struct WatchArgs {
    /// Refresh periodically, with the traffic of portals (with -o json, one line per refresh).
    #[arg(short, long)]
    pub(crate) watch: bool,
    /// Refresh interval, in seconds.
    #[arg(long, value_name = "S", default_value_t = 1.0, value_parser = seconds, requires = "watch")]
    pub(crate) interval: f64,
    /// Number of refreshes (0: until interrupted).
    #[arg(short = 'n', long, value_name = "NUMBER", default_value_t = 0, requires = "watch")]
    pub(crate) count: u64,
    /// Maximum number of attachments, portals, and backends per portal to show; problems and busiest first.
    #[arg(long, value_name = "NUMBER", default_value_t = 20, requires = "watch")]
    pub(crate) top: usize,
    /// Only this pod: namespace/name, or a prefix of its container ID.
    #[arg(long, value_name = "POD", requires = "watch")]
    pub(crate) pod: Option<String>,
}

/// Runs `portico status --watch`. Returns whether everything was healthy at the last refresh.
pub(crate) fn run(
    args: &WatchArgs,
    socket: &Path,
    output: StatusOutput,
    out: &mut impl Write,
) -> anyhow::Result<bool> {
    let request = Request::Status { hits: true, pod: args.pod.clone() };
    let view = LiveView::new(args.interval, args.count)?;
    let view = if output == StatusOutput::Json { view.appending() } else { view };
    let (mut previous, mut unreachable_since): (Option<StatusSample>, Option<Instant>) = (None, None);
    view.run(out, |frame| {
        let (text, report) = match fetch(socket, &request) {
            Ok(fetched) => fetched,
            Err(error) => {
                let seconds = unreachable_since.get_or_insert_with(Instant::now).elapsed().as_secs();
                write_unreachable(&format!("{error:#}"), seconds, output, frame)?;
                return Ok(false);
            }
        };
        unreachable_since = None;
        let sample = StatusSample { received: Instant::now(), report };
        match output {
            StatusOutput::Table => {
                sample.write(previous.as_ref(), args, frame)?;
                // Separates the frames if the screen is not cleared.
                writeln!(frame)?;
            }
            StatusOutput::Json => sample.write_json(&text, previous.as_ref(), args, frame)?,
        }
        let is_healthy = is_healthy(&sample.report);
        previous = Some(sample);
        Ok(is_healthy)
    })
}

fn write_unreachable(
    error: &str,
    seconds: u64,
    output: StatusOutput,
    out: &mut Vec<u8>,
) -> std::io::Result<()> {
    match output {
        StatusOutput::Table => {
            writeln!(out, "{UNHEALTHY}agent unreachable for {seconds} s: {error}{UNHEALTHY:#}\n")
        }
        StatusOutput::Json => writeln!(out, "{}", json!({"unreachable": error, "forSeconds": seconds})),
    }
}

/// The agent's report, and when it was received.
struct StatusSample {
    received: Instant,
    report: Report,
}

impl StatusSample {
    fn traffic_rows(&self, previous: Option<&Self>, args: &WatchArgs) -> Vec<TrafficRow> {
        let previous =
            previous.map(|previous| (&previous.report, (self.received - previous.received).as_secs_f64()));
        traffic_rows(&self.report, previous, args.pod.as_deref())
    }

    /// Writes the agent's report as it was received, with an additional key for the rates.
    fn write_json(
        &self,
        text: &str,
        previous: Option<&Self>,
        args: &WatchArgs,
        out: &mut Vec<u8>,
    ) -> anyhow::Result<()> {
        let mut value: Value = serde_json::from_str(text)?;
        let mut rows = self.traffic_rows(previous, args);
        rows.truncate(args.top);
        value["rates"] = serde_json::to_value(rows)?;
        writeln!(out, "{value}")?;
        Ok(())
    }

    fn write(&self, previous: Option<&Self>, args: &WatchArgs, out: &mut Vec<u8>) -> anyhow::Result<()> {
        let WatchArgs { watch: _, interval: _, count: _, top, pod } = args;
        write_summary(&self.report, out)?;
        let mut attachments: Vec<&AttachmentReport> = self.report.attachments_of(pod.as_deref()).collect();
        // Problems first; the sort is stable.
        attachments.sort_by_key(|attachment| (attachment.error.is_none(), attachment.lag_ms == 0));
        let more = attachments.len().saturating_sub(*top);
        attachments.truncate(*top);
        write_attachments(&attachments, out)?;
        if more > 0 {
            writeln!(out, "and {more} more attachments; see --top and --pod\n")?;
        }
        self.write_traffic(self.traffic_rows(previous, args), *top, out)
    }

    fn write_traffic(&self, mut rows: Vec<TrafficRow>, top: usize, out: &mut Vec<u8>) -> anyhow::Result<()> {
        let Report { version, traffic, counters, .. } = &self.report;
        let Some(traffic) = traffic else {
            writeln!(out, "agent {version} does not report traffic of portals")?;
            return Ok(());
        };
        if !counters {
            writeln!(
                out,
                "only on-demand portals have counters; run the agent with --counters (in the chart"
            )?;
            writeln!(out, "agent.counters) to count hits of all portals and backends")?;
        }
        let pods = self.report.pods();
        let unreadable =
            || traffic.namespaces.iter().filter_map(|netns| Some((netns.netns, netns.error.as_ref()?)));
        for (netns, error) in unreadable().take(top) {
            let pod = pods.get(&netns).map_or("-", String::as_str);
            writeln!(out, "{UNHEALTHY}traffic of {pod} unavailable: {error}{UNHEALTHY:#}")?;
        }
        let more = unreadable().count().saturating_sub(top);
        if more > 0 {
            writeln!(out, "{UNHEALTHY}traffic of {more} more pods unavailable{UNHEALTHY:#}")?;
        }
        if rows.is_empty() {
            writeln!(out, "no portal with counters was used yet")?;
            return Ok(());
        }
        let more = traffic.omitted + rows.len().saturating_sub(top);
        rows.truncate(top);
        write!(out, "{}", table(&rows, top))?;
        if more > 0 {
            writeln!(out, "and {more} more used portals; see --top and --pod")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn report_of_older_agent_without_traffic_is_shown() {
        let counts = json!({"applied": 7, "failed": 0, "repairs": 0, "audits": 0, "attached": 0, "detached": 0,
            "outages": 0, "activated": 0, "evicted": 0,
            "applyDurationSeconds": {"buckets": [], "count": 0, "sum": 0.0}});
        let report = json!({"version": "0.0.9", "node": "n1", "synced": true, "outage": null, "services": 3,
            "views": {}, "attachments": [], "counts": counts});
        let report = serde_json::from_value(report).expect("a report");
        let sample = StatusSample { received: Instant::now(), report };
        let args = WatchArgs { watch: true, interval: 1.0, count: 1, top: 20, pod: None };
        let mut frame = Vec::new();
        sample.write(None, &args, &mut frame).expect("a frame");
        let text = anstream::adapter::strip_bytes(&frame).into_vec();
        let expected = "agent 0.0.9, node n1; 3 services, synced\nsince start: 7 transactions, 0 failed; 0 audits, 0 \
                        repairs\nno attachments\nagent 0.0.9 does not report traffic of portals\n";
        assert_eq!(String::from_utf8_lossy(&text), expected);
    }
}
