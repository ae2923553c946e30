//! `Decoder`: converts the JSON text of an object to the content that a consumer needs.

use crate::cluster::object::{Object, ObjectKey};
use crate::cluster::object_head::ObjectHead;
use crate::objects::metadata::Names;

/// The values of the header `Accept` for complete objects.
pub(super) const ACCEPT_OBJECT: (&str, &str) = ("application/json", "application/json");
/// The values of the header `Accept` for the metadata of objects.
pub(super) const ACCEPT_METADATA: (&str, &str) = (
    "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json",
    "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json",
);

/// Converts the JSON text of an object to the content that a consumer needs.
pub(super) trait Decoder: Send + 'static {
    /// The content of an object.
    type Content: Send + 'static;

    /// The name of the kind or resource, for messages.
    fn kind(&self) -> &str;

    /// The values of the header `Accept` of a list and of a watch.
    fn accept(&self) -> (&'static str, &'static str) {
        ACCEPT_OBJECT
    }

    /// Decodes an object.
    ///
    /// # Errors
    /// The text is not JSON of the expected form.
    fn decode(&self, text: &[u8], names: &mut Names) -> serde_json::Result<Object<Self::Content>>;

    /// Returns the content of a rejected object.
    fn rejected(reason: String) -> Self::Content;

    /// Returns an object that could not be decoded. Its head names it, if it has a name.
    fn undecoded(&self, head: &ObjectHead, reason: &str, names: &mut Names) -> Object<Self::Content> {
        let ObjectHead { namespace, name, version, .. } = head;
        if name.is_empty() {
            let content = Self::rejected(format!("{} without a name: {reason}", self.kind()));
            return Object { key: None, version: *version, content };
        }
        let key = ObjectKey { namespace: names.get(namespace), name: names.get(name) };
        let content = Self::rejected(format!("{} {}: {reason}", self.kind(), key.shown()));
        Object { key: Some(key), version: *version, content }
    }
}
