//! One managed ConfigMap as an API server has it.
//!
//! It says itself that it is ours, what it holds (the selection) and when a pod last asked for it, so that every replica
//! can keep it. A ConfigMap that must not be there yet, because containers wait for a service, is remembered by another
//! one: the reminder. What must not go in here: asking the API server.

use std::collections::{BTreeMap, BTreeSet};

use proxy_core::annotation::{SELECTION, USED};
use proxy_core::inject::{Selection, WantedConfigMap, is_ours};
use serde_json::{Value, json};

const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "portico-webhook");
/// All managed ConfigMaps, as the end of a query.
pub(crate) const MANAGED: &str = "&labelSelector=app.kubernetes.io%2Fmanaged-by%3Dportico-webhook";
const REMINDER: &str = "portico-reminder-";

/// What a managed ConfigMap says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Kept {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) version: String,
    /// The text of its selection.
    pub(crate) selection: String,
    pub(crate) data: BTreeMap<String, String>,
    /// When a pod last asked for it, in seconds since 1970.
    pub(crate) used_s: i64,
}

impl Kept {
    /// What this object says; none: it is not ours, though it may have the name.
    pub(crate) fn read(object: &Value) -> Option<Self> {
        let metadata = &object["metadata"];
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let name = text(&metadata["name"]).filter(|name| is_ours(name) || name.starts_with(REMINDER))?;
        if metadata["labels"][MANAGED_BY.0] != MANAGED_BY.1 {
            return None;
        }
        let data = object["data"].as_object().into_iter().flatten();
        Some(Self {
            name,
            namespace: text(&metadata["namespace"])?,
            version: text(&metadata["resourceVersion"])?,
            selection: text(&metadata["annotations"][SELECTION.key])?,
            data: data.filter_map(|(key, value)| Some((key.clone(), text(value)?))).collect(),
            used_s: metadata["annotations"][USED.key]
                .as_str()
                .and_then(|text| text.parse().ok())
                .unwrap_or(0),
        })
    }

    /// What it is to hold, if it can be read.
    pub(crate) fn selection(&self) -> Option<Selection> {
        Selection::from_text(&self.selection)
    }

    /// Whether it only reminds of one that must not be there yet.
    pub(crate) fn is_reminder(&self) -> bool {
        self.name.starts_with(REMINDER)
    }

    /// The name by which pods refer to it, or to what it reminds of.
    pub(crate) fn referred(&self) -> String {
        self.name.strip_prefix(REMINDER).unwrap_or(&self.name).to_owned()
    }

    /// The object that takes its place.
    pub(crate) fn replaced(&self, wanted: &WantedConfigMap, used_s: i64) -> Value {
        let mut object = object(&self.namespace, wanted, used_s);
        object["metadata"]["resourceVersion"] = self.version.as_str().into();
        object
    }
}

/// The name of the object for what is wanted: of the reminder, where it must not be there yet.
pub(crate) fn name(wanted: &WantedConfigMap) -> String {
    if wanted.waits_for.is_empty() { wanted.name.clone() } else { [REMINDER, &wanted.name].concat() }
}

/// The object for what is wanted.
pub(crate) fn object(namespace: &str, wanted: &WantedConfigMap, used_s: i64) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": name(wanted),
            "namespace": namespace,
            "labels": {MANAGED_BY.0: MANAGED_BY.1},
            "annotations": {SELECTION.key: wanted.selection, USED.key: used_s.to_string()},
        },
        "data": wanted.data,
    })
}

/// The path of the ConfigMaps of a namespace.
pub(crate) fn collection(namespace: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/configmaps")
}

/// The ConfigMaps of ours that a pod refers to, unless it has ended.
pub(crate) fn references(pod: &Value) -> Option<BTreeSet<String>> {
    if ["Succeeded", "Failed"].iter().any(|phase| pod["status"]["phase"] == *phase) {
        return None;
    }
    let lists = ["initContainers", "containers", "ephemeralContainers"];
    let each = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let containers = lists.iter().flat_map(|list| each(&pod["spec"][*list]));
    let sources = containers.flat_map(|container| each(&container["envFrom"]));
    let names = sources.filter_map(|source| source["configMapRef"]["name"].as_str().map(str::to_owned));
    Some(names.filter(|name| is_ours(name)).collect())
}
