//! What is done to one container: inlined variables, or references to ConfigMaps.
//!
//! Inlined variables stand before the container's own, so that these can refer to them, as with the kubelet; a
//! name that the container defines is left to it, as two entries of one name would break others. That is exact
//! unless the container refers to the name no later than it defines it, or may not define it after all (a missing
//! optional source): there the kubelet's value would show through. Before `envFrom` nothing is exact inline, as
//! any entry of `env` stands above it. What must not go in here: the choice between the two ways.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::admission::config_map::ReferredConfigMap;
use crate::admission::patch::{PatchOp, PatchValue};
use crate::admission::pod::ContainerView;
use crate::admission::prepared::{Added, Prepared};
use crate::admission::report::{Account, Way};
use crate::admission::var_expansion::references;

const SOURCES_THAT_MAY_MISS: [&str; 3] = ["configMapKeyRef", "secretKeyRef", "fileKeyRef"];
const SOURCES_THAT_ARE_THERE: [&str; 2] = ["fieldRef", "resourceFieldRef"];

/// What inlining comes to.
#[derive(Debug)]
pub(super) struct Inlined {
    pub(super) added: Added,
    pub(super) kept: Vec<String>,
    pub(super) unsure: Vec<String>,
}

impl Inlined {
    /// Whether the container has the same environment as from the kubelet.
    pub(super) fn is_exact(&self, container: &ContainerView<'_>) -> bool {
        self.unsure.is_empty() && container.others().next().is_none()
    }
}

/// What a container's own `env` does with names.
#[derive(Debug, Default)]
struct Uses<'a> {
    /// Where a name is first defined for certain; none: it may not be.
    defined: HashMap<&'a str, Option<usize>>,
    /// Where a name is first referred to.
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

    /// Whether nothing of a service's variable would show through where the container defines the name.
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
    match SOURCES_THAT_MAY_MISS.iter().find_map(present) {
        Some(value) => !is_optional(value),
        // A kind that is not known here may miss, too.
        None => SOURCES_THAT_ARE_THERE.iter().any(|key| present(key).is_some()),
    }
}

/// What inlining these variables into a container comes to.
pub(super) fn inlined(container: &ContainerView<'_>, prepared: &Arc<Prepared>) -> Inlined {
    let uses = Uses::new(container.env.map(Vec::as_slice).unwrap_or_default());
    let both =
        uses.defined.iter().filter_map(|(name, defined)| Some((prepared.place(name)?, *name, *defined)));
    let mut both: Vec<_> = both.collect();
    both.sort_unstable();
    let shows = |(_, name, defined): &&(usize, &str, Option<usize>)| !uses.hides(name, *defined);
    Inlined {
        unsure: both.iter().filter(shows).map(|(_, name, _)| (*name).to_owned()).collect(),
        kept: both.iter().map(|(_, name, _)| (*name).to_owned()).collect(),
        added: Added::new(Arc::clone(prepared), both.iter().map(|(place, ..)| *place).collect()),
    }
}

/// The ConfigMaps to which containers refer.
#[derive(Debug, Default)]
pub(super) struct References {
    /// Those that there are now, or will be before the containers start.
    names: Vec<String>,
    /// All of them as sources; what is spare may be absent.
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

/// What is done to a container: none if it has everything already.
pub(super) struct Injected {
    pub(super) op: Option<PatchOp>,
    pub(super) account: Account,
}

/// Brings the variables into a container in this way.
pub(super) fn injected(
    container: &ContainerView<'_>,
    inlined: Inlined,
    (way, why): (Way, &'static str),
    references: &References,
) -> Injected {
    let Inlined { added, kept, unsure } = inlined;
    let op = match way {
        Way::Inline => env_op(container, &added),
        Way::ConfigMap => env_from_op(container, &references.sources),
    };
    let config_maps = if way == Way::ConfigMap { references.names.clone() } else { Vec::new() };
    let (kind, name) = (container.kind, container.name.to_owned());
    Injected { op, account: Account { kind, name, way, why, config_maps, added, kept, unsure } }
}

fn env_op(container: &ContainerView<'_>, added: &Added) -> Option<PatchOp> {
    if added.is_empty() {
        return None;
    }
    // A list of values is always JSON.
    let theirs = serde_json::to_string(container.env.unwrap_or(&Vec::new())).unwrap_or_default();
    let value = PatchValue::Env(added.clone(), theirs);
    Some(PatchOp::put(container.env.is_some(), container.path("env"), value))
}

/// The first sources have the lowest precedence, below all that the container says itself.
fn env_from_op(container: &ContainerView<'_>, ours: &[Value]) -> Option<PatchOp> {
    let path = container.path("envFrom");
    let Some(sources) = container.env_from else { return Some(PatchOp::add(path, ours)) };
    let wanted: Vec<Value> = ours.iter().chain(container.others()).cloned().collect();
    if *sources == wanted {
        None
    } else if let ([_], None) = (ours, container.ours().next()) {
        wanted.into_iter().next().map(|first| PatchOp::add([&path, "/0"].concat(), first))
    } else {
        Some(PatchOp::put(true, path, PatchValue::Json(Value::Array(wanted))))
    }
}
