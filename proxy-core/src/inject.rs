//! `Injection`: what is done to a pod at admission, so that its containers have the variables of services.
//!
//! ```text
//! annotations ─ wish ─► Selection ─ rendered ─► variables ─┬─ inline: prepended to env
//! (of pod and namespace)                                   └─ a ConfigMap as envFrom[0]
//! ```
//! Without a wish a container gets exactly what the kubelet would have given it; annotations (see `wish`) ask
//! for something else. Everything is decided from the pod's content, so that a pod that went through once is
//! not changed again. What must not go in here: ConfigMaps made, an API server asked, a log.

mod account;
mod config_map;
mod container;
mod patch;
mod pod;
mod prepared;
mod reference;
mod selection;
mod warning;
mod wish;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::annotation::INJECTED;
pub use crate::inject::account::{Account, Way};
pub use crate::inject::config_map::{WantedConfigMap, config_maps, is_ours};
pub use crate::inject::patch::{Operation, PatchOp, PatchValue};
pub use crate::inject::pod::ContainerKind;
pub use crate::inject::prepared::{Added, Prepared, Run, prepared};
pub use crate::inject::selection::{Chosen, Selection};

use crate::inject::container::{Injected, Inlined, References, injected, inlined};
use crate::inject::pod::{ContainerView, PodView, pod_view};
use crate::inject::warning::Warnings;
use crate::inject::wish::{OnMissing, Wish, wish};
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
    /// Nothing may be made for it.
    pub dry_run: bool,
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
    /// What the containers refer to; must be there before they start. None for a dry run.
    pub config_maps: Vec<WantedConfigMap>,
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
    let wish = wish(options, admission, &pod);
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
        return Injection::untouched(
            "enableServiceLinks is false, and no annotation names services",
            warnings,
        );
    }
    let prepared = prepare(&wish.selection);
    Patching { snapshot, admission, pod: &pod, wish: &wish, prepared, warnings }.injection()
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
    prepared: Arc<Prepared>,
    warnings: Warnings,
}

impl Patching<'_> {
    fn injection(mut self) -> Injection {
        for warning in &self.prepared.rendered.warnings {
            self.warnings.push(warning);
        }
        let containers = self.pod.containers.iter();
        let inlined: Vec<Inlined> = containers.map(|container| inlined(container, &self.prepared)).collect();
        let ways = self.ways(&inlined);
        let wanted = ways.iter().any(|(way, _)| *way == Way::ConfigMap);
        let (wanted, references) = if wanted { self.config_maps() } else { Default::default() };
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
        // A pod's ephemeral containers are all that their subresource can change.
        if self.admission.old_pod.is_none() {
            self.patch_pod(&accounts, &mut patch);
        }
        let config_maps = if self.admission.dry_run { Vec::new() } else { wanted };
        let warnings = self.warnings.finish();
        Injection { patch, warnings, denied: None, config_maps, accounts, untouched: None }
    }
}

impl Patching<'_> {
    /// How the variables come into each container, and why so.
    fn ways(&mut self, inlined: &[Inlined]) -> Vec<(Way, &'static str)> {
        let pairs = self.pod.containers.iter().zip(inlined);
        let mut ways: Vec<_> = pairs.map(|(container, inlined)| self.way(container, inlined)).collect();
        let inline = inlined.iter().zip(&ways).filter(|(_, (way, _))| *way == Way::Inline);
        let bytes: usize = inline.map(|(inlined, _)| inlined.added.text_len() / 4 * 3).sum();
        if bytes > INLINE_BYTES_MAX {
            let why = "inlined, the variables would make the pod too large";
            self.warnings.push(format_args!("{why} ({bytes} bytes): it gets a ConfigMap"));
            for way in ways.iter_mut().filter(|(way, _)| *way == Way::Inline) {
                *way = (Way::ConfigMap, why);
            }
        }
        ways
    }

    fn way(&self, container: &ContainerView<'_>, inlined: &Inlined) -> (Way, &'static str) {
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

    fn config_maps(&self) -> (Vec<WantedConfigMap>, References) {
        let (selection, rendered) = (&self.wish.selection, &self.prepared.rendered);
        let wanted = config_map::of_rendered(self.snapshot, self.admission.namespace, selection, rendered);
        let spare = config_map::spare_names(selection, rendered, wanted.len());
        let references = References::new(&wanted, &spare);
        (wanted, references)
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

    /// What is said of the pod as a whole: the kubelet adds no links, and what was injected can be seen.
    fn patch_pod(&self, accounts: &[Account], patch: &mut Vec<PatchOp>) {
        if self.pod.links && !self.prepared.rendered.needs_links {
            patch.push(PatchOp::add("/spec/enableServiceLinks", false));
        }
        if !patch.is_empty() {
            patch
                .push(self.pod.annotating(INJECTED.key, account::summary(accounts, &self.prepared.rendered)));
        }
    }
}

#[cfg(test)]
mod tests;
