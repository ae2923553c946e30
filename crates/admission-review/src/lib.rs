//! `Review`: an AdmissionReview (admission.k8s.io/v1) as it comes, and the answer to it.
//!
//! Read from bytes that anybody may have sent: whatever is wrong becomes an answer that says why, with the
//! request's uid if there is one, even where the body breaks off after it or the object cannot be read. Of the
//! pod only what the injector looks at is kept. What must not go in here: HTTP, and what is done to a pod.

mod answer;
mod field;
mod pod_extract;

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

pub use crate::answer::{Answer, Piece, answer, pass, pass_too_large};

use crate::field::Field;
use crate::pod_extract::{Budget, pod_excerpt};
use proxy_core::admission::Admission;

/// The memory that what is kept of a pod may take: some 10,000 variables.
pub const EXCERPT_BYTES_MAX: usize = 8 << 20;
/// A field of the request is at most so long; the API server's are names and identifiers.
const FIELD_BYTES_MAX: usize = 1_024;
/// The name of an object is at most so long.
const NAME_BYTES_MAX: usize = 253;
/// The API server refuses objects whose annotations are longer in all.
const ANNOTATIONS_BYTES_MAX: usize = 256 << 10;
/// So much of what is wrong with a body is told.
const WHY_CHARS_MAX: usize = 512;
const API_VERSION: &str = "admission.k8s.io/v1";
const KIND: &str = "AdmissionReview";
const REQUEST: &str = "request";
const EPHEMERAL: &str = "ephemeralcontainers";
/// The fields that are read: those of the review, then those of its request.
const REVIEW_FIELDS: [&str; 2] = ["apiVersion", "kind"];
const REQUEST_FIELDS: [&str; 9] =
    ["uid", "kind", "resource", "subResource", "namespace", "operation", "object", "oldObject", "dryRun"];

/// What the API server asks.
#[derive(Debug, Clone, PartialEq)]
pub enum Review {
    /// A pod that is made, or gets ephemeral containers.
    Pod(PodReview),
    /// A pod to which nothing is done; it is allowed.
    Other {
        /// The request's.
        uid: String,
    },
    /// A pod that is too large to look at; it is allowed as it is, with a warning.
    TooLarge {
        /// The request's.
        uid: String,
        /// What of it is too large.
        why: String,
    },
}

/// A pod on its way.
#[derive(Debug, Clone, PartialEq)]
pub struct PodReview {
    /// The request's.
    pub uid: String,
    /// The namespace.
    pub namespace: String,
    /// Nothing may be made for it.
    pub dry_run: bool,
    /// The pod: its metadata without managed fields, and what matters of its containers.
    pub pod: Value,
    /// The pod before, where ephemeral containers are added.
    pub old_pod: Option<Value>,
}

impl PodReview {
    /// What the injector is asked.
    #[must_use]
    pub fn admission<'a>(&'a self, namespace_annotations: &'a BTreeMap<String, String>) -> Admission<'a> {
        let Self { uid: _, namespace, dry_run: _, pod, old_pod } = self;
        Admission { namespace, namespace_annotations, pod, old_pod: old_pod.as_ref() }
    }
}

/// A body that is no review of a pod.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct BadReview {
    /// The request's, or nothing.
    pub uid: String,
    /// What is wrong.
    pub why: String,
}

/// Reads the body of a request.
///
/// # Errors
/// It is not what an API server sends for a pod.
pub fn review(body: &[u8]) -> Result<Review, BadReview> {
    let mut fields = Fields::default();
    let read = read_fields(body, &mut fields);
    let uid: String = fields.request("uid").unwrap_or_default();
    let bad = |why: String| BadReview { uid: uid.clone(), why: why.chars().take(WHY_CHARS_MAX).collect() };
    read.map_err(|error| bad(format!("this is no review: {error}")))?;
    reviewed(&fields, &uid).map_err(bad)
}

fn read_fields<'de>(body: &'de [u8], fields: &mut Fields<'de>) -> serde_json::Result<()> {
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let Fields { review, request } = fields;
    let request = Some(FieldsSeed { wanted: &REQUEST_FIELDS, found: request, request: None });
    FieldsSeed { wanted: &REVIEW_FIELDS, found: review, request: request.map(Box::new) }
        .deserialize(&mut deserializer)?;
    deserializer.end()
}

fn reviewed(fields: &Fields<'_>, uid: &str) -> Result<Review, String> {
    let (version, kind): (String, String) = (fields.review("apiVersion")?, fields.review("kind")?);
    if (version.as_str(), kind.as_str()) != (API_VERSION, KIND) {
        return Err(format!("this is {version:?} {kind:?}, not {API_VERSION} {KIND}"));
    }
    if uid.is_empty() {
        return Err("the request has no uid".to_owned());
    }
    let kind: Kind = fields.request("kind")?;
    if (kind.group.as_str(), kind.version.as_str(), kind.kind.as_str()) != ("", "v1", "Pod") {
        return Err(format!(
            "the object is {:?} {:?} {:?}, not a Pod of v1",
            kind.group, kind.version, kind.kind
        ));
    }
    let sub_resource: String = fields.request("subResource")?;
    let operation: String = fields.request("operation")?;
    let is_ephemeral = match (operation.as_str(), sub_resource.as_str()) {
        ("CREATE", "") => false,
        ("UPDATE", EPHEMERAL) => true,
        ("CREATE" | "UPDATE" | "DELETE" | "CONNECT", _) => return Ok(Review::Other { uid: uid.to_owned() }),
        _ => return Err(format!("the request has no operation, or an unknown one: {operation:?}")),
    };
    let namespace: String = fields.request("namespace")?;
    if namespace.is_empty() {
        return Err("the request has no namespace".to_owned());
    }
    let budget = Budget::new(EXCERPT_BYTES_MAX);
    let read = |name| fields.pod(name, &budget);
    let pods = read("object").and_then(|pod| Ok((pod, if is_ephemeral { read("oldObject")? } else { None })));
    let too_large = |why: String| Ok(Review::TooLarge { uid: uid.to_owned(), why });
    if budget.is_spent() {
        return too_large(format!("it has more entries than fit into {EXCERPT_BYTES_MAX} bytes"));
    }
    let (pod, old_pod) = pods?;
    let pod = pod.ok_or("the request has no object")?;
    if is_ephemeral && old_pod.is_none() {
        return Err("the request has no oldObject".to_owned());
    }
    if let Some(why) = oversize(&pod["metadata"]) {
        return too_large(why);
    }
    let dry_run: bool = fields.request("dryRun")?;
    Ok(Review::Pod(PodReview { uid: uid.to_owned(), namespace, dry_run, pod, old_pod }))
}

/// What of a pod's metadata is larger than an API server takes, which looks only after admission.
fn oversize(metadata: &Value) -> Option<String> {
    for field in ["name", "generateName"] {
        if metadata[field].as_str().is_some_and(|name| name.len() > NAME_BYTES_MAX) {
            return Some(format!("its {field} is longer than {NAME_BYTES_MAX} bytes"));
        }
    }
    let annotations = metadata["annotations"].as_object().into_iter().flatten();
    let bytes: usize =
        annotations.map(|(key, text)| key.len() + text.as_str().unwrap_or_default().len()).sum();
    (bytes > ANNOTATIONS_BYTES_MAX)
        .then(|| format!("its annotations are longer than {ANNOTATIONS_BYTES_MAX} bytes"))
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Kind {
    group: String,
    version: String,
    kind: String,
}

/// The fields that were found before reading ended, as they stand in the body.
#[derive(Debug, Default)]
struct Fields<'de> {
    review: BTreeMap<&'static str, &'de RawValue>,
    request: BTreeMap<&'static str, &'de RawValue>,
}

impl<'de> Fields<'de> {
    fn review<T: Deserialize<'de> + Default>(&self, name: &str) -> Result<T, String> {
        value(self.review.get(name), name)
    }

    fn request<T: Deserialize<'de> + Default>(&self, name: &str) -> Result<T, String> {
        value(self.request.get(name), name)
    }

    fn pod(&self, name: &str, budget: &Budget) -> Result<Option<Value>, String> {
        let Some(raw) = self.request.get(name) else { return Ok(None) };
        let pod = pod_excerpt(raw.get(), budget).map_err(|error| format!("{name}: {error}"))?;
        Ok(Some(pod).filter(|pod| !pod.is_null()))
    }
}

/// A field; absent and `null` are what Go takes them for.
fn value<'de, T: Deserialize<'de> + Default>(raw: Option<&&'de RawValue>, name: &str) -> Result<T, String> {
    let Some(raw) = raw else { return Ok(T::default()) };
    if raw.get().len() > FIELD_BYTES_MAX {
        return Err(format!("{name}: longer than {FIELD_BYTES_MAX} bytes"));
    }
    let read: Option<T> = serde_json::from_str(raw.get()).map_err(|error| format!("{name}: {error}"))?;
    Ok(read.unwrap_or_default())
}

/// Collects the fields that are wanted, and those of the request in it.
struct FieldsSeed<'f, 'de> {
    wanted: &'static [&'static str],
    found: &'f mut BTreeMap<&'static str, &'de RawValue>,
    request: Option<Box<Self>>,
}

impl<'de> DeserializeSeed<'de> for FieldsSeed<'_, 'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        // For a text `deserialize_map` would quote all of it in its error.
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for FieldsSeed<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<(), E> {
        Err(E::custom("a text stands where an object should"))
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        let wanted = self.wanted;
        let field = |key: &str| wanted.iter().chain([&REQUEST]).find(|name| **name == key).copied();
        while let Some(found) = map.next_key_seed(Field(field))? {
            match (found, &mut self.request) {
                (Some(REQUEST), Some(_)) => {
                    self.request.take().map(|request| map.next_value_seed(*request)).transpose()?;
                }
                (None | Some(REQUEST), _) => {
                    map.next_value::<IgnoredAny>()?;
                }
                (Some(name), _) => {
                    self.found.insert(name, map.next_value()?);
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
