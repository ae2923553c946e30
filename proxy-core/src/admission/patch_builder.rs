//! `PatchBuilder`: chooses how each container of a pod gets the variables, and builds the patch.

use std::sync::Arc;

use crate::admission::container::{Inlined, References, inject_container, inlined};
use crate::admission::patch::PatchOp;
use crate::admission::pod::{ContainerView, PodView};
use crate::admission::record::Marks;
use crate::admission::rendered::RenderedVariables;
use crate::admission::report::{InjectedVia, InjectionReport, summary};
use crate::admission::request::InjectionRequest;
use crate::admission::warning::{Warnings, some_of};
use crate::admission::{Admission, InjectMode, Injection, ReferredConfigMap, config_map};
use crate::model::annotation::INJECTED;
use crate::model::snapshot::Snapshot;

/// The limit of inlined variables per pod, in bytes of JSON: etcd stores 1.5 MiB, and the rest of the pod needs room.
const INLINE_BYTES_MAX: usize = 1 << 20;

/// The inputs of a patch.
pub(super) struct PatchBuilder<'p, 'a> {
    pub(super) snapshot: &'p Snapshot,
    pub(super) admission: &'p Admission<'a>,
    pub(super) pod: &'p PodView<'a>,
    pub(super) request: &'p InjectionRequest,
    /// The text of the selection.
    pub(super) text: String,
    /// The reason why no container can refer to a managed ConfigMap, if any.
    pub(super) cannot_refer: Option<&'static str>,
    pub(super) rendered: Arc<RenderedVariables>,
    pub(super) warnings: Warnings,
}

impl<'a> PatchBuilder<'_, 'a> {
    pub(super) fn build(mut self) -> (Injection<'a>, Marks) {
        if let (Some(reason), true, None) =
            (self.cannot_refer, !self.request.selection.wait_for.is_empty(), self.admission.old_pod)
        {
            self.warnings.push(format_args!("portico.dev/on-missing: the containers do not wait: {reason}"));
        }
        for warning in &self.rendered.warnings {
            self.warnings.push(warning);
        }
        let containers = self.pod.containers.iter();
        let inlined: Vec<Inlined> = containers.map(|container| inlined(container, &self.rendered)).collect();
        let Some(choices) = self.choices(&inlined) else {
            let reason = "inlined variables would make the pod too large, and it cannot refer to a ConfigMap";
            self.warnings.push(format_args!("nothing is injected: {reason}"));
            return (Injection::skipped(reason, self.warnings), Marks::default());
        };
        let refers = choices.iter().any(|(via, _)| *via == InjectedVia::ConfigMap);
        let (config_maps, references) = if refers { self.config_maps() } else { Default::default() };
        let mut patch = Vec::new();
        let mut reports = Vec::new();
        for ((container, inlined), choice) in self.pod.containers.iter().zip(inlined).zip(choices) {
            let (op, report) = inject_container(container, inlined, choice, &references);
            if report.via == InjectedVia::Inline {
                self.warn_of_inline(container, &report);
            }
            patch.extend(op);
            reports.push(report);
        }
        let warnings = std::mem::take(&mut self.warnings).finish();
        let mut marks = Marks::default();
        // The subresource can change only ephemeral containers.
        if self.admission.old_pod.is_none() {
            marks = self.patch_pod(&reports, config_maps.len(), &warnings, &mut patch);
        }
        (Injection { patch, warnings, config_maps, containers: reports, ..Injection::default() }, marks)
    }

    /// Chooses how each container gets the variables, with the reason. Returns none if there is no way.
    fn choices(&mut self, inlined: &[Inlined]) -> Option<Vec<(InjectedVia, &'static str)>> {
        let pairs = self.pod.containers.iter().zip(inlined);
        let mut choices: Vec<_> = pairs.map(|(container, inlined)| self.choice(container, inlined)).collect();
        let inline = inlined.iter().zip(&choices).filter(|(_, (via, _))| *via == InjectedVia::Inline);
        let bytes: usize = inline.map(|(inlined, _)| inlined.added.json_bytes()).sum();
        if bytes > INLINE_BYTES_MAX {
            if self.cannot_refer.is_some() {
                return None;
            }
            let reason = "inlined variables would make the pod too large";
            self.warnings.push(format_args!("{reason} ({bytes} bytes): it gets a ConfigMap"));
            for choice in choices.iter_mut().filter(|(via, _)| *via == InjectedVia::Inline) {
                *choice = (InjectedVia::ConfigMap, reason);
            }
        }
        Some(choices)
    }

    fn choice(&self, container: &ContainerView<'_>, inlined: &Inlined) -> (InjectedVia, &'static str) {
        use InjectedVia::{ConfigMap, Inline};
        if let Some(reason) = self.cannot_refer {
            return (Inline, reason);
        }
        if container.managed().next().is_some() {
            return (ConfigMap, "it already refers to a managed ConfigMap");
        }
        if !self.request.selection.wait_for.is_empty() {
            return (ConfigMap, "portico.dev/on-missing: wait requires one");
        }
        match self.request.mode {
            InjectMode::Inline => (Inline, "the mode is inline"),
            InjectMode::ConfigMap => (ConfigMap, "the mode is configmap"),
            InjectMode::Auto if self.rendered.is_empty() => (Inline, "there are no variables"),
            InjectMode::Auto if !self.pod.has_controller && !inlined.is_exact(container) => {
                (Inline, "inline is not exact here, but the pod has no controller")
            }
            InjectMode::Auto if !inlined.inexact.is_empty() => {
                (ConfigMap, "env uses a name before it defines it, or may not define it")
            }
            InjectMode::Auto if !inlined.is_exact(container) => {
                (ConfigMap, "the content of envFrom is not known at admission")
            }
            InjectMode::Auto => (Inline, "inline is exact here"),
        }
    }

    fn config_maps(&self) -> (Vec<ReferredConfigMap>, References) {
        let namespace = self.admission.namespace;
        let selection = &self.request.selection;
        let (referred, spare) =
            config_map::referred(self.snapshot, namespace, selection, &self.text, &self.rendered);
        let references = References::new(&referred, &spare);
        (referred, references)
    }

    fn warn_of_inline(&mut self, container: &ContainerView<'_>, report: &InjectionReport) {
        let name = &report.name;
        if !report.inexact.is_empty() {
            let names = some_of(&report.inexact);
            self.warnings.push(format_args!(
                "container {name}: env uses a name before it defines it, or may not define it, and no service variable shows through: {names}"
            ));
        }
        if container.unmanaged().next().is_some() && !self.rendered.is_empty() {
            self.warnings.push(format_args!(
                "container {name}: inlined service variables hide those of the same name from its envFrom"
            ));
        }
    }

    /// Patches the pod as a whole, so that the kubelet adds no links. Returns the marks with a summary, and those by which
    /// a controller finds the pod.
    fn patch_pod(
        &self,
        reports: &[InjectionReport],
        parts: usize,
        warnings: &[String],
        patch: &mut Vec<PatchOp<'a>>,
    ) -> Marks {
        if self.pod.links && !self.rendered.needs_links {
            patch.push(PatchOp::add("/spec/enableServiceLinks", false));
        }
        let mut marks = Marks::default();
        if !patch.is_empty() {
            marks.annotations.push((INJECTED.key, summary(reports, &self.rendered)));
        }
        if parts > 0 {
            marks.record(&self.text, parts);
        }
        // A pod that is admitted again does not warn of what the first admission did.
        if !warnings.is_empty() && (!patch.is_empty() || !self.pod.is_injected()) {
            marks.warn(warnings);
        }
        marks
    }
}
