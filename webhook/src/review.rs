//! `portico-webhook review`: processes one review with services from manifests, and shows the reasons.
//!
//! The server uses the same functions.

use std::io::{Read, Write};

use admission_review::{PodReview, Review, allow, allow_too_large, parse_review, response};
use anyhow::{Context, bail};
use kube_source::{Objects, ReadOptions, Severity, Source, read};
use proxy_core::admission::{InjectOptions, InjectedVia, Injection, InjectionReport, inject};
use proxy_core::annotation::{PORTALS, VARIABLES};

use crate::args::{ReviewArgs, ReviewOutput};

/// Processes the review on `input`. Returns false if it is invalid.
pub(crate) fn run(args: ReviewArgs, input: &mut impl Read, out: &mut impl Write) -> anyhow::Result<bool> {
    let ReviewArgs { files, portal_nets, mode, output } = args;
    let mut body = Vec::new();
    input.read_to_end(&mut body).context("failed to read the review")?;
    let objects = objects(&files, portal_nets)?;
    let options = InjectOptions { mode: mode.into(), ..InjectOptions::default() };
    let (response, text, is_valid) = match parse_review(&body) {
        Err(bad) => (bad.response(), format!("rejected: {}\n", bad.reason), false),
        Ok(Review::Other { uid }) => {
            (allow(&uid), "nothing is injected: not the creation of a pod\n".to_owned(), true)
        }
        Ok(Review::TooLarge { uid, reason }) => {
            (allow_too_large(&uid, &reason), format!("nothing is injected: {reason}\n"), true)
        }
        Ok(Review::Pod(review)) => {
            let annotations = objects.namespaces.get(&*review.namespace).cloned().unwrap_or_default();
            let injection = inject(&objects.into_snapshot(), &options, &review.admission(&annotations));
            (response(&review.uid, &injection), text(&review, &injection), true)
        }
    };
    match output {
        ReviewOutput::Json => out.write_all(&[&response[..], b"\n"].concat()),
        ReviewOutput::Text => out.write_all(text.as_bytes()),
    }
    .context("failed to write the response")?;
    Ok(is_valid)
}

/// Reads the manifests. A problem in them is an error, since the result would be different.
fn objects(files: &[std::path::PathBuf], portal_nets: Vec<ipnet::IpNet>) -> anyhow::Result<Objects> {
    let sources: Vec<Source> = files.iter().map(|file| Source::Path(file.clone())).collect();
    let (objects, report) = read(&sources, &ReadOptions { portal_nets });
    let error = report.problems.iter().find(|problem| problem.severity == Severity::Error);
    if let Some(problem) = error {
        bail!("{problem}");
    }
    Ok(objects)
}

/// Formats the result with its reasons.
fn text(review: &PodReview, injection: &Injection<'_>) -> String {
    let Injection { patch, warnings, denied, config_maps, label, portals, containers, skipped } = injection;
    let mut lines = vec![format!("a pod in namespace {}", review.namespace)];
    lines.extend(denied.iter().map(|reason| format!("denied: {reason}")));
    lines.extend(skipped.iter().map(|reason| format!("nothing is injected: {reason}")));
    for report in containers {
        let InjectionReport { kind, name, via, reason, config_maps, added, already_defined, inexact: _ } =
            report;
        let via = match via {
            InjectedVia::Inline => "inline".to_owned(),
            InjectedVia::ConfigMap => format!("ConfigMap {}", config_maps.join(", ")),
        };
        lines.push(format!("{} {name}: {via}: {reason}", kind.list()));
        lines.extend(added.iter().map(|variable| format!("  {}={}", variable.name, variable.value)));
        lines.extend(already_defined.iter().map(|name| format!("  {name}: already defined")));
    }
    for map in config_maps {
        let waits: Vec<String> = map.waits_for.iter().map(ToString::to_string).collect();
        let state = if waits.is_empty() {
            format!("{} variables", map.variables)
        } else {
            format!("created once these services exist: {}", waits.join(", "))
        };
        lines.push(format!("ConfigMap {}: {state}", map.name));
    }
    lines.extend(label.iter().map(|label| format!("label {}={label}", VARIABLES.key)));
    lines.extend(
        portals.iter().map(|value| format!("annotation {}: {value}, from its namespace", PORTALS.key)),
    );
    lines.extend(warnings.iter().map(|warning| format!("warning: {warning}")));
    if patch.is_empty() && denied.is_none() && skipped.is_none() {
        lines.push("nothing is changed: the pod already has everything".to_owned());
    }
    lines.join("\n") + "\n"
}
