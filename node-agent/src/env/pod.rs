//! `portico env --pod`: what the webhook would put into a pod, container by container, and why.
//!
//! The pod comes from its manifest, or from the template of what makes pods; the answer is the injector's own. What its
//! namespace wants is known where that is among the objects. What must not go in here: a decision about variables.

use std::fs;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, anyhow};
use cluster_watch::{Objects, manifest};
use proxy_core::inject::{Account, Admission, InjectMode, InjectOptions, Injection, Way, injection};
use serde_json::{Value, json};

use crate::args::EnvOutput;
use crate::input::{complain, warn};

/// Answers for one pod; false where it would be denied.
pub(super) fn answer(
    file: &Path,
    mode: InjectMode,
    namespace: &str,
    objects: Objects,
    output: EnvOutput,
    out: &mut impl Write,
) -> anyhow::Result<bool> {
    let read = || format!("read pod from {}", file.display());
    let text = fs::read_to_string(file).with_context(read)?;
    let object = manifest(&text).map_err(|why| anyhow!(why)).with_context(read)?;
    let named = object.pointer("/metadata/namespace").and_then(Value::as_str).unwrap_or(namespace).to_owned();
    let pod = pod_of(object).with_context(read)?;
    let options = InjectOptions { mode, ..InjectOptions::default() };
    let of_namespace = objects.namespaces.get(named.as_str()).cloned().unwrap_or_default();
    let admission = Admission {
        namespace: &named,
        namespace_annotations: &of_namespace,
        pod: &pod,
        old_pod: None,
        dry_run: false,
    };
    let injection = injection(&objects.into_snapshot(), &options, &admission);
    match output {
        EnvOutput::Json => {
            serde_json::to_writer_pretty(&mut *out, &injection)?;
            writeln!(out)?;
        }
        EnvOutput::Env => write_text(&injection, out)?,
    }
    Ok(injection.denied.is_none())
}

/// The pod itself, or the one that a controller makes of a template.
fn pod_of(object: Value) -> anyhow::Result<Value> {
    if object.get("kind").and_then(Value::as_str) == Some("Pod") {
        return Ok(object);
    }
    let templates = ["/spec/template", "/spec/jobTemplate/spec/template"];
    let template = templates.into_iter().find_map(|place| object.pointer(place));
    let mut pod = template.cloned().ok_or_else(|| anyhow!("it is no Pod and has no template of one"))?;
    if let Some(template) = pod.as_object_mut() {
        let metadata = template.entry("metadata").or_insert_with(|| json!({}));
        if let Some(metadata) = metadata.as_object_mut() {
            metadata.insert("ownerReferences".to_owned(), json!([{ "controller": true }]));
        }
    }
    Ok(pod)
}

fn write_text(injection: &Injection, out: &mut impl Write) -> anyhow::Result<()> {
    for warning in &injection.warnings {
        warn(&warning.trim_start_matches("portico: "));
    }
    if let Some(why) = &injection.denied {
        complain(&format!("the pod is denied: {why}"));
    }
    if let Some(why) = &injection.untouched {
        writeln!(out, "nothing is injected: {why}")?;
    }
    for account in &injection.accounts {
        write_account(account, out)?;
    }
    for map in &injection.config_maps {
        let waits: Vec<String> = map.waits_for.iter().map(ToString::to_string).collect();
        if waits.is_empty() {
            writeln!(out, "ConfigMap {}: {} variables", map.name, map.data.len())?;
        } else {
            writeln!(out, "ConfigMap {}: made once there is {}", map.name, waits.join(", "))?;
        }
    }
    Ok(())
}

fn write_account(account: &Account, out: &mut impl Write) -> anyhow::Result<()> {
    let Account { kind, name, way, why, config_maps, added, kept, unsure: _ } = account;
    let way = match way {
        Way::Inline => "inline".to_owned(),
        Way::ConfigMap => format!("ConfigMap {}", config_maps.join(", ")),
    };
    writeln!(out, "{} {name}: {way}: {why}", kind.list())?;
    for variable in added.iter() {
        writeln!(out, "  {}={}", variable.name, variable.value)?;
    }
    if !kept.is_empty() {
        writeln!(out, "  its own: {}", kept.join(", "))?;
    }
    Ok(())
}
