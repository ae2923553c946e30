//! `PodView`: the parts of a pod that are relevant to the injector, borrowed from the object.
//!
//! An API server sends valid pods; other clients can send anything. An object without the structure of a pod is rejected
//! as a whole, with the path of the error, so that no patch is built for it. `null` counts as absent.

use std::collections::HashSet;

use serde::Serialize;
use serde_json::{Map, Value};

use crate::admission::config_map::is_ours;
use crate::admission::patch::{PatchOp, escaped};
use crate::admission::record::Marks;
use crate::model::annotation::{INJECTED, PARTS, SELECTION, WARNINGS};

/// The annotations that admission writes.
const WRITTEN: [&str; 4] = [INJECTED.key, SELECTION.key, PARTS.key, WARNINGS.key];
const MIRROR_ANNOTATION: &str = "kubernetes.io/config.mirror";

/// The list of a pod that contains a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum ContainerKind {
    /// `initContainers`, sidecars included.
    InitContainer,
    /// `containers`.
    Container,
    /// `ephemeralContainers`.
    EphemeralContainer,
}

impl ContainerKind {
    /// Returns the field of the pod's spec.
    #[must_use]
    pub const fn list(self) -> &'static str {
        match self {
            Self::InitContainer => "initContainers",
            Self::Container => "containers",
            Self::EphemeralContainer => "ephemeralContainers",
        }
    }
}

/// A pod.
#[derive(Debug)]
pub(super) struct PodView<'a> {
    metadata: Option<&'a Map<String, Value>>,
    annotations: Option<&'a Map<String, Value>>,
    labels: Option<&'a Map<String, Value>>,
    /// `enableServiceLinks`; true if it is absent.
    pub(super) links: bool,
    pub(super) has_controller: bool,
    /// Whether it has the network namespace of the node.
    pub(super) is_host_network: bool,
    /// The containers that can be changed.
    pub(super) containers: Vec<ContainerView<'a>>,
}

/// A container.
#[derive(Debug)]
pub(super) struct ContainerView<'a> {
    pub(super) kind: ContainerKind,
    index: usize,
    pub(super) name: &'a str,
    /// `env`, if present.
    pub(super) env: Option<&'a Vec<Value>>,
    /// `envFrom`, if present.
    pub(super) env_from: Option<&'a Vec<Value>>,
}

/// Returns the view of a pod; with its previous state, only of its new ephemeral containers.
///
/// # Errors
/// The object does not have the structure of a pod; the error names the path.
pub(super) fn pod_view<'a>(pod: &'a Value, old: Option<&'a Value>) -> Result<PodView<'a>, String> {
    let pod = pod.as_object().ok_or("the pod is not an object")?;
    let metadata = map(pod, "metadata")?;
    let annotations = metadata.map(|metadata| map(metadata, "annotations")).transpose()?.flatten();
    let labels = metadata.map(|metadata| map(metadata, "labels")).transpose()?.flatten();
    let spec = map(pod, "spec")?.ok_or("the pod has no spec")?;
    let links = flag(spec, "enableServiceLinks", true)?;
    let is_host_network = flag(spec, "hostNetwork", false)?;
    let owners = metadata.map(|metadata| list(metadata, "ownerReferences")).transpose()?.flatten();
    let is_controller = |owner: &Value| owner.get("controller").and_then(Value::as_bool) == Some(true);
    let has_controller = owners.is_some_and(|owners| owners.iter().any(is_controller));
    let mut containers = Vec::new();
    if let Some(old) = old {
        let before = names_before(old);
        let all = containers_in(spec, ContainerKind::EphemeralContainer)?;
        containers.extend(all.into_iter().filter(|container| !before.contains(container.name)));
    } else {
        containers.extend(containers_in(spec, ContainerKind::InitContainer)?);
        containers.extend(containers_in(spec, ContainerKind::Container)?);
    }
    Ok(PodView { metadata, annotations, labels, links, has_controller, is_host_network, containers })
}

fn names_before(old: &Value) -> HashSet<&str> {
    let list = old.get("spec").and_then(|spec| spec.get(ContainerKind::EphemeralContainer.list()));
    let containers = list.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    containers.iter().filter_map(|container| container.get("name")?.as_str()).collect()
}

fn containers_in(spec: &Map<String, Value>, kind: ContainerKind) -> Result<Vec<ContainerView<'_>>, String> {
    let containers = list(spec, kind.list())?.map(Vec::as_slice).unwrap_or_default();
    let views = containers.iter().enumerate().map(|(index, container)| {
        container_view(container, kind, index).map_err(|what| format!("{}[{index}]: {what}", kind.list()))
    });
    views.collect()
}

fn container_view(container: &Value, kind: ContainerKind, index: usize) -> Result<ContainerView<'_>, String> {
    let container = container.as_object().ok_or("not an object")?;
    let name = match present(container, "name") {
        None => "",
        Some(name) => name.as_str().ok_or("its name is not a string")?,
    };
    let env = list(container, "env")?;
    if !env.is_none_or(|env| env.iter().all(is_variable)) {
        return Err("env is not a list of variables".to_owned());
    }
    let env_from = list(container, "envFrom")?;
    if !env_from.is_none_or(|sources| sources.iter().all(Value::is_object)) {
        return Err("envFrom is not a list of sources".to_owned());
    }
    Ok(ContainerView { kind, index, name, env, env_from })
}

fn is_variable(entry: &Value) -> bool {
    let is_text = entry.get("value").is_none_or(|value| value.is_null() || value.is_string());
    let is_source = entry.get("valueFrom").is_none_or(|source| source.is_null() || source.is_object());
    is_text && is_source && entry.get("name").is_some_and(Value::is_string)
}

fn present<'a>(map: &'a Map<String, Value>, key: &str) -> Option<&'a Value> {
    map.get(key).filter(|value| !value.is_null())
}

fn flag(parent: &Map<String, Value>, key: &str, default: bool) -> Result<bool, String> {
    let value = present(parent, key);
    value.map_or(Ok(default), |value| {
        value.as_bool().ok_or_else(|| format!("{key} is neither true nor false"))
    })
}

fn map<'a>(parent: &'a Map<String, Value>, key: &str) -> Result<Option<&'a Map<String, Value>>, String> {
    let value = present(parent, key);
    value.map(|value| value.as_object().ok_or_else(|| format!("{key} is not an object"))).transpose()
}

fn list<'a>(parent: &'a Map<String, Value>, key: &str) -> Result<Option<&'a Vec<Value>>, String> {
    let value = present(parent, key);
    value.map(|value| value.as_array().ok_or_else(|| format!("{key} is not a list"))).transpose()
}

impl PodView<'_> {
    pub(super) fn annotation(&self, name: &str) -> Option<&str> {
        self.annotations?.get(name)?.as_str()
    }

    /// Whether it mirrors a static pod of a kubelet, which changes would not reach.
    pub(super) fn is_mirror(&self) -> bool {
        self.annotation(MIRROR_ANNOTATION).is_some()
    }

    /// Whether it was admitted before; then its owner did not request `enableServiceLinks: false`.
    pub(super) fn is_injected(&self) -> bool {
        self.annotation(INJECTED.key).is_some()
    }

    /// Returns the bytes of its annotations, except those that admission writes.
    pub(super) fn annotations_len(&self) -> usize {
        let others = self.annotations.into_iter().flatten();
        let others = others.filter(|(key, _)| !WRITTEN.contains(&key.as_str()));
        others.map(|(key, value)| key.len() + value.as_str().map_or(0, str::len)).sum()
    }

    /// Returns the operations that set the label and the annotations if the pod lacks them.
    pub(super) fn marking<'p>(&self, Marks { label, annotations }: Marks) -> Vec<PatchOp<'p>> {
        let labels = label.map(|label| (Marks::LABEL, label.to_owned())).into_iter().collect();
        if self.metadata.is_none() {
            let both = [("annotations", object(annotations)), ("labels", object(labels))];
            let both =
                both.into_iter().filter(|(_, object)| object.as_object().is_some_and(|map| !map.is_empty()));
            let both: Map<_, _> = both.map(|(field, object)| (field.to_owned(), object)).collect();
            return if both.is_empty() { Vec::new() } else { vec![PatchOp::add("/metadata", both)] };
        }
        let mut ops = setting("/metadata/annotations", self.annotations, annotations);
        ops.extend(setting("/metadata/labels", self.labels, labels));
        ops
    }
}

fn object(entries: Vec<(&str, String)>) -> Value {
    entries.into_iter().map(|(key, text)| (key.to_owned(), Value::String(text))).collect::<Map<_, _>>().into()
}

/// Returns the operations that set the entries that a map lacks.
fn setting<'p>(
    path: &str,
    found: Option<&Map<String, Value>>,
    entries: Vec<(&str, String)>,
) -> Vec<PatchOp<'p>> {
    let Some(found) = found else {
        return if entries.is_empty() { Vec::new() } else { vec![PatchOp::add(path, object(entries))] };
    };
    let lacks = |(key, text): &(&str, String)| found.get(*key).and_then(Value::as_str) != Some(text);
    let entries = entries.into_iter().filter(lacks);
    entries.map(|(key, text)| PatchOp::add([path, "/", &escaped(key)].concat(), text)).collect()
}

impl<'a> ContainerView<'a> {
    /// Returns the JSON pointer to one of its fields.
    pub(super) fn path(&self, field: &str) -> String {
        format!("/spec/{}/{}/{field}", self.kind.list(), self.index)
    }

    fn sources(&self) -> impl Iterator<Item = &'a Value> {
        self.env_from.into_iter().flatten()
    }

    /// Returns its sources except managed ConfigMaps.
    pub(super) fn unmanaged(&self) -> impl Iterator<Item = &'a Value> {
        self.sources().filter(|source| managed_name(source).is_none())
    }

    /// Returns the names of the managed ConfigMaps among its sources.
    pub(super) fn managed(&self) -> impl Iterator<Item = &'a str> {
        self.sources().filter_map(managed_name)
    }
}

fn managed_name(source: &Value) -> Option<&str> {
    source.get("configMapRef")?.get("name")?.as_str().filter(|name| is_ours(name))
}
