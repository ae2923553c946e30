//! `Object`: an object of an API server with its key and version, after decoding.
//!
//! The type of the content depends on the consumer: core types (`content`) or metadata (`object_meta`).

use std::sync::Arc;

use crate::objects::finding::excerpt;

/// The identity of an object among those of its kind.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey {
    /// The namespace; empty if the kind is not namespaced.
    pub namespace: Arc<str>,
    /// The name.
    pub name: Arc<str>,
}

impl ObjectKey {
    /// Returns the key as quoted in messages.
    pub(super) fn shown(&self) -> String {
        let (namespace, name) = (excerpt(&self.namespace), excerpt(&self.name));
        if namespace.is_empty() { name } else { format!("{namespace}/{name}") }
    }
}

/// A decoded object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Object<C> {
    /// `None` if the object has no name.
    pub(super) key: Option<ObjectKey>,
    /// The resource version as a number, which grows within a resource.
    pub(super) version: Option<u64>,
    pub(super) content: C,
}
