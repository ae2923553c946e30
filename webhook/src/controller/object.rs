//! Managed ConfigMaps as objects of the API, and their metadata.
//!
//! A ConfigMap is managed if it has the label, and its name is the digest of the selection in its annotation. Another
//! client created any other object with the label; the controller ignores it.

use kube_source::ObjectMeta;
use proxy_core::admission::{
    Content, Selection, WantedConfigMap, base_name, is_old_name, old_base_name, split_name,
};
use proxy_core::annotation::{CONTENT, SELECTION};
use serde_json::{Value, json};

/// The label of all managed ConfigMaps.
pub(crate) const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "portico-webhook");
/// The prefix of a reminder: what release 0.1.0 creates instead of a ConfigMap whose services are missing.
pub(crate) const REMINDER: &str = "portico-reminder-";

/// A ConfigMap as it was observed last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Observed {
    /// The resource version, which is the precondition of a change.
    pub(crate) version: Box<str>,
    /// The digest of its data; none if release 0.1.0 wrote it.
    pub(crate) content: Option<Content>,
}

/// The metadata of a managed ConfigMap.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Managed<'a> {
    /// The name of the first ConfigMap of its selection.
    pub(crate) base: &'a str,
    /// Its index among the ConfigMaps of the selection.
    pub(crate) part: usize,
    /// It is a reminder of a ConfigMap that must not exist yet.
    pub(crate) is_reminder: bool,
    /// The name is one of release 0.1.0.
    pub(crate) is_old: bool,
    /// The text of its selection.
    pub(crate) text: &'a str,
}

impl<'a> Managed<'a> {
    /// Parses it; none if it is not managed, despite its label.
    pub(crate) fn read(meta: &'a ObjectMeta) -> Option<Self> {
        let text = meta.annotations.get(SELECTION.key)?;
        let (base, part, is_reminder) = parse_name(&meta.key.name)?;
        Selection::from_text(text)?;
        let is_old = is_old_name(base);
        let expected = if is_old { old_base_name(text) } else { base_name(text) };
        (expected == base).then_some(Self { base, part, is_reminder, is_old, text })
    }
}

/// Parses a name into the name of the first ConfigMap, the index of the part, and whether it is a reminder.
pub(crate) fn parse_name(name: &str) -> Option<(&str, usize, bool)> {
    let rest = name.strip_prefix(REMINDER);
    let (base, part) = split_name(rest.unwrap_or(name))?;
    (rest.is_none() || is_old_name(base)).then_some((base, part, rest.is_some()))
}

/// Returns the version and the digest of the data of an object.
pub(crate) fn observed(meta: &ObjectMeta) -> Observed {
    let content = meta.annotations.get(CONTENT.key).and_then(|text| Content::from_text(text));
    Observed { version: meta.resource_version.clone(), content }
}

/// Returns the object to create, or to replace the one of this version.
pub(crate) fn object(namespace: &str, wanted: &WantedConfigMap, version: Option<&str>) -> Value {
    let mut object = json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": wanted.name,
            "namespace": namespace,
            "labels": {MANAGED_BY.0: MANAGED_BY.1},
            "annotations": {SELECTION.key: wanted.selection, CONTENT.key: wanted.content().to_string()},
        },
        "data": wanted.data,
    });
    if let Some(version) = version {
        object["metadata"]["resourceVersion"] = version.into();
    }
    object
}

/// Returns the path of the ConfigMaps of a namespace.
pub(crate) fn collection(namespace: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/configmaps")
}
