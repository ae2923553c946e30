//! `portico env --pod`: what the webhook would inject into a pod, per container, with the reasons.
//!
//! The pod comes from its manifest, or from the pod template of a workload. The result is that of the webhook's own
//! injector (`proxy_core::admission`). The annotations of the pod's namespace apply if the input contains the namespace.

use std::io::Write;
use std::path::Path;

use kube_source::Objects;
use proxy_core::admission::{
    Admission, InjectMode, InjectOptions, InjectedVia, Injection, InjectionReport, inject,
};
use proxy_core::annotation::{PORTALS, VARIABLES};

use crate::args::EnvOutput;
use crate::manifests::{print_error, print_warning};
use crate::pod_manifest::PodManifest;

/// Prints the injection into the pod in this file. Returns false if the webhook would deny the pod.
pub(super) fn run(
    file: &Path,
    mode: InjectMode,
    namespace: &str,
    objects: Objects,
    output: EnvOutput,
    out: &mut impl Write,
) -> anyhow::Result<bool> {
    let PodManifest { namespace, pod } = PodManifest::read(file, namespace)?;
    let options = InjectOptions { mode, ..InjectOptions::default() };
    let namespace_annotations = objects.namespaces.get(namespace.as_str()).cloned().unwrap_or_default();
    let admission = Admission {
        namespace: &namespace,
        namespace_annotations: &namespace_annotations,
        pod: &pod,
        old_pod: None,
    };
    let injection = inject(&objects.into_snapshot(), &options, &admission);
    match output {
        EnvOutput::Json => {
            serde_json::to_writer_pretty(&mut *out, &injection)?;
            writeln!(out)?;
        }
        EnvOutput::Env => write_text(&injection, out)?,
    }
    Ok(injection.denied.is_none())
}

fn write_text(injection: &Injection<'_>, out: &mut impl Write) -> anyhow::Result<()> {
    for warning in &injection.warnings {
        print_warning(&warning.trim_start_matches("portico: "));
    }
    if let Some(reason) = &injection.denied {
        print_error(&format!("the pod is denied: {reason}"));
    }
    if let Some(reason) = &injection.skipped {
        writeln!(out, "nothing is injected: {reason}")?;
    }
    for report in &injection.containers {
        write_report(report, out)?;
    }
    if let Some(label) = injection.label {
        writeln!(out, "label {}={label}", VARIABLES.key)?;
    }
    if let Some(value) = &injection.portals {
        writeln!(out, "annotation {}: {value}, from its namespace", PORTALS.key)?;
    }
    for map in &injection.config_maps {
        let waits: Vec<String> = map.waits_for.iter().map(ToString::to_string).collect();
        if waits.is_empty() {
            writeln!(out, "ConfigMap {}: {} variables", map.name, map.variables)?;
        } else {
            writeln!(out, "ConfigMap {}: created once these services exist: {}", map.name, waits.join(", "))?;
        }
    }
    Ok(())
}

fn write_report(report: &InjectionReport, out: &mut impl Write) -> anyhow::Result<()> {
    let InjectionReport { kind, name, via, reason, config_maps, added, already_defined, inexact: _ } = report;
    let via = match via {
        InjectedVia::Inline => "inline".to_owned(),
        InjectedVia::ConfigMap => format!("ConfigMap {}", config_maps.join(", ")),
    };
    writeln!(out, "{} {name}: {via}: {reason}", kind.list())?;
    for variable in added.iter() {
        writeln!(out, "  {}={}", variable.name, variable.value)?;
    }
    if !already_defined.is_empty() {
        writeln!(out, "  already defined: {}", already_defined.join(", "))?;
    }
    Ok(())
}
