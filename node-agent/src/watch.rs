//! `portico status --watch`: the status as it changes, and what comes to portals.
//!
//! The agent reads the numbers for whoever asks, so nothing is read while nobody watches. An agent that goes away
//! is told, and watched again when it is back. What must not go in here: what a rate is.

use std::io::Write;
use std::path::Path;
use std::time::Instant;

use attachment::Request;
use clap::Args;
use serde_json::{Value, json};

use crate::agent::{AttachmentReport, Report};
use crate::hits::{Line, lines, table};
use crate::picture::{Pictures, seconds};
use crate::status::{BAD, StatusOutput, fetch, is_right, write_attachments, write_summary};

/// What `portico status --watch` shows, and how often.
#[derive(Debug, Args)]
pub(crate) struct WatchArgs {
    /// Show it anew each interval, with what comes to portals; with -o json, one line each time.
    #[arg(short, long)]
    pub(crate) watch: bool,
    /// So many seconds pass between two pictures.
    #[arg(long, value_name = "S", default_value_t = 1.0, value_parser = seconds, requires = "watch")]
    pub(crate) interval: f64,
    /// So many pictures are shown; 0: until it is interrupted.
    #[arg(short = 'n', long, value_name = "NUMBER", default_value_t = 0, requires = "watch")]
    pub(crate) count: u64,
    /// At most so many attachments and portals are shown, and backends of each: first what is wrong or used most.
    #[arg(long, value_name = "NUMBER", default_value_t = 20, requires = "watch")]
    pub(crate) top: usize,
    /// Only this pod: its namespace/name, or the beginning of its container's id.
    #[arg(long, value_name = "POD", requires = "watch")]
    pub(crate) pod: Option<String>,
}

/// Answers `portico status --watch`; true where the last picture shows all as it should be.
pub(crate) fn answer(
    args: &WatchArgs,
    socket: &Path,
    output: StatusOutput,
    out: &mut impl Write,
) -> anyhow::Result<bool> {
    let request = Request::Status { hits: true, pod: args.pod.clone() };
    let pictures = Pictures::new(args.interval, args.count)?;
    let pictures = if output == StatusOutput::Json { pictures.in_a_row() } else { pictures };
    let (mut last, mut away_since): (Option<Told>, Option<Instant>) = (None, None);
    pictures.show(out, |picture| {
        let (text, report) = match fetch(socket, &request) {
            Ok(told) => told,
            Err(error) => {
                let for_s = away_since.get_or_insert_with(Instant::now).elapsed().as_secs();
                let why = format!("{error:#}");
                let json = json!({"unreachable": why, "forSeconds": for_s});
                match output {
                    StatusOutput::Table => writeln!(picture, "{BAD}no answer for {for_s} s: {why}{BAD:#}\n")?,
                    StatusOutput::Json => writeln!(picture, "{json}")?,
                }
                return Ok(false);
            }
        };
        away_since = None;
        let told = Told { at: Instant::now(), report };
        match output {
            StatusOutput::Table => {
                told.write(last.as_ref(), args, picture)?;
                // Where pictures follow each other, one can be told from the next.
                writeln!(picture)?;
            }
            StatusOutput::Json => told.write_json(&text, last.as_ref(), args, picture)?,
        }
        let is_right = is_right(&told.report);
        last = Some(told);
        Ok(is_right)
    })
}

/// What the agent told at one moment.
struct Told {
    at: Instant,
    report: Report,
}

impl Told {
    fn lines(&self, earlier: Option<&Self>, args: &WatchArgs) -> Vec<Line> {
        let earlier = earlier.map(|earlier| (&earlier.report, (self.at - earlier.at).as_secs_f64()));
        lines(&self.report, earlier, args.pod.as_deref())
    }

    /// What the agent said, and the rates besides.
    fn write_json(
        &self,
        text: &str,
        earlier: Option<&Self>,
        args: &WatchArgs,
        out: &mut Vec<u8>,
    ) -> anyhow::Result<()> {
        let mut value: Value = serde_json::from_str(text)?;
        let mut lines = self.lines(earlier, args);
        lines.truncate(args.top);
        value["rates"] = serde_json::to_value(lines)?;
        writeln!(out, "{value}")?;
        Ok(())
    }

    fn write(&self, earlier: Option<&Self>, args: &WatchArgs, out: &mut Vec<u8>) -> anyhow::Result<()> {
        let WatchArgs { watch: _, interval: _, count: _, top, pod } = args;
        write_summary(&self.report, out)?;
        let mut shown: Vec<&AttachmentReport> = self.report.attachments_of(pod.as_deref()).collect();
        // What is wrong comes first; otherwise they stay in their order.
        shown.sort_by_key(|of| (of.error.is_none(), of.lag_ms == 0));
        let more = shown.len().saturating_sub(*top);
        shown.truncate(*top);
        write_attachments(&shown, out)?;
        if more > 0 {
            writeln!(out, "and {more} attachments more; --top shows more, --pod those of one pod\n")?;
        }
        self.write_hits(self.lines(earlier, args), *top, out)
    }

    fn write_hits(&self, mut lines: Vec<Line>, top: usize, out: &mut Vec<u8>) -> anyhow::Result<()> {
        let Report { version, hits, counters, .. } = &self.report;
        let Some(hits) = hits else {
            writeln!(out, "the agent is of version {version} and tells nothing of the kernel's portals")?;
            return Ok(());
        };
        if !counters {
            writeln!(out, "the kernel counts portals on demand alone; the agent's --counters (in the chart")?;
            writeln!(out, "agent.counters) has it count all portals, and their backends")?;
        }
        let pods = self.report.pods();
        let unread = || hits.places.iter().filter_map(|place| Some((place.netns, place.error.as_ref()?)));
        for (netns, error) in unread().take(top) {
            let pod = pods.get(&netns).map_or("-", String::as_str);
            writeln!(out, "{BAD}what came to portals of {pod}: {error}{BAD:#}")?;
        }
        let more = unread().count().saturating_sub(top);
        if more > 0 {
            writeln!(out, "{BAD}and of {more} pods more{BAD:#}")?;
        }
        if lines.is_empty() {
            writeln!(out, "no portal was used yet, of those that are counted")?;
            return Ok(());
        }
        let more = hits.left_out + lines.len().saturating_sub(top);
        lines.truncate(top);
        write!(out, "{}", table(&lines, top))?;
        if more > 0 {
            writeln!(
                out,
                "and {more} portals more that were used; --top shows more, --pod those of one pod"
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_of_before_is_shown_and_that_it_tells_no_hits() {
        let counts = json!({"applied": 7, "failed": 0, "repaired": 0, "audited": 0, "attached": 0, "detached": 0,
            "troubles": 0, "takenIn": 0, "letGo": 0, "applySeconds": {"buckets": [], "count": 0, "sum": 0.0}});
        let report = json!({"version": "0.0.9", "node": "n1", "synced": true, "trouble": null, "services": 3,
            "views": {}, "attachments": [], "counts": counts});
        let told = Told { at: Instant::now(), report: serde_json::from_value(report).expect("a report") };
        let args = WatchArgs { watch: true, interval: 1.0, count: 1, top: 20, pod: None };
        let mut picture = Vec::new();
        told.write(None, &args, &mut picture).expect("a picture");
        let text = anstream::adapter::strip_bytes(&picture).into_vec();
        let expected = "agent 0.0.9, node n1; 3 services, known\nsince the start: 7 transactions, 0 failed; 0 looks, 0 \
                        repairs\nno attachments\nthe agent is of version 0.0.9 and tells nothing of the kernel's portals\n";
        assert_eq!(String::from_utf8_lossy(&text), expected);
    }
}
