//! `ObjectMeta`: the metadata of an object, without its content.
//!
//! The API server sends only metadata (`PartialObjectMetadata`), so a large object costs no more than a small one. The
//! consumer selects the labels and annotations that are kept.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde::Deserialize;

use crate::cluster::decoder::{ACCEPT_METADATA, Decoder};
use crate::cluster::object::{Object, ObjectKey};
use crate::cluster::object_head::ObjectHead;
use crate::objects::metadata::Names;

/// The maximum size of the selected labels and annotations and the owners of an object.
const META_BYTES_MAX: usize = 64 << 10;
/// The maximum number of owners that are kept. The controller is always kept.
const OWNERS_MAX: usize = 16;

/// The metadata of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectMeta {
    /// The namespace and name.
    pub key: ObjectKey,
    /// The UID. An object that is deleted and created again has another one.
    pub uid: Box<str>,
    /// The resource version, for preconditions.
    pub resource_version: Box<str>,
    /// The selected labels.
    pub labels: BTreeMap<Box<str>, Box<str>>,
    /// The selected annotations.
    pub annotations: BTreeMap<Box<str>, Box<str>>,
    /// The owners: the controller first, and at most 16.
    pub owner_references: Vec<OwnerReference>,
    /// The creation time, in seconds since 1970.
    pub created_s: Option<i64>,
    /// The time at which the deletion was requested, in seconds since 1970.
    pub deleted_s: Option<i64>,
}

/// An owner of an object.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct OwnerReference {
    /// The API group and version.
    pub api_version: Box<str>,
    /// The kind.
    pub kind: Box<str>,
    /// The name.
    pub name: Box<str>,
    /// The UID.
    pub uid: Box<str>,
    /// Whether the owner is the controller of the object.
    pub controller: bool,
}

/// A `PartialObjectMetadata` object.
#[derive(Deserialize)]
struct PartialObject {
    metadata: PartialMeta,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct PartialMeta {
    namespace: String,
    name: String,
    uid: Box<str>,
    resource_version: Box<str>,
    labels: Option<BTreeMap<Box<str>, Box<str>>>,
    annotations: Option<BTreeMap<Box<str>, Box<str>>>,
    owner_references: Option<Vec<OwnerReference>>,
    creation_timestamp: Option<Time>,
    deletion_timestamp: Option<Time>,
}

/// The metadata of an object, or the reason for its rejection.
pub(super) type MetaContent = Result<ObjectMeta, String>;

/// Decodes the metadata of the objects of one resource.
pub(super) struct MetaDecoder {
    pub(super) resource: String,
    /// The selected keys. A key that ends with `/` is a prefix.
    pub(super) labels: Vec<String>,
    pub(super) annotations: Vec<String>,
}

impl Decoder for MetaDecoder {
    type Content = MetaContent;

    fn kind(&self) -> &str {
        &self.resource
    }

    fn accept(&self) -> (&'static str, &'static str) {
        ACCEPT_METADATA
    }

    fn decode(&self, text: &[u8], names: &mut Names) -> serde_json::Result<Object<MetaContent>> {
        let PartialObject { metadata } = serde_json::from_slice(text)?;
        let PartialMeta { namespace, name, uid, resource_version, labels, annotations, .. } = metadata;
        let PartialMeta { owner_references, creation_timestamp, deletion_timestamp, .. } = metadata;
        let version = resource_version.parse().ok();
        let head = ObjectHead { namespace, name, version, ..ObjectHead::default() };
        if head.name.is_empty() {
            return Ok(self.undecoded(&head, "no object can refer to it", names));
        }
        let mut owners = owner_references.unwrap_or_default();
        owners.sort_by_key(|owner| !owner.controller);
        owners.truncate(OWNERS_MAX);
        let meta = ObjectMeta {
            key: ObjectKey { namespace: names.get(&head.namespace), name: names.get(&head.name) },
            uid,
            resource_version,
            labels: select(labels.unwrap_or_default(), &self.labels),
            annotations: select(annotations.unwrap_or_default(), &self.annotations),
            owner_references: owners,
            created_s: creation_timestamp.map(|time| time.0.as_second()),
            deleted_s: deletion_timestamp.map(|time| time.0.as_second()),
        };
        let bytes = meta.bytes();
        if bytes > META_BYTES_MAX {
            let reason =
                format!("labels, annotations and owners have {bytes} bytes, more than {META_BYTES_MAX}");
            return Ok(self.undecoded(&head, &reason, names));
        }
        Ok(Object { key: Some(meta.key.clone()), version, content: Ok(meta) })
    }

    fn rejected(reason: String) -> MetaContent {
        Err(reason)
    }
}

impl ObjectMeta {
    /// Returns the size of all texts of unbounded length.
    fn bytes(&self) -> usize {
        let texts = self.labels.iter().chain(&self.annotations).map(|(key, text)| key.len() + text.len());
        let owners = self.owner_references.iter();
        let owners = owners.map(|owner| owner.name.len() + owner.kind.len() + owner.api_version.len());
        texts.chain(owners).sum()
    }
}

/// Returns the entries with these keys. A key that ends with `/` is a prefix.
fn select(texts: BTreeMap<Box<str>, Box<str>>, keys: &[String]) -> BTreeMap<Box<str>, Box<str>> {
    let is_selected = |name: &str| {
        keys.iter().any(|key| name == key || key.ends_with('/') && name.starts_with(key.as_str()))
    };
    texts.into_iter().filter(|(name, _)| is_selected(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(text: &str) -> Object<MetaContent> {
        let decoder = MetaDecoder {
            resource: "pods".to_owned(),
            labels: vec!["app".to_owned()],
            annotations: vec!["portico.dev/".to_owned()],
        };
        decoder.decode(text.as_bytes(), &mut Names::default()).unwrap()
    }

    #[test]
    fn only_selected_labels_and_annotations_are_kept() {
        let object = decode(
            r#"{"kind":"PartialObjectMetadata","metadata":{"name":"a","namespace":"d","uid":"u","resourceVersion":"7",
            "labels":{"app":"x","other":"y"},"annotations":{"portico.dev/mode":"relay","note":"z"},
            "creationTimestamp":"2026-09-21T14:13:20Z","deletionTimestamp":null,"managedFields":[{}],
            "ownerReferences":[{"kind":"Job","name":"j","uid":"1","apiVersion":"batch/v1"},
            {"kind":"ReplicaSet","name":"r","uid":"2","apiVersion":"apps/v1","controller":true,"blockOwnerDeletion":true}]},
            "data":{"x":"y"}}"#,
        );
        let meta = object.content.unwrap();
        assert_eq!((&*meta.key.namespace, &*meta.key.name, &*meta.uid), ("d", "a", "u"));
        assert_eq!((object.version, &*meta.resource_version), (Some(7), "7"));
        assert_eq!(meta.labels.into_iter().collect::<Vec<_>>(), [("app".into(), "x".into())]);
        let annotation = ("portico.dev/mode".into(), "relay".into());
        assert_eq!(meta.annotations.into_iter().collect::<Vec<_>>(), [annotation]);
        let owners: Vec<_> =
            meta.owner_references.iter().map(|owner| (&*owner.name, owner.controller)).collect();
        assert_eq!(owners, [("r", true), ("j", false)]);
        assert_eq!((meta.created_s, meta.deleted_s), (Some(1_790_000_000), None));
    }

    #[test]
    fn metadata_over_the_limit_is_rejected_by_name() {
        let text = "x".repeat(META_BYTES_MAX);
        let object = decode(&format!(
            r#"{{"metadata":{{"name":"a","namespace":"d","resourceVersion":"7","annotations":{{"portico.dev/mode":"{text}"}}}}}}"#
        ));
        assert!(object.content.unwrap_err().starts_with("pods d/a: labels, annotations and owners have"));
        assert_eq!(object.key.map(|key| key.name), Some("a".into()));
        let object = decode(&format!(
            r#"{{"metadata":{{"name":"a","namespace":"d","resourceVersion":"7","annotations":{{"note":"{text}"}}}}}}"#
        ));
        assert!(object.content.is_ok(), "annotations that are not selected do not count");
    }
}
