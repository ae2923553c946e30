//! What the command reads, and how it complains: objects from files, and one line on standard error for
//! everything that is wrong with them. Whatever is sound is answered for all the same.

use std::fmt::Display;
use std::io::Write;

use anstyle::{AnsiColor, Style};
use cluster_watch::{Objects, ReadOptions, Report, Severity, Source, read};
use proxy_core::node::Node;
use proxy_core::portal::{Standpoint, View};

use crate::args::{InputArgs, StandpointArgs};

const ERROR: Style = AnsiColor::Red.on_default().bold();
const WARNING: Style = AnsiColor::Yellow.on_default();

/// Reads the objects; false where some of the input is wrong.
pub(crate) fn objects(args: &InputArgs) -> (Objects, bool) {
    let InputArgs { files, portal_nets, verbose } = args;
    let sources: Vec<Source> = files.iter().map(|file| Source::from_arg(file)).collect();
    let (objects, report) = read(&sources, &ReadOptions { portal_nets: portal_nets.clone() });
    tell(&report, *verbose);
    let sound = !report.has_errors();
    (objects, sound)
}

fn tell(report: &Report, verbose: bool) {
    for problem in &report.problems {
        match problem.severity {
            Severity::Error => complain(problem),
            Severity::Warning => warn(problem),
        }
    }
    if report.suppressed > 0 {
        warn(&format!("{} more problems are not listed", report.suppressed));
    }
    for (kind, count) in report.ignored.iter().filter(|_| verbose) {
        note(&format!("ignored {kind}: {count}"));
    }
    let ignored: usize = report.ignored.values().sum();
    if ignored > 0 && !verbose {
        note(&format!("ignored what is of no use here: {ignored} (-v lists the kinds)"));
    }
}

/// One line about what is wrong.
pub(crate) fn complain(message: &dyn Display) {
    line(ERROR, "error", message);
}

/// One line about what is as it should be, and worth knowing.
fn note(message: &dyn Display) {
    line(Style::new(), "note", message);
}

/// One line about what was left out.
pub(crate) fn warn(message: &dyn Display) {
    line(WARNING, "warning", message);
}

fn line(style: Style, what: &str, message: &dyn Display) {
    // Nothing is to be done where standard error is gone.
    let _ = writeln!(anstream::stderr(), "portico: {style}{what}{style:#}: {message}");
}

/// From where the objects are seen.
pub(crate) fn standpoint(args: &StandpointArgs, objects: &Objects) -> Standpoint {
    let StandpointArgs { node, zone, mode, allowed } = args;
    let name = node.as_deref().unwrap_or_default();
    let known = objects.nodes.get(name);
    if known.is_none() && !name.is_empty() && !objects.nodes.is_empty() {
        let names: Vec<&str> = objects.nodes.keys().map(|name| &**name).take(10).collect();
        let what = if zone.is_some() { "its addresses are" } else { "its zone and addresses are" };
        warn(&format!("node {name} is not among the nodes read ({}): {what} not known", names.join(", ")));
    }
    let mut node = known.cloned().unwrap_or_else(|| Node { name: name.into(), ..Node::default() });
    if let Some(zone) = zone {
        node.zone = zone.as_str().into();
    }
    let (outside, bounds) = (allowed.outside(), allowed.bounds());
    Standpoint { node, view: View::All, mode: (*mode).into(), outside, bounds }
}
