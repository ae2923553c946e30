//! `Store`: the objects of the double with their versions and history, and selectors.

use std::collections::BTreeMap;
use std::time::Instant;

use serde_json::{Value, json};

use super::kind::Kind;

/// The resource, the namespace and the name.
pub(crate) type Key = (&'static str, String, String);

/// One change, with the object before and after it.
#[derive(Debug, Clone)]
struct LogEntry {
    at: Instant,
    version: u64,
    key: Key,
    old: Option<Value>,
    new: Option<Value>,
}

/// The objects of the double.
#[derive(Debug, Default)]
pub(crate) struct Store {
    pub version: u64,
    /// The oldest version that has not expired.
    oldest: u64,
    objects: BTreeMap<Key, Value>,
    log: Vec<LogEntry>,
}

impl Store {
    /// The current object of this name.
    pub(crate) fn get(&self, kind: Kind, namespace: &str, name: &str) -> Option<&Value> {
        self.objects.get(&(kind.resource, namespace.to_owned(), name.to_owned()))
    }

    pub(crate) fn put(&mut self, mut object: Value) {
        let kind = Kind::of(&object);
        let metadata = &mut object["metadata"];
        if kind.is_namespaced && metadata["namespace"].is_null() {
            metadata["namespace"] = "default".into();
        }
        let text = |key: &str| metadata[key].as_str().unwrap_or_default().to_owned();
        let key = (kind.resource, text("namespace"), text("name"));
        object["apiVersion"] = kind.api_version().into();
        let old = self.objects.get(&key).cloned();
        if let Some(old) = &old {
            object["metadata"]["resourceVersion"] = old["metadata"]["resourceVersion"].clone();
            if *old == object {
                return;
            }
        }
        self.version += 1;
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        self.objects.insert(key.clone(), object.clone());
        self.log.push(LogEntry { at: Instant::now(), version: self.version, key, old, new: Some(object) });
    }

    pub(crate) fn delete(&mut self, kind: Kind, namespace: &str, name: &str) {
        let key = (kind.resource, namespace.to_owned(), name.to_owned());
        let Some(old) = self.objects.remove(&key) else { return };
        self.version += 1;
        self.log.push(LogEntry { at: Instant::now(), version: self.version, key, old: Some(old), new: None });
    }

    /// Expires the history.
    pub(crate) fn expire(&mut self) {
        self.version += 1;
        self.oldest = self.version;
        self.log.clear();
    }

    /// The namespace, name and time of creation of each object of a kind.
    pub(crate) fn created_objects(&self, kind: Kind) -> Vec<(String, String, Instant)> {
        let made = self.log.iter().filter(|entry| entry.old.is_none() && entry.key.0 == kind.resource);
        made.map(|LogEntry { key: (_, namespace, name), at, .. }| (namespace.clone(), name.clone(), *at))
            .collect()
    }

    pub(crate) fn has_version(&self, version: u64) -> bool {
        version >= self.oldest
    }

    /// The objects of a kind at a version.
    pub(crate) fn at(&self, version: u64, kind: Kind, selector: &Selector) -> Vec<(Key, Value)> {
        let mut objects = self.objects.clone();
        for entry in self.log.iter().rev().filter(|entry| entry.version > version) {
            match &entry.old {
                Some(old) => objects.insert(entry.key.clone(), old.clone()),
                None => objects.remove(&entry.key),
            };
        }
        let of_kind = objects.into_iter().filter(|((resource, _, _), _)| *resource == kind.resource);
        of_kind.filter(|(_, object)| selector.selects(object)).collect()
    }

    /// The changes of a kind after a version, as watch events.
    pub(crate) fn after(&self, version: u64, kind: Kind, selector: &Selector) -> Vec<Value> {
        // The log is ordered by version.
        let from = self.log.partition_point(|entry| entry.version <= version);
        let log = self.log[from..].iter().filter(|entry| entry.key.0 == kind.resource);
        let selects = |object: &Option<Value>| object.clone().filter(|object| selector.selects(object));
        let changes = log.filter_map(|entry| match (selects(&entry.old), selects(&entry.new)) {
            (None, None) => None,
            (None, Some(new)) => Some(json!({"type": "ADDED", "object": new})),
            (Some(_), Some(new)) => Some(json!({"type": "MODIFIED", "object": new})),
            // Like a real server, send the old object with the version of its deletion.
            (Some(mut old), None) => {
                old["metadata"]["resourceVersion"] = entry.version.to_string().into();
                Some(json!({"type": "DELETED", "object": old}))
            }
        });
        changes.collect()
    }
}

/// Labels and fields that objects must have.
#[derive(Debug, Clone, Default)]
pub(crate) struct Selector {
    /// `None` for all namespaces.
    pub namespace: Option<String>,
    pub labels: String,
    pub fields: String,
}

impl Selector {
    pub(crate) fn selects(&self, object: &Value) -> bool {
        let labels = &object["metadata"]["labels"];
        let has = |part: &str| match (part.strip_prefix('!'), part.split_once('=')) {
            (Some(label), _) => labels.get(label).is_none(),
            (None, Some((label, value))) => labels.get(label).and_then(Value::as_str) == Some(value),
            (None, None) => labels.get(part).is_some(),
        };
        let is = |part: &str| match part.split_once('=') {
            Some(("metadata.name", name)) => object["metadata"]["name"] == name,
            Some(("spec.nodeName", name)) => object["spec"]["nodeName"] == name,
            Some(("spec.clusterIP!", address)) => object["spec"]["clusterIP"] != address,
            Some(("status.phase!", phase)) => object["status"]["phase"] != phase,
            other => panic!("the double does not support the field selector {other:?}"),
        };
        let is_there =
            self.namespace.as_ref().is_none_or(|namespace| object["metadata"]["namespace"] == **namespace);
        is_there && parts(&self.labels).all(has) && parts(&self.fields).all(is)
    }
}

fn parts(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').filter(|part| !part.is_empty())
}
