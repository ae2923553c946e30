//! `ObjectMeta`: the metadata of an object, without its content.
//!
//! A server that is asked for `PartialObjectMetadata` sends nothing else, so a large object costs no more than a small
//! one. Of labels and annotations the caller names those that are kept. What must not go in here: what a label means.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde::Deserialize;

use crate::cluster::decoder::Decoder;
use crate::cluster::head::Head;
use crate::cluster::object::{Object, ObjectKey};
use crate::objects::metadata::Names;

/// The most that is kept of one object: labels, annotations and owners together.
const KEPT_BYTES_MAX: usize = 64 << 10;
/// How many owners of an object are kept; its controller always is.
const OWNERS_MAX: usize = 16;

/// The metadata of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectMeta {
    /// Its namespace, empty if it has none, and its name.
    pub key: ObjectKey,
    /// Its identity: an object that is deleted and created again has another one.
    pub uid: Box<str>,
    /// The version that the server gave it, to be named as a precondition.
    pub resource_version: Box<str>,
    /// Those of its labels that are kept.
    pub labels: BTreeMap<Box<str>, Box<str>>,
    /// Those of its annotations that are kept.
    pub annotations: BTreeMap<Box<str>, Box<str>>,
    /// Its owners: the controller first, and at most 16.
    pub owner_references: Vec<OwnerReference>,
    /// When it was created, in seconds since 1970.
    pub created_s: Option<i64>,
    /// When its deletion was asked for, in seconds since 1970.
    pub deleted_s: Option<i64>,
}

/// An owner of an object.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct OwnerReference {
    /// The version of its API, with the group.
    pub api_version: Box<str>,
    /// Its kind.
    pub kind: Box<str>,
    /// Its name.
    pub name: Box<str>,
    /// Its identity.
    pub uid: Box<str>,
    /// Whether it is the controller of the object.
    pub controller: bool,
}

/// What a server sends of an object.
#[derive(Deserialize)]
struct Partial {
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

/// What is kept of an object, or why it cannot be used.
pub(super) type Kept = Result<ObjectMeta, String>;

/// Reads the metadata of objects of one kind.
pub(super) struct MetaDecoder {
    pub(super) resource: String,
    /// A key that is kept; one that ends with `/` stands for all that begin with it.
    pub(super) labels: Vec<String>,
    pub(super) annotations: Vec<String>,
}

impl Decoder for MetaDecoder {
    type Content = Kept;

    fn kind(&self) -> &str {
        &self.resource
    }

    fn accept(&self) -> (&'static str, &'static str) {
        (
            "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json",
            "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json",
        )
    }

    fn decode(&self, text: &[u8], names: &mut Names) -> serde_json::Result<Object<Kept>> {
        let Partial { metadata } = serde_json::from_slice(text)?;
        let PartialMeta { namespace, name, uid, resource_version, labels, annotations, .. } = metadata;
        let PartialMeta { owner_references, creation_timestamp, deletion_timestamp, .. } = metadata;
        let version = resource_version.parse().ok();
        let head = Head { namespace, name, version, ..Head::default() };
        if head.name.is_empty() {
            return Ok(self.unread(&head, "nothing can refer to it", names));
        }
        let mut owners = owner_references.unwrap_or_default();
        owners.sort_by_key(|owner| !owner.controller);
        owners.truncate(OWNERS_MAX);
        let meta = ObjectMeta {
            key: ObjectKey { namespace: names.get(&head.namespace), name: names.get(&head.name) },
            uid,
            resource_version,
            labels: kept(labels.unwrap_or_default(), &self.labels),
            annotations: kept(annotations.unwrap_or_default(), &self.annotations),
            owner_references: owners,
            created_s: creation_timestamp.map(|time| time.0.as_second()),
            deleted_s: deletion_timestamp.map(|time| time.0.as_second()),
        };
        let bytes = meta.bytes();
        if bytes > KEPT_BYTES_MAX {
            let why =
                format!("its labels, annotations and owners take {bytes} bytes, limit {KEPT_BYTES_MAX}");
            return Ok(self.unread(&head, &why, names));
        }
        Ok(Object { key: Some(meta.key.clone()), version, content: Ok(meta) })
    }

    fn refused(why: String) -> Kept {
        Err(why)
    }
}

impl ObjectMeta {
    /// How long its texts are that may be of any length.
    fn bytes(&self) -> usize {
        let texts = self.labels.iter().chain(&self.annotations).map(|(key, text)| key.len() + text.len());
        let owners = self.owner_references.iter();
        let owners = owners.map(|owner| owner.name.len() + owner.kind.len() + owner.api_version.len());
        texts.chain(owners).sum()
    }
}

fn kept(texts: BTreeMap<Box<str>, Box<str>>, keys: &[String]) -> BTreeMap<Box<str>, Box<str>> {
    let is_kept = |name: &str| {
        keys.iter().any(|key| name == key || key.ends_with('/') && name.starts_with(key.as_str()))
    };
    texts.into_iter().filter(|(name, _)| is_kept(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Object<Kept> {
        let decoder = MetaDecoder {
            resource: "pods".to_owned(),
            labels: vec!["app".to_owned()],
            annotations: vec!["portico.dev/".to_owned()],
        };
        decoder.decode(text.as_bytes(), &mut Names::default()).unwrap()
    }

    #[test]
    fn what_is_asked_for_is_kept_and_nothing_else() {
        let object = read(
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
    fn metadata_over_its_limit_is_refused_by_name() {
        let text = "x".repeat(KEPT_BYTES_MAX);
        let object = read(&format!(
            r#"{{"metadata":{{"name":"a","namespace":"d","resourceVersion":"7","annotations":{{"portico.dev/mode":"{text}"}}}}}}"#
        ));
        assert!(object.content.unwrap_err().starts_with("pods d/a: its labels, annotations and owners take"));
        assert_eq!(object.key.map(|key| key.name), Some("a".into()));
        let object = read(&format!(
            r#"{{"metadata":{{"name":"a","namespace":"d","resourceVersion":"7","annotations":{{"note":"{text}"}}}}}}"#
        ));
        assert!(object.content.is_ok(), "what is not kept does not count");
    }
}
