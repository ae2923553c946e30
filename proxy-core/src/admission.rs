//! `Injection`: what is done to a pod at admission, so that its containers have the variables of services.
//!
//! ```text
//! annotations ─ wish ─► Selection ─ rendered ─► variables ─┬─ inline: prepended to env
//! (of pod and namespace)                                   └─ a ConfigMap as envFrom[0]
//! ```
//! Without a wish a container gets exactly what the kubelet would have given it; annotations (see `wish`) ask
//! for something else. Everything is decided from the pod's content, so that a pod that went through once is
//! not changed again. A pod that refers to ConfigMaps says so itself (`record`): a controller makes them once the pod is
//! there. What must not go in here: ConfigMaps made, an API server asked, a log.

mod config_map;
mod container;
mod patch;
mod pod;
mod prepared;
mod record;
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
pub use crate::admission::prepared::{Added, Prepared, Run, prepared};
pub use crate::admission::record::{
    LABEL_CONFIG_MAP, LABEL_WARNINGS, PARTS_MAX, Record, RecordError, WARNINGS_BYTES_MAX,
};
pub use crate::admission::report::{Account, Way};
pub use crate::admission::selection::{Chosen, SELECTION_BYTES_MAX, Selection};
use crate::annotation::{INJECTED, SELECTION};

use crate::admission::container::{Injected, Inlined, References, injected, inlined};
use crate::admission::pod::{ContainerView, PodView, pod_view};
use crate::admission::record::Marks;
use crate::admission::request::{OnMissing, Wish, wish};
use crate::admission::warning::Warnings;
use crate::service::ServiceKey;
use crate::snapshot::Snapshot;

/// A pod with more containers than this is left alone.
pub const CONTAINERS_MAX: usize = 1_000;
/// What inlining may add to a pod, in bytes of JSON: etcd takes 1.5 MiB, and the pod is in there, too.
const INLINE_BYTES_MAX: usize = 1 << 20;
/// From here on programs are known to start slowly or not at all.
const ENVIRONMENT_BYTES_WARN: usize = 64 << 10;

/// How variables come into containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InjectMode {
    /// At the beginning of `env`; what the container defines itself stands.
    Inline,
    /// A ConfigMap as the first of `envFrom`: exactly the kubelet's precedence, fresh at each start.
    ConfigMap,
    /// Inline where that is exact; a ConfigMap where it is not and the pod has a controller.
    #[default]
    Auto,
}

/// What the operator sets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InjectOptions {
    /// For pods that do not say it.
    pub mode: InjectMode,
    /// The most bytes of variables for a container, for pods that do not say it.
    pub bytes_max: Option<usize>,
}

/// A pod on its way through admission.
#[derive(Debug, Clone, Copy)]
pub struct Admission<'a> {
    /// The namespace of the request: the pod may not name it yet.
    pub namespace: &'a str,
    /// The annotations of that namespace, which hold where the pod says nothing.
    pub namespace_annotations: &'a BTreeMap<String, String>,
    /// The pod.
    pub pod: &'a Value,
    /// The pod as it was, where ephemeral containers are added: only those that are new are touched.
    pub old_pod: Option<&'a Value>,
}

/// What is done to a pod.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Injection {
    /// RFC 6902; empty: nothing is changed.
    pub patch: Vec<PatchOp>,
    /// For whoever made the pod, within the API server's limits.
    pub warnings: Vec<String>,
    /// The pod must not be made, and why; then there is no patch.
    pub denied: Option<String>,
    /// What the containers refer to; a controller makes it once the pod is there.
    pub config_maps: Vec<ReferredConfigMap>,
    /// The label by which that controller finds the pod, `portico.dev/variables`.
    pub label: Option<&'static str>,
    /// Container by container, what was done and why.
    pub accounts: Vec<Account>,
    /// Why the pod as a whole was left alone.
    pub untouched: Option<String>,
}

impl Injection {
    fn untouched(why: impl Into<String>, warnings: Warnings) -> Self {
        Self { untouched: Some(why.into()), warnings: warnings.finish(), ..Self::default() }
    }

    fn denied(why: String, warnings: Warnings) -> Self {
        Self { denied: Some(warning::sound(&why)), warnings: warnings.finish(), ..Self::default() }
    }
}

/// What is done to this pod.
#[must_use]
pub fn injection(snapshot: &Snapshot, options: &InjectOptions, admission: &Admission<'_>) -> Injection {
    let prepare = |selection: &Selection| Arc::new(prepared(snapshot, admission.namespace, selection));
    injection_with(snapshot, options, admission, &prepare)
}

/// The same, with variables that come from `prepare`: as of this snapshot and for this namespace, perhaps from memory.
#[must_use]
pub fn injection_with(
    snapshot: &Snapshot,
    options: &InjectOptions,
    admission: &Admission<'_>,
    prepare: &dyn Fn(&Selection) -> Arc<Prepared>,
) -> Injection {
    let mut warnings = Warnings::default();
    let pod = match pod_view(admission.pod, admission.old_pod) {
        Ok(pod) => pod,
        Err(what) => {
            warnings.push(format_args!("nothing is injected: {what}"));
            return Injection::untouched(what, warnings);
        }
    };
    if pod.is_mirror() {
        return Injection::untouched("a mirror pod shows what the kubelet already runs", warnings);
    }
    let mut wish = wish(options, admission, &pod);
    if !wish.is_wanted {
        return Injection::untouched("portico.dev/inject says false", warnings);
    }
    if pod.containers.len() > CONTAINERS_MAX {
        let why = format!("it has more than {CONTAINERS_MAX} containers");
        warnings.push(format_args!("nothing is injected: {why}"));
        return Injection::untouched(why, warnings);
    }
    if let Some(why) = refusal(snapshot, admission.namespace, &wish, &mut warnings) {
        return Injection::denied(why, warnings);
    }
    if !pod.links && !wish.names_services && !pod.is_injected() {
        let why = "enableServiceLinks is false, and no annotation names services";
        let warnings = warnings.finish();
        let mut marks = Marks::default();
        if !warnings.is_empty() && admission.old_pod.is_none() {
            marks.warn(&warnings);
        }
        let (label, patch) = (marks.label, pod.marking(marks));
        return Injection { untouched: Some(why.to_owned()), warnings, label, patch, ..Injection::default() };
    }
    let mut text = wish.selection.text();
    let mut cannot_refer = record::refuses(&text, pod.annotations_len());
    if admission.old_pod.is_some() {
        // The subresource changes no annotation, so what the pod recorded is all that there can be.
        let recorded = pod.annotation(SELECTION.key);
        let selection = recorded.and_then(|text| Some((text.to_owned(), Selection::from_text(text)?)));
        cannot_refer = match selection {
            None => Some("the pod records no selection, and an ephemeral container cannot add one"),
            Some((recorded, selection)) => {
                (text, wish.selection) = (recorded, selection);
                // Nobody who looks into a pod is kept waiting for what the pod itself lacks.
                let waits = !wish.selection.wait_for.is_empty();
                waits.then_some("an ephemeral container does not wait for services")
            }
        };
    }
    let prepared = prepare(&wish.selection);
    Patching { snapshot, admission, pod: &pod, wish: &wish, text, cannot_refer, prepared, warnings }
        .injection()
}

/// Judges the wish itself: why the pod must not be made, if so; otherwise what is wrong becomes a warning.
fn refusal(snapshot: &Snapshot, namespace: &str, wish: &Wish, warnings: &mut Warnings) -> Option<String> {
    let missing = wish.required.iter().filter(|key| !is_there(snapshot, key, namespace)).map(|key| {
        let (name, place) = (&key.name, &key.namespace);
        format!("portico.dev/require: service {name} is not there in namespace {place}, or not offered")
    });
    let missing: Vec<String> = missing.collect();
    if wish.on_missing == OnMissing::Deny {
        return wish.problems.iter().chain(&missing).next().cloned();
    }
    for problem in wish.problems.iter().chain(&missing) {
        warnings.push(problem);
    }
    if wish.on_missing == OnMissing::Wait && !missing.is_empty() {
        warnings.push("the containers wait until what portico.dev/require names is there");
    }
    None
}

/// Whether the service is there and pods of `namespace` may have its variables.
fn is_there(snapshot: &Snapshot, key: &ServiceKey, namespace: &str) -> bool {
    snapshot.service(key).is_some_and(|service| service.is_offered_to(namespace))
}

/// All that is known when the patch is made.
struct Patching<'a> {
    snapshot: &'a Snapshot,
    admission: &'a Admission<'a>,
    pod: &'a PodView<'a>,
    wish: &'a Wish,
    /// The text of the selection.
    text: String,
    /// Why no container may refer to a managed ConfigMap, if so.
    cannot_refer: Option<&'static str>,
    prepared: Arc<Prepared>,
    warnings: Warnings,
}

impl Patching<'_> {
    fn injection(mut self) -> Injection {
        if let (Some(why), true, None) =
            (self.cannot_refer, !self.wish.selection.wait_for.is_empty(), self.admission.old_pod)
        {
            self.warnings.push(format_args!("portico.dev/on-missing: the containers do not wait: {why}"));
        }
        for warning in &self.prepared.rendered.warnings {
            self.warnings.push(warning);
        }
        let containers = self.pod.containers.iter();
        let inlined: Vec<Inlined> = containers.map(|container| inlined(container, &self.prepared)).collect();
        let Some(ways) = self.ways(&inlined) else {
            let why =
                "inlined, the variables would make the pod too large, and it cannot refer to a ConfigMap";
            self.warnings.push(format_args!("nothing is injected: {why}"));
            return Injection::untouched(why, self.warnings);
        };
        let refers = ways.iter().any(|(way, _)| *way == Way::ConfigMap);
        let (config_maps, references) = if refers { self.config_maps() } else { Default::default() };
        let mut patch = Vec::new();
        let mut accounts = Vec::new();
        for ((container, inlined), way) in self.pod.containers.iter().zip(inlined).zip(ways) {
            let Injected { op, account } = injected(container, inlined, way, &references);
            if account.way == Way::Inline {
                self.warn_of_inline(container, &account);
            }
            patch.extend(op);
            accounts.push(account);
        }
        let warnings = std::mem::take(&mut self.warnings).finish();
        let mut label = None;
        // A pod's ephemeral containers are all that their subresource can change.
        if self.admission.old_pod.is_none() {
            label = self.patch_pod(&accounts, config_maps.len(), &warnings, &mut patch);
        }
        Injection { patch, warnings, denied: None, config_maps, label, accounts, untouched: None }
    }
}

impl Patching<'_> {
    /// How the variables come into each container, and why so; none: there is no way.
    fn ways(&mut self, inlined: &[Inlined]) -> Option<Vec<(Way, &'static str)>> {
        let pairs = self.pod.containers.iter().zip(inlined);
        let mut ways: Vec<_> = pairs.map(|(container, inlined)| self.way(container, inlined)).collect();
        let inline = inlined.iter().zip(&ways).filter(|(_, (way, _))| *way == Way::Inline);
        let bytes: usize = inline.map(|(inlined, _)| inlined.added.text_len() / 4 * 3).sum();
        if bytes > INLINE_BYTES_MAX {
            if self.cannot_refer.is_some() {
                return None;
            }
            let why = "inlined, the variables would make the pod too large";
            self.warnings.push(format_args!("{why} ({bytes} bytes): it gets a ConfigMap"));
            for way in ways.iter_mut().filter(|(way, _)| *way == Way::Inline) {
                *way = (Way::ConfigMap, why);
            }
        }
        Some(ways)
    }

    fn way(&self, container: &ContainerView<'_>, inlined: &Inlined) -> (Way, &'static str) {
        if let Some(why) = self.cannot_refer {
            return (Way::Inline, why);
        }
        if container.ours().next().is_some() {
            return (Way::ConfigMap, "it refers to a ConfigMap of ours already");
        }
        if !self.wish.selection.wait_for.is_empty() {
            return (Way::ConfigMap, "portico.dev/on-missing: wait needs one");
        }
        match self.wish.mode {
            InjectMode::Inline => (Way::Inline, "the mode is inline"),
            InjectMode::ConfigMap => (Way::ConfigMap, "the mode is configmap"),
            InjectMode::Auto if self.prepared.is_empty() => (Way::Inline, "there is nothing to inline"),
            InjectMode::Auto if !self.pod.has_controller && !inlined.is_exact(container) => {
                (Way::Inline, "inline is not exact here, but the pod has no controller")
            }
            InjectMode::Auto if !inlined.unsure.is_empty() => {
                (Way::ConfigMap, "env uses a name before it defines it, or may not define it")
            }
            InjectMode::Auto if !inlined.is_exact(container) => {
                (Way::ConfigMap, "envFrom is not readable here")
            }
            InjectMode::Auto => (Way::Inline, "inline is exact here"),
        }
    }

    fn config_maps(&self) -> (Vec<ReferredConfigMap>, References) {
        let (selection, rendered) = (&self.wish.selection, &self.prepared.rendered);
        let namespace = self.admission.namespace;
        let (referred, spare) =
            config_map::referred(self.snapshot, namespace, selection, &self.text, rendered);
        let references = References::new(&referred, &spare);
        (referred, references)
    }

    fn warn_of_inline(&mut self, container: &ContainerView<'_>, account: &Account) {
        let name = &account.name;
        if !account.unsure.is_empty() {
            let names = warning::some_of(&account.unsure);
            self.warnings.push(format_args!(
                "container {name}: env uses a name before it defines it, or may not define it, and no service variable shows through: {names}"
            ));
        }
        if container.others().next().is_some() && !self.prepared.is_empty() {
            self.warnings.push(format_args!(
                "container {name}: inlined service variables hide those of the same name from its envFrom"
            ));
        }
    }

    /// What is said of the pod as a whole: the kubelet adds no links, what was injected can be seen, and a controller
    /// finds what there is to do. The answer is the label.
    fn patch_pod(
        &self,
        accounts: &[Account],
        parts: usize,
        warnings: &[String],
        patch: &mut Vec<PatchOp>,
    ) -> Option<&'static str> {
        if self.pod.links && !self.prepared.rendered.needs_links {
            patch.push(PatchOp::add("/spec/enableServiceLinks", false));
        }
        let mut marks = Marks::default();
        if !patch.is_empty() {
            marks.annotations.push((INJECTED.key, report::summary(accounts, &self.prepared.rendered)));
        }
        if parts > 0 {
            marks.record(&self.text, parts);
        }
        // A pod that comes again does not warn of what was done to it the first time.
        if !warnings.is_empty() && (!patch.is_empty() || !self.pod.is_injected()) {
            marks.warn(warnings);
        }
        let label = marks.label;
        patch.extend(self.pod.marking(marks));
        label
    }
}

#[cfg(test)]
mod tests;
