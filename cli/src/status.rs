//! `portico status`: the state of the running agent, and any problems.
//!
//! The command prints the `Report` that the agent sends. The exit code is 1 if anything is unhealthy. The agent is the
//! only source of the data.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use agent_ipc::{AttachmentKey, Reply, Request, send_request};
use anstyle::Style;
use anyhow::{Context, bail};
use clap::{Args, ValueEnum};

use crate::dns_status::write_dns;
use crate::node_status::write_node_portals;
use crate::table::{Cell, HEALTHY, Table, UNHEALTHY};
use crate::watch::{self, WatchArgs};
use node_agent::{AttachmentReport, DnsStatus, NodeReport, Report, UnservedPod, UnservedReport};
use proxy_core::annotation::PORTALS;

const AGENT_TIMEOUT: Duration = Duration::from_secs(5);
/// The length to which container IDs are truncated.
const SHORT_ID_LEN: usize = 13;
/// The maximum number of pods that are named as not served.
const UNSERVED_NAMES_MAX: usize = 20;

/// Arguments of `portico status`.
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// Path of the agent's Unix socket.
    #[arg(long, value_name = "PATH", default_value = agent_ipc::SOCKET_DEFAULT)]
    pub(crate) socket: PathBuf,
    /// Output format.
    #[arg(short, long, value_enum, default_value_t = StatusOutput::Table)]
    pub(crate) output: StatusOutput,
    #[command(flatten)]
    pub(crate) watch: WatchArgs,
}

/// Output formats of `portico status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum StatusOutput {
    /// A table.
    Table,
    /// One JSON object.
    Json,
}

/// Runs `portico status`. Returns whether everything is healthy.
pub(crate) fn run(args: &StatusArgs, out: &mut impl Write) -> anyhow::Result<bool> {
    let StatusArgs { socket, output, watch } = args;
    if watch.watch {
        return watch::run(watch, socket, *output, out);
    }
    let (text, report) = fetch(socket, &Request::status())?;
    match output {
        StatusOutput::Json => writeln!(out, "{text}")?,
        StatusOutput::Table => {
            write_summary(&report, out)?;
            write_attachments(&report.attachments.iter().collect::<Vec<_>>(), out)?;
        }
    }
    Ok(is_healthy(&report))
}

/// Whether the agent is synced without an outage, all attachments are up to date, and DNS has no errors.
pub(crate) fn is_healthy(report: &Report) -> bool {
    let is_up_to_date = |attachment: &AttachmentReport| attachment.error.is_none() && attachment.lag_ms == 0;
    let is_node_up_to_date = report.node_portals.as_ref().is_none_or(NodeReport::is_up_to_date);
    report.synced
        && report.outage.is_none()
        && is_node_up_to_date
        && report.dns.as_ref().is_none_or(DnsStatus::is_up_to_date)
        && report.attachments.iter().all(is_up_to_date)
}

/// Requests the agent's report. Returns it as text and parsed.
pub(crate) fn fetch(socket: &Path, request: &Request) -> anyhow::Result<(String, Report)> {
    let text = fetch_text(socket, request, AGENT_TIMEOUT)?;
    let report = serde_json::from_str(&text)
        .context("failed to parse the agent's report; does the agent have a different version?")?;
    Ok((text, report))
}

/// Sends a request whose reply is in a file, and returns the text of the file.
pub(crate) fn fetch_text(socket: &Path, request: &Request, timeout: Duration) -> anyhow::Result<String> {
    let (reply, file) = send_request(socket, request, None, timeout)?;
    match (reply, file) {
        (Reply::File, Some(file)) => {
            let mut text = String::new();
            File::from(file).read_to_string(&mut text).context("failed to read the agent's reply")?;
            Ok(text)
        }
        (Reply::Refused { message, .. }, _) => bail!("the agent refused the request: {message}"),
        _ => bail!("unexpected reply from the agent; does it have a different version?"),
    }
}

/// Writes the state of the agent, its service source, its views and its audits.
pub(crate) fn write_summary(report: &Report, out: &mut impl Write) -> anyhow::Result<()> {
    let Report { version, node, synced, outage, services, views, counts, audit, .. } = report;
    let node = if node.is_empty() { "-" } else { node };
    let (style, state) = if *synced { (HEALTHY, "synced") } else { (UNHEALTHY, "not synced yet") };
    writeln!(out, "agent {version}, node {node}; {services} services, {style}{state}{style:#}")?;
    if let Some(outage) = outage {
        writeln!(out, "{UNHEALTHY}service source: {outage}{UNHEALTHY:#}")?;
    }
    if report.records_unwritten > 0 {
        writeln!(
            out,
            "{UNHEALTHY}failed to write {} attachment records{UNHEALTHY:#}",
            report.records_unwritten
        )?;
    }
    for (view, state) in views {
        writeln!(out, "view {view}: {} portals, revision {}", state.portals, state.revision)?;
    }
    writeln!(
        out,
        "since start: {} transactions, {} failed; {} audits, {} repairs",
        counts.applied, counts.failed, counts.audits, counts.repairs
    )?;
    write_limits(report, out)?;
    write_unserved(&report.unserved, out)?;
    if let Some(node_portals) = &report.node_portals {
        write_node_portals(node_portals, out)?;
    }
    if let Some(dns) = &report.dns {
        write_dns(dns, &report.pods(), out)?;
    }
    if audit.interval_ms > 0 {
        let last = audit.last_ms.map(|ms| format!("last one {} s ago", ms / 1_000));
        let last = last.as_deref().unwrap_or("none yet");
        writeln!(out, "audits: every {} s, {last}", audit.interval_ms / 1_000)?;
    }
    Ok(())
}

/// Writes the number of refused portals by reason, and the memory limit of tables, if there are any.
fn write_limits(report: &Report, out: &mut impl Write) -> anyhow::Result<()> {
    let reasons: Vec<String> = (report.refused.iter().filter(|(_, count)| **count > 0))
        .map(|(reason, count)| format!("{reason} {count}"))
        .collect();
    if !reasons.is_empty() {
        writeln!(out, "portals refused: {}", reasons.join(", "))?;
    }
    if let Some(tables_max) = report.memory.tables_max {
        let tables = report.memory.tables;
        writeln!(out, "estimated memory of all tables: {} of {} MiB", tables >> 20, tables_max >> 20)?;
    }
    Ok(())
}

/// Writes the number of attachments that are not served, and the names of their pods.
fn write_unserved(unserved: &UnservedReport, out: &mut impl Write) -> anyhow::Result<()> {
    let UnservedReport { attachments, pods } = unserved;
    if *attachments == 0 {
        return Ok(());
    }
    let name = |UnservedPod { key, pod }: &UnservedPod| match pod {
        Some(pod) => pod.to_string(),
        None => short_id(key),
    };
    let names: Vec<String> = pods.iter().take(UNSERVED_NAMES_MAX).map(name).collect();
    let more = if pods.len() > names.len() { ", ..." } else { "" };
    let names = names.join(", ");
    writeln!(out, "not served ({}: off): {attachments} attachments, of {names}{more}", PORTALS.key)?;
    Ok(())
}

/// Writes the attachments as a table.
pub(crate) fn write_attachments(
    attachments: &[&AttachmentReport],
    out: &mut impl Write,
) -> anyhow::Result<()> {
    if attachments.is_empty() {
        writeln!(out, "no attachments")?;
        return Ok(());
    }
    let heading = [
        "NETWORK",
        "CONTAINER",
        "INTERFACE",
        "POD",
        "VIEW",
        "PORTALS",
        "REVISION",
        "LAG",
        "REPAIRS",
        "STATE",
    ];
    let mut table = Table::new(heading.map(str::to_owned));
    for attachment in attachments {
        table.push(row(attachment));
    }
    writeln!(out, "\n{table}")?;
    Ok(())
}

fn row(attachment: &AttachmentReport) -> [Cell; 10] {
    let AttachmentReport {
        key,
        pod,
        netns: _,
        netns_inode: _,
        view,
        revision,
        lag_ms,
        error,
        repairs,
        audit_backoff_ms,
        portals,
        programmed,
        programmed_by: _,
    } = attachment;
    let (style, state) = match error {
        Some(error) => (UNHEALTHY, error.clone()),
        None if *lag_ms > 0 => (Style::new(), "behind".to_owned()),
        None if *audit_backoff_ms > 0 => {
            (UNHEALTHY, format!("repeated drift, next audit in {} s", audit_backoff_ms.div_ceil(1_000)))
        }
        None => (HEALTHY, "up to date".to_owned()),
    };
    [
        Cell::plain(&key.network),
        Cell::plain(short_id(key)),
        Cell::plain(&key.interface),
        Cell::plain(pod.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string)),
        Cell::plain(view),
        Cell::plain(format!("{} ({programmed})", portals.name())),
        Cell::plain(revision.map_or_else(|| "-".to_owned(), |revision| revision.to_string())),
        Cell::plain(if *lag_ms > 0 { format!("{lag_ms} ms") } else { "-".to_owned() }),
        Cell::plain(repairs.to_string()),
        Cell { text: state, style },
    ]
}

fn short_id(key: &AttachmentKey) -> String {
    key.container_id.chars().take(SHORT_ID_LEN).collect()
}

#[cfg(test)]
mod tests {
    use agent_ipc::PodName;

    use super::*;

    fn written(count: usize) -> String {
        let pod = |number: usize| UnservedPod {
            key: AttachmentKey {
                network: "net".to_owned(),
                container_id: format!("{number}-0123456789abcdef"),
                interface: "eth0".to_owned(),
            },
            pod: (number != 1).then(|| PodName {
                namespace: "a".to_owned(),
                name: format!("pod-{number}"),
                uid: String::new(),
            }),
        };
        let unserved = UnservedReport { attachments: count, pods: (0..count).map(pod).collect() };
        let mut out = Vec::new();
        write_unserved(&unserved, &mut out).expect("a buffer");
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn pods_that_are_not_served_are_named_up_to_a_limit() {
        assert_eq!(written(0), "");
        let expected = "not served (portico.dev/portals: off): 2 attachments, of a/pod-0, 1-0123456789a\n";
        assert_eq!(written(2), expected);
        let many = written(21);
        assert!(many.contains("21 attachments") && many.ends_with("a/pod-19, ...\n"), "{many}");
    }
}
