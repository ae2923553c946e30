//! Injects the variables of services into a pod at admission.
//!
//! ```text
//! annotations ─ InjectionRequest ─► Selection ─ render ─► variables ─┬─ inline: prepended to env
//! (of pod and namespace)                                              └─ a ConfigMap as envFrom[0]
//! ```
//! Without annotations, a container gets exactly what the kubelet would give it; annotations (see `request`) request
//! something else. The result depends only on the pod's content, so that a pod that is admitted again is not changed
//! again. A pod that refers to ConfigMaps records that (`record`); a controller creates them once the pod exists.

mod config_map;
mod container;
mod patch;
mod patch_builder;
mod pod;
mod portals;
mod record;
mod rendered;
mod report;
mod request;
mod selection;
mod var_expansion;
mod warning;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use crate::admission::config_map::{
    Content, ReferredConfigMap, WantedConfigMap, base_name, config_maps, is_old_name, is_ours, old_base_name,
    part_name, split_name,
};
pub use crate::admission::patch::{Operation, PatchOp, PatchValue};
pub use crate::admission::pod::ContainerKind;
pub use crate::admission::record::{
    LABEL_CONFIG_MAP, LABEL_WARNINGS, PARTS_MAX, Record, RecordError, WARNINGS_BYTES_MAX,
};
pub use crate::admission::rendered::{AddedVariables, RenderedVariables};
pub use crate::admission::report::{InjectedVia, InjectionReport};
pub use crate::admission::selection::{Chosen, SELECTION_BYTES_MAX, Selection, render};

use crate::admission::patch_builder::PatchBuilder;
use crate::admission::pod::{PodView, pod_view};
use crate::admission::portals::{PodPortals, pod_portals};
use crate::admission::record::Marks;
use crate::admission::request::{InjectionRequest, OnMissing, injection_request};
use crate::admission::warning::Warnings;
use crate::model::annotation::{PORTALS, SELECTION};
use crate::model::service::ServiceKey;
use crate::model::snapshot::Snapshot;

/// A pod with more containers than this is not changed.
pub const CONTAINERS_MAX: usize = 1_000;
/// Environments above this size are known to slow the start of programs, or to prevent it.
const ENVIRONMENT_BYTES_WARN: usize = 64 << 10;

/// How containers get variables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InjectMode {
    /// Prepended to `env`; variables that the container defines itself are kept.
    Inline,
    /// A ConfigMap as the first of `envFrom`: exactly the kubelet's precedence, and current at each start.
    ConfigMap,
    /// Inline if the result is exact; otherwise a ConfigMap if the pod has a controller.
    #[default]
    Auto,
}

/// Defaults that the operator sets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InjectOptions {
    /// The mode of pods without the annotation.
    pub mode: InjectMode,
    /// The limit of a container's variables in bytes, for pods without the annotation.
    pub bytes_max: Option<usize>,
}

/// A pod at admission.
#[derive(Debug, Clone, Copy)]
pub struct Admission<'a> {
    /// The namespace of the request; the pod itself may not name it yet.
    pub namespace: &'a str,
    /// The annotations of that namespace, which apply if the pod does not have them.
    pub namespace_annotations: &'a BTreeMap<String, String>,
    /// The pod.
    pub pod: &'a Value,
    /// The previous state of the pod, if ephemeral containers are added: only new ones are changed.
    pub old_pod: Option<&'a Value>,
}

/// The result for a pod.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Injection<'a> {
    /// The JSON patch (RFC 6902); empty: the pod is not changed.
    pub patch: Vec<PatchOp<'a>>,
    /// Warnings for the client, within the API server's limits.
    pub warnings: Vec<String>,
    /// The reason why the pod is denied; if set, there is no patch.
    pub denied: Option<String>,
    /// The ConfigMaps that the containers refer to; a controller creates them once the pod exists.
    pub config_maps: Vec<ReferredConfigMap>,
    /// The value of the label `portico.dev/variables`, by which that controller finds the pod.
    pub label: Option<&'static str>,
    /// The value of `portico.dev/portals` that the pod gets from its namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub portals: Option<String>,
    /// The result for each container, with the reason.
    pub containers: Vec<InjectionReport>,
    /// The reason why the pod as a whole is not changed.
    pub skipped: Option<String>,
}

impl Injection<'_> {
    fn skipped(reason: impl Into<String>, warnings: Warnings) -> Self {
        Self { skipped: Some(reason.into()), warnings: warnings.finish(), ..Self::default() }
    }

    fn denied(reason: &str, warnings: Warnings) -> Self {
        Self { denied: Some(warning::sanitized(reason)), warnings: warnings.finish(), ..Self::default() }
    }
}

/// Injects variables into a pod.
#[must_use]
pub fn inject<'a>(snapshot: &Snapshot, options: &InjectOptions, admission: &Admission<'a>) -> Injection<'a> {
    let render = |selection: &Selection| Arc::new(render(snapshot, admission.namespace, selection));
    inject_with(snapshot, options, admission, &render)
}

/// Injects variables into a pod; `render` returns those of a selection in the pod's namespace at this snapshot, for
/// example from a cache.
#[must_use]
pub fn inject_with<'a>(
    snapshot: &Snapshot,
    options: &InjectOptions,
    admission: &Admission<'a>,
    render: &dyn Fn(&Selection) -> Arc<RenderedVariables>,
) -> Injection<'a> {
    let mut warnings = Warnings::default();
    let pod = match pod_view(admission.pod, admission.old_pod) {
        Ok(pod) => pod,
        Err(reason) => {
            warnings.push(format_args!("nothing is injected: {reason}"));
            return Injection::skipped(reason, warnings);
        }
    };
    if pod.is_mirror() {
        return Injection::skipped("a mirror pod shows what the kubelet already runs", warnings);
    }
    let portals = pod_portals(admission, &pod, &mut warnings);
    let request = injection_request(options, admission, &pod);
    let (mut injection, mut marks) = match skip_reason(&pod, &portals, &request, &mut warnings) {
        Some(reason) => (Injection::skipped(reason, warnings), Marks::default()),
        None => inject_variables(snapshot, admission, &pod, request, portals.added_len(), warnings, render),
    };
    if injection.denied.is_none() {
        marks.annotations.extend(portals.inherited.clone().map(|value| (PORTALS.key, value)));
        (injection.portals, injection.label) = (portals.inherited, marks.label);
        injection.patch.extend(pod.marking(marks));
    }
    injection
}

/// Returns the reason if the containers of a pod are not changed.
fn skip_reason(
    pod: &PodView<'_>,
    portals: &PodPortals,
    request: &InjectionRequest,
    warnings: &mut Warnings,
) -> Option<String> {
    if !request.is_enabled {
        return Some("portico.dev/inject is false".to_owned());
    }
    if portals.is_off && !request.is_own {
        return Some("portico.dev/portals is off, and the pod itself requests no variables".to_owned());
    }
    if pod.containers.len() > CONTAINERS_MAX {
        let reason = format!("it has more than {CONTAINERS_MAX} containers");
        warnings.push(format_args!("nothing is injected: {reason}"));
        return Some(reason);
    }
    None
}

/// Injects variables into the containers of a pod, whose annotations will have `added_len` more bytes. Returns the marks
/// for the pod, too.
fn inject_variables<'a>(
    snapshot: &Snapshot,
    admission: &Admission<'a>,
    pod: &PodView<'a>,
    mut request: InjectionRequest,
    added_len: usize,
    mut warnings: Warnings,
    render: &dyn Fn(&Selection) -> Arc<RenderedVariables>,
) -> (Injection<'a>, Marks) {
    if let Some(reason) = refusal(snapshot, admission.namespace, &request, &mut warnings) {
        return (Injection::denied(&reason, warnings), Marks::default());
    }
    if !pod.links && !request.names_services && !pod.is_injected() {
        return without_links(admission, warnings);
    }
    let mut text = request.selection.text();
    let mut cannot_refer = record::refuses(&text, pod.annotations_len() + added_len);
    if admission.old_pod.is_some() {
        // The subresource cannot change annotations, so only the recorded selection is available.
        let recorded = pod.annotation(SELECTION.key);
        let selection = recorded.and_then(|text| Some((text.to_owned(), Selection::from_text(text)?)));
        cannot_refer = match selection {
            None => Some("the pod records no selection, and an ephemeral container cannot add one"),
            Some((recorded, selection)) => {
                (text, request.selection) = (recorded, selection);
                // Debugging a pod must not wait for a service that the pod itself lacks.
                let waits = !request.selection.wait_for.is_empty();
                waits.then_some("an ephemeral container does not wait for services")
            }
        };
    }
    let rendered = render(&request.selection);
    PatchBuilder { snapshot, admission, pod, request: &request, text, cannot_refer, rendered, warnings }
        .build()
}

/// Returns the result for a pod without service links: warnings are recorded, and nothing is injected.
fn without_links<'a>(admission: &Admission<'a>, warnings: Warnings) -> (Injection<'a>, Marks) {
    let reason = "enableServiceLinks is false, and no annotation names services";
    let warnings = warnings.finish();
    let mut marks = Marks::default();
    if !warnings.is_empty() && admission.old_pod.is_none() {
        marks.warn(&warnings);
    }
    (Injection { skipped: Some(reason.to_owned()), warnings, ..Injection::default() }, marks)
}

/// Validates a request. Returns the reason if the pod must be denied; otherwise problems become warnings.
fn refusal(
    snapshot: &Snapshot,
    namespace: &str,
    request: &InjectionRequest,
    warnings: &mut Warnings,
) -> Option<String> {
    let missing = request.required.iter().filter(|key| !is_offered(snapshot, key, namespace)).map(|key| {
        let (name, namespace) = (&key.name, &key.namespace);
        format!(
            "portico.dev/require: service {name} does not exist in namespace {namespace}, or is not offered"
        )
    });
    let missing: Vec<String> = missing.collect();
    if request.on_missing == OnMissing::Deny {
        return request.problems.iter().chain(&missing).next().cloned();
    }
    for problem in request.problems.iter().chain(&missing) {
        warnings.push(problem);
    }
    if request.on_missing == OnMissing::Wait && !missing.is_empty() {
        warnings.push("the containers wait until the services of portico.dev/require exist");
    }
    None
}

/// Whether the service exists and pods of `namespace` may have its variables.
fn is_offered(snapshot: &Snapshot, key: &ServiceKey, namespace: &str) -> bool {
    snapshot.service(key).is_some_and(|service| service.is_offered_to(namespace))
}

#[cfg(test)]
mod tests;
