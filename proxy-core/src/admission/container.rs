//! The operation for one container: inlined variables, or references to ConfigMaps.
//!
//! Inlined variables precede the container's own, so that these can refer to them, as with the kubelet. A name that the
//! container defines itself is not added, as a second entry with the same name would break other tools. The result is
//! exact unless the container refers to the name before it defines it, or may not define it (a missing optional source):
//! there the kubelet's value would show through. With `envFrom`, inline is never exact, as `env` takes precedence over it.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::admission::config_map::ReferredConfigMap;
use crate::admission::patch::{PatchOp, PatchValue};
use crate::admission::pod::ContainerView;
use crate::admission::rendered::{AddedVariables, RenderedVariables};
use crate::admission::report::{InjectedVia, InjectionReport};
use crate::admission::var_expansion::references;

const SOURCES_THAT_MAY_BE_MISSING: [&str; 3] = ["configMapKeyRef", "secretKeyRef", "fileKeyRef"];
const SOURCES_THAT_EXIST: [&str; 2] = ["fieldRef", "resourceFieldRef"];

/// The result of inlining the variables into a container.
#[derive(Debug)]
pub(super) struct Inlined {
    pub(super) added: AddedVariables,
    pub(super) already_defined: Vec<String>,
    pub(super) inexact: Vec<String>,
}

impl Inlined {
    /// Whether the container has the same environment as from the kubelet.
    pub(super) fn is_exact(&self, container: &ContainerView<'_>) -> bool {
        self.inexact.is_empty() && container.unmanaged().next().is_none()
    }
}

/// The names that a container's own `env` defines and refers to.
#[derive(Debug, Default)]
struct Uses<'a> {
    /// The index of the first entry that certainly defines a name; none: it may not be defined.
    defined: HashMap<&'a str, Option<usize>>,
    /// The index of the first entry that refers to a name.
    referred: HashMap<&'a str, usize>,
}

impl<'a> Uses<'a> {
    fn new(env: &'a [Value]) -> Self {
        let mut uses = Self::default();
        for (index, entry) in env.iter().enumerate() {
            for name in text(entry, "value").into_iter().flat_map(references) {
                uses.referred.entry(name).or_insert(index);
            }
            if let Some(name) = text(entry, "name") {
                let defined = uses.defined.entry(name).or_default();
                if defined.is_none() && is_certain(entry) {
                    *defined = Some(index);
                }
            }
        }
        uses
    }

    /// Whether the container's own definition hides a service variable of the same name completely.
    fn hides(&self, name: &str, defined: Option<usize>) -> bool {
        let referred = self.referred.get(name);
        defined.is_some_and(|defined| referred.is_none_or(|referred| *referred > defined))
    }
}

fn text<'a>(entry: &'a Value, key: &str) -> Option<&'a str> {
    entry.get(key)?.as_str()
}

/// Whether the kubelet sets the name, or does not start the container (kubelet_pods.go:835-960).
fn is_certain(entry: &Value) -> bool {
    if text(entry, "value").is_some_and(|value| !value.is_empty()) {
        return true;
    }
    let Some(source) = entry.get("valueFrom").and_then(Value::as_object) else { return true };
    let present = |key: &&str| source.get(*key).filter(|value| !value.is_null());
    let is_optional = |value: &Value| value.get("optional").and_then(Value::as_bool) == Some(true);
    match SOURCES_THAT_MAY_BE_MISSING.iter().find_map(present) {
        Some(value) => !is_optional(value),
        // A source of an unknown kind may be missing, too.
        None => SOURCES_THAT_EXIST.iter().any(|key| present(key).is_some()),
    }
}

/// Inlines the variables into a container, except those that it defines itself.
pub(super) fn inlined(container: &ContainerView<'_>, rendered: &Arc<RenderedVariables>) -> Inlined {
    let uses = Uses::new(container.env.map(Vec::as_slice).unwrap_or_default());
    let both =
        uses.defined.iter().filter_map(|(name, defined)| Some((rendered.position(name)?, *name, *defined)));
    let mut both: Vec<_> = both.collect();
    both.sort_unstable();
    let shows = |(_, name, defined): &&(usize, &str, Option<usize>)| !uses.hides(name, *defined);
    Inlined {
        inexact: both.iter().filter(shows).map(|(_, name, _)| (*name).to_owned()).collect(),
        already_defined: both.iter().map(|(_, name, _)| (*name).to_owned()).collect(),
        added: AddedVariables::new(Arc::clone(rendered), both.iter().map(|(index, ..)| *index).collect()),
    }
}

/// The ConfigMaps to which containers refer.
#[derive(Debug, Default)]
pub(super) struct References {
    /// The ConfigMaps that exist or must exist before the containers start.
    names: Vec<String>,
    /// All of them as sources; spare ones are optional.
    sources: Vec<Value>,
}

impl References {
    pub(super) fn new(referred: &[ReferredConfigMap], spare: &[String]) -> Self {
        let names: Vec<String> = referred.iter().map(|map| map.name.clone()).collect();
        let must = names.iter().map(|name| json!({ "configMapRef": { "name": name } }));
        let may = spare.iter().map(|name| json!({ "configMapRef": { "name": name, "optional": true } }));
        let sources = must.chain(may).collect();
        Self { names, sources }
    }
}

/// Injects the variables into a container as chosen. Returns no operation if the container has them already.
pub(super) fn inject_container<'a>(
    container: &ContainerView<'a>,
    inlined: Inlined,
    (via, reason): (InjectedVia, &'static str),
    references: &References,
) -> (Option<PatchOp<'a>>, InjectionReport) {
    let Inlined { added, already_defined, inexact } = inlined;
    let (op, config_maps) = match via {
        InjectedVia::Inline => (env_op(container, &added), Vec::new()),
        InjectedVia::ConfigMap => (env_from_op(container, &references.sources), references.names.clone()),
    };
    let (kind, name) = (container.kind, container.name.to_owned());
    (op, InjectionReport { kind, name, via, reason, config_maps, added, already_defined, inexact })
}

fn env_op<'a>(container: &ContainerView<'a>, added: &AddedVariables) -> Option<PatchOp<'a>> {
    if added.is_empty() {
        return None;
    }
    let own = container.env.map(Vec::as_slice).unwrap_or_default();
    Some(PatchOp::set(container.env.is_some(), container.path("env"), PatchValue::Env(added.clone(), own)))
}

/// The first sources have the lowest precedence, below everything that the container defines itself.
fn env_from_op<'a>(container: &ContainerView<'a>, managed: &[Value]) -> Option<PatchOp<'a>> {
    let path = container.path("envFrom");
    let Some(sources) = container.env_from else { return Some(PatchOp::add(path, managed)) };
    let wanted: Vec<Value> = managed.iter().chain(container.unmanaged()).cloned().collect();
    if *sources == wanted {
        None
    } else if let ([_], None) = (managed, container.managed().next()) {
        wanted.into_iter().next().map(|first| PatchOp::add([&path, "/0"].concat(), first))
    } else {
        Some(PatchOp::set(true, path, PatchValue::Json(Value::Array(wanted))))
    }
}
