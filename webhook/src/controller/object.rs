//! A managed ConfigMap as an object of an API server, and what its metadata says.
//!
//! A ConfigMap counts as managed if it has the label and its name is the digest of the selection that it says it holds:
//! anything else that has the label was made by somebody else, and is passed over. What must not go in here: asking the
//! API server.

use kube_source::ObjectMeta;
use proxy_core::admission::{
    Content, Selection, WantedConfigMap, base_name, is_old_name, old_base_name, split_name,
};
use proxy_core::annotation::{CONTENT, SELECTION};
use serde_json::{Value, json};

/// The label of all managed ConfigMaps.
pub(crate) const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "portico-webhook");
/// What release 0.1.0 has instead of a ConfigMap whose services are missing.
pub(crate) const REMINDER: &str = "portico-reminder-";

/// One ConfigMap as it was seen last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    /// The version, which is the precondition of a change.
    pub(crate) version: Box<str>,
    /// What stands for its data; none: release 0.1.0 wrote it.
    pub(crate) content: Option<Content>,
}

/// What the metadata of a managed ConfigMap says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Managed<'a> {
    /// The name of the first ConfigMap of its selection.
    pub(crate) base: &'a str,
    /// Which of them it is.
    pub(crate) part: usize,
    /// It stands for one that must not be there yet.
    pub(crate) is_reminder: bool,
    /// Release 0.1.0 gave the name.
    pub(crate) is_old: bool,
    /// The text of its selection.
    pub(crate) text: &'a str,
}

impl<'a> Managed<'a> {
    /// Reads it; none: it is not managed, whatever label it has.
    pub(crate) fn read(meta: &'a ObjectMeta) -> Option<Self> {
        let text = meta.annotations.get(SELECTION.key)?;
        let (base, part, is_reminder) = names(&meta.key.name)?;
        Selection::from_text(text)?;
        let is_old = is_old_name(base);
        let expected = if is_old { old_base_name(text) } else { base_name(text) };
        (expected == base).then_some(Self { base, part, is_reminder, is_old, text })
    }
}

/// The name of the first ConfigMap, which part this is, and whether it is a reminder.
pub(crate) fn names(name: &str) -> Option<(&str, usize, bool)> {
    let rest = name.strip_prefix(REMINDER);
    let (base, part) = split_name(rest.unwrap_or(name))?;
    (rest.is_none() || is_old_name(base)).then_some((base, part, rest.is_some()))
}

/// What the metadata of an object says of its data.
pub(crate) fn found(meta: &ObjectMeta) -> Found {
    let content = meta.annotations.get(CONTENT.key).and_then(|text| Content::from_text(text));
    Found { version: meta.resource_version.clone(), content }
}

/// The object for what is wanted, to be created or in place of one of this version.
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

/// The path of the ConfigMaps of a namespace.
pub(crate) fn collection(namespace: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/configmaps")
}
