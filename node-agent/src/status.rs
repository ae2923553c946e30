//! `portico status`: what the running agent keeps right, and what is wrong.
//!
//! The agent answers with its `Report`; this shows it. Exit code 1 says that something is not as it should
//! be. What must not go in here: looking anywhere but at the agent.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anstyle::{AnsiColor, Style};
use anyhow::{Context, bail};
use attachment::{Reply, Request, ask};
use clap::{Args, ValueEnum};

use crate::agent::{AttachmentReport, Report};
use crate::table::{Cell, Table};
use crate::watch::{self, WatchArgs};

const PATIENCE: Duration = Duration::from_secs(5);
pub(crate) const GOOD: Style = AnsiColor::Green.on_default();
pub(crate) const BAD: Style = AnsiColor::Red.on_default();
/// Of an id that nobody can remember, so much is shown.
const ID_SHOWN: usize = 13;

/// `portico status`.
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// Where the agent listens.
    #[arg(long, value_name = "PATH", default_value = attachment::SOCKET_DEFAULT)]
    pub(crate) socket: PathBuf,
    /// The form of the answer.
    #[arg(short, long, value_enum, default_value_t = StatusOutput::Table)]
    pub(crate) output: StatusOutput,
    #[command(flatten)]
    pub(crate) watch: WatchArgs,
}

/// Forms of `portico status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum StatusOutput {
    /// A table.
    Table,
    /// One JSON object.
    Json,
}

/// Answers `portico status`; false where something is not as it should be.
pub(crate) fn answer(args: &StatusArgs, out: &mut impl Write) -> anyhow::Result<bool> {
    let StatusArgs { socket, output, watch } = args;
    if watch.watch {
        return watch::answer(watch, socket, *output, out);
    }
    let (text, report) = fetch(socket, &Request::status())?;
    match output {
        StatusOutput::Json => writeln!(out, "{text}")?,
        StatusOutput::Table => {
            write_summary(&report, out)?;
            write_attachments(&report.attachments.iter().collect::<Vec<_>>(), out)?;
        }
    }
    Ok(is_right(&report))
}

/// Whether all is as it should be.
pub(crate) fn is_right(report: &Report) -> bool {
    let is_right = |attachment: &AttachmentReport| attachment.error.is_none() && attachment.lag_ms == 0;
    report.synced && report.trouble.is_none() && report.attachments.iter().all(is_right)
}

/// Everything that the agent tells, as it said it and as we understand it.
pub(crate) fn fetch(socket: &Path, request: &Request) -> anyhow::Result<(String, Report)> {
    let text = fetch_text(socket, request)?;
    let report =
        serde_json::from_str(&text).context("understand the agent's answer; is it of another version?")?;
    Ok((text, report))
}

fn fetch_text(socket: &Path, request: &Request) -> anyhow::Result<String> {
    let (reply, file) = ask(socket, request, None, PATIENCE)?;
    match (reply, file) {
        (Reply::File, Some(file)) => {
            let mut text = String::new();
            File::from(file).read_to_string(&mut text).context("read the agent's answer")?;
            Ok(text)
        }
        (Reply::Refused { message, .. }, _) => bail!("the agent refuses: {message}"),
        _ => bail!("the agent answers something else; is it of another version?"),
    }
}

/// The agent, its source of services, the views, and what the audits found.
pub(crate) fn write_summary(report: &Report, out: &mut impl Write) -> anyhow::Result<()> {
    let Report { version, node, synced, trouble, services, views, counts, audit, .. } = report;
    let node = if node.is_empty() { "-" } else { node };
    let (style, state) = if *synced { (GOOD, "known") } else { (BAD, "not known yet") };
    writeln!(out, "agent {version}, node {node}; {services} services, {style}{state}{style:#}")?;
    if let Some(trouble) = trouble {
        writeln!(out, "{BAD}source of services: {trouble}{BAD:#}")?;
    }
    if report.records_unwritten > 0 {
        writeln!(out, "{BAD}{} records could not be written{BAD:#}", report.records_unwritten)?;
    }
    for (view, state) in views {
        writeln!(out, "view {view}: {} portals, revision {}", state.portals, state.revision)?;
    }
    writeln!(
        out,
        "since the start: {} transactions, {} failed; {} looks, {} repairs",
        counts.applied, counts.failed, counts.audited, counts.repaired
    )?;
    write_bounds(report, out)?;
    if audit.interval_ms > 0 {
        let last = audit.last_ms.map(|ms| format!("the last {} s ago", ms / 1_000));
        let last = last.as_deref().unwrap_or("none yet");
        writeln!(out, "audits: one every {} s, {last}", audit.interval_ms / 1_000)?;
    }
    Ok(())
}

/// What services ask for in vain, and how much memory tables take; nothing where nothing is refused and unlimited.
fn write_bounds(report: &Report, out: &mut impl Write) -> anyhow::Result<()> {
    let reasons: Vec<String> = (report.refused.iter().filter(|(_, count)| **count > 0))
        .map(|(reason, count)| format!("{reason} {count}"))
        .collect();
    if !reasons.is_empty() {
        writeln!(out, "portals refused: {}", reasons.join(", "))?;
    }
    if let Some(most) = report.memory.tables_max {
        let tables = report.memory.tables;
        writeln!(out, "tables of all pods: {} of {} MiB by the model", tables >> 20, most >> 20)?;
    }
    Ok(())
}

/// The attachments as a table.
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
        programmer: _,
    } = attachment;
    let short: String = key.container_id.chars().take(ID_SHOWN).collect();
    let (style, state) = match error {
        Some(error) => (BAD, error.clone()),
        None if *lag_ms > 0 => (Style::new(), "behind".to_owned()),
        None if *audit_backoff_ms > 0 => {
            (BAD, format!("damaged again and again, next audit in {} s", audit_backoff_ms.div_ceil(1_000)))
        }
        None => (GOOD, "right".to_owned()),
    };
    [
        Cell::plain(&key.network),
        Cell::plain(short),
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
