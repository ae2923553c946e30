//! `portico-webhook review`: one review answered from manifests, with the reasons.
//!
//! The same functions answer an API server. What must not go in here: anything about a pod that they do not say.

use std::io::{Read, Write};

use admission_review::{PodReview, Review, answer, pass, pass_too_large, review};
use anyhow::{Context, bail};
use kube_source::{Objects, ReadOptions, Severity, Source, read};
use proxy_core::admission::{Account, InjectOptions, Injection, Way, injection};
use proxy_core::annotation::VARIABLES;

use crate::args::{ReviewArgs, ReviewOutput};

/// Answers the review on `input`; false where it is none.
pub(crate) fn run(args: ReviewArgs, input: &mut impl Read, out: &mut impl Write) -> anyhow::Result<bool> {
    let ReviewArgs { files, portal_nets, mode, output } = args;
    let mut body = Vec::new();
    input.read_to_end(&mut body).context("read the review")?;
    let objects = objects(&files, portal_nets)?;
    let options = InjectOptions { mode: mode.into(), ..InjectOptions::default() };
    let (answer, text, is_good) = match review(&body) {
        Err(bad) => (bad.answer(), format!("refused: {}\n", bad.why), false),
        Ok(Review::Other { uid }) => (pass(&uid), "nothing is done to this\n".to_owned(), true),
        Ok(Review::TooLarge { uid, why }) => {
            (pass_too_large(&uid, &why), format!("left alone: {why}\n"), true)
        }
        Ok(Review::Pod(review)) => {
            let annotations = objects.namespaces.get(&*review.namespace).cloned().unwrap_or_default();
            let injection = injection(&objects.into_snapshot(), &options, &review.admission(&annotations));
            (answer(&review.uid, &injection), told(&review, &injection), true)
        }
    };
    match output {
        ReviewOutput::Json => out.write_all(&[&answer.to_vec()[..], b"\n"].concat()),
        ReviewOutput::Text => out.write_all(text.as_bytes()),
    }
    .context("write the answer")?;
    Ok(is_good)
}

/// What the files hold; what is wrong with them is an error, since the answer would be another one.
fn objects(files: &[std::path::PathBuf], portal_nets: Vec<ipnet::IpNet>) -> anyhow::Result<Objects> {
    let sources: Vec<Source> = files.iter().map(|file| Source::Path(file.clone())).collect();
    let (objects, report) = read(&sources, &ReadOptions { portal_nets });
    let wrong = report.problems.iter().find(|problem| problem.severity == Severity::Error);
    if let Some(problem) = wrong {
        bail!("{problem}");
    }
    Ok(objects)
}

/// What is done and why, for people.
fn told(review: &PodReview, injection: &Injection) -> String {
    let Injection { patch, warnings, denied, config_maps, label, accounts, untouched } = injection;
    let mut lines = vec![format!("a pod in namespace {}", review.namespace)];
    lines.extend(denied.iter().map(|why| format!("denied: {why}")));
    lines.extend(untouched.iter().map(|why| format!("left alone: {why}")));
    for Account { kind, name, way, why, config_maps, added, kept, unsure: _ } in accounts {
        let way = match way {
            Way::Inline => "inline".to_owned(),
            Way::ConfigMap => format!("by ConfigMap {}", config_maps.join(", ")),
        };
        lines.push(format!("{} {name}: {way}, since {why}", kind.list()));
        lines.extend(added.iter().map(|variable| format!("  {}={}", variable.name, variable.value)));
        lines.extend(kept.iter().map(|name| format!("  {name} stays the container's own")));
    }
    for wanted in config_maps {
        let waits: Vec<String> = wanted.waits_for.iter().map(ToString::to_string).collect();
        let state = if waits.is_empty() {
            format!("with {} variables", wanted.variables)
        } else {
            format!("not before there is {}", waits.join(", "))
        };
        lines.push(format!("ConfigMap {}: {state}", wanted.name));
    }
    lines.extend(label.iter().map(|label| format!("label {}={label}", VARIABLES.key)));
    lines.extend(warnings.iter().map(|warning| format!("warning: {warning}")));
    if patch.is_empty() && denied.is_none() && untouched.is_none() {
        lines.push("nothing is changed: it has everything".to_owned());
    }
    lines.join("\n") + "\n"
}
