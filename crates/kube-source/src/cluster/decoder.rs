//! `Decoder`: how the text of an object becomes what a consumer wants of it.
//!
//! What must not go in here: where a text comes from, and what was told before.

use crate::cluster::head::Head;
use crate::cluster::object::{Object, ObjectKey};
use crate::objects::metadata::Names;

/// How the text of an object becomes what a consumer wants of it.
pub(super) trait Decoder: Send + 'static {
    /// What is kept of an object.
    type Content: Send + 'static;

    /// The name of the kind, for messages.
    fn kind(&self) -> &str;

    /// The value of `Accept` of a list, and of a watch.
    fn accept(&self) -> (&'static str, &'static str) {
        ("application/json", "application/json")
    }

    /// An object.
    ///
    /// # Errors
    /// The text is no JSON.
    fn decode(&self, text: &[u8], names: &mut Names) -> serde_json::Result<Object<Self::Content>>;

    /// An object that cannot be used.
    fn refused(why: String) -> Self::Content;

    /// An object that cannot be read, but perhaps named.
    fn unread(&self, head: &Head, why: &str, names: &mut Names) -> Object<Self::Content> {
        let Head { namespace, name, version, .. } = head;
        if name.is_empty() {
            let content = Self::refused(format!("{} without a name: {why}", self.kind()));
            return Object { key: None, version: *version, content };
        }
        let key = ObjectKey { namespace: names.get(namespace), name: names.get(name) };
        let content = Self::refused(format!("{} {}: {why}", self.kind(), key.shown()));
        Object { key: Some(key), version: *version, content }
    }
}
