//! Reads manifests for the offline commands, and prints problems to standard error, one line each.
//!
//! Invalid objects do not prevent a command from processing the valid ones; its exit code is 1 then.

use std::fmt::Display;
use std::io::Write;

use anstyle::{AnsiColor, Style};
use kube_source::{Objects, ReadOptions, Report, Severity, Source, read};
use proxy_core::node::Node;
use proxy_core::portal::{NodeContext, Place, ServiceFilter};

use crate::args::{InputArgs, NodeContextArgs};

const ERROR: Style = AnsiColor::Red.on_default().bold();
const WARNING: Style = AnsiColor::Yellow.on_default();

/// Reads manifests and prints their problems. Returns the valid objects, and whether all of the input was valid.
pub(crate) fn read_objects(args: &InputArgs) -> (Objects, bool) {
    let InputArgs { files, portal_nets, verbose } = args;
    let sources: Vec<Source> = files.iter().map(|file| Source::from_arg(file)).collect();
    let (objects, report) = read(&sources, &ReadOptions { portal_nets: portal_nets.clone() });
    print_report(&report, *verbose);
    let is_valid = !report.has_errors();
    (objects, is_valid)
}

fn print_report(report: &Report, verbose: bool) {
    for problem in &report.problems {
        match problem.severity {
            Severity::Error => print_error(problem),
            Severity::Warning => print_warning(problem),
        }
    }
    if report.suppressed > 0 {
        print_warning(&format!("{} more problems not shown", report.suppressed));
    }
    for (kind, count) in report.ignored.iter().filter(|_| verbose) {
        print_note(&format!("ignored {kind}: {count}"));
    }
    let ignored: usize = report.ignored.values().sum();
    if ignored > 0 && !verbose {
        print_note(&format!("ignored {ignored} objects of other kinds (list them with -v)"));
    }
}

/// Prints an error to standard error.
pub(crate) fn print_error(message: &dyn Display) {
    print_line(ERROR, "error", message);
}

fn print_note(message: &dyn Display) {
    print_line(Style::new(), "note", message);
}

/// Prints a warning to standard error.
pub(crate) fn print_warning(message: &dyn Display) {
    print_line(WARNING, "warning", message);
}

fn print_line(style: Style, severity: &str, message: &dyn Display) {
    // If standard error is closed, there is no place to report that.
    let _ = writeln!(anstream::stderr(), "portico: {style}{severity}{style:#}: {message}");
}

/// Builds the node context of a pod from the arguments and the Node objects.
pub(crate) fn node_context(args: &NodeContextArgs, objects: &Objects) -> NodeContext {
    let NodeContextArgs { node: name, zone, mode, allowed } = args;
    let node = node(name.as_deref(), zone.as_deref(), objects);
    let (external, limits) = (allowed.external_policy(), allowed.portal_limits());
    NodeContext {
        node,
        place: Place::Pod,
        filter: ServiceFilter::All,
        mode: (*mode).into(),
        external,
        limits,
    }
}

/// Returns the node with this name, from the Node objects if they contain it.
pub(crate) fn node(name: Option<&str>, zone: Option<&str>, objects: &Objects) -> Node {
    let name = name.unwrap_or_default();
    let known = objects.nodes.get(name);
    if known.is_none() && !name.is_empty() && !objects.nodes.is_empty() {
        let names: Vec<&str> = objects.nodes.keys().map(|name| &**name).take(10).collect();
        let unknown = if zone.is_some() { "addresses are" } else { "zone and addresses are" };
        print_warning(&format!("node {name} not found (found: {}): its {unknown} unknown", names.join(", ")));
    }
    let mut node = known.cloned().unwrap_or_else(|| Node { name: name.into(), ..Node::default() });
    if let Some(zone) = zone {
        node.zone = zone.into();
    }
    node
}
