//! The wire format of AdmissionReview (admission.k8s.io/v1) for pods: reads requests, writes responses.
//!
//! Requests are untrusted input. An invalid one becomes a response that states the reason, with the request's uid if it
//! could be read, even if the body is truncated after it or the object is invalid. Only the parts of the pod that are
//! relevant to the injector are read, within a memory budget (`pod_extract`).

mod field;
mod pod_extract;
mod response;

use std::collections::BTreeMap;
use std::fmt;

use proxy_core::admission::Admission;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

pub use crate::response::{allow, allow_too_large, response, response_len};

use crate::field::Field;
use crate::pod_extract::{Budget, extract_pod};

/// The memory limit of a pod's extract: some 10,000 variables.
pub const EXTRACT_BYTES_MAX: usize = 8 << 20;
/// The limit of a field of the request; the API server's are names and identifiers.
const FIELD_BYTES_MAX: usize = 1_024;
/// The limit of the name of an object.
const NAME_BYTES_MAX: usize = 253;
/// The API server's limit of an object's annotations.
const ANNOTATIONS_BYTES_MAX: usize = 256 << 10;
/// The limit of the reason in a response.
const REASON_CHARS_MAX: usize = 512;
const API_VERSION: &str = "admission.k8s.io/v1";
const KIND: &str = "AdmissionReview";
const REQUEST: &str = "request";
const EPHEMERAL: &str = "ephemeralcontainers";
/// The fields of the review that are read, and those of its request.
const REVIEW_FIELDS: [&str; 2] = ["apiVersion", "kind"];
const REQUEST_FIELDS: [&str; 9] =
    ["uid", "kind", "resource", "subResource", "namespace", "operation", "object", "oldObject", "dryRun"];

/// A valid request.
#[derive(Debug, Clone, PartialEq)]
pub enum Review {
    /// A pod that is created, or gets ephemeral containers.
    Pod(PodReview),
    /// Another operation on a pod, which is allowed without changes.
    Other {
        /// The uid of the request.
        uid: String,
    },
    /// A pod that is too large to inspect; it is allowed without changes, with a warning.
    TooLarge {
        /// The uid of the request.
        uid: String,
        /// The limit that it exceeds.
        reason: String,
    },
}

/// A pod at admission.
#[derive(Debug, Clone, PartialEq)]
pub struct PodReview {
    /// The uid of the request.
    pub uid: String,
    /// The namespace of the pod.
    pub namespace: String,
    /// Whether the request must have no side effects.
    pub dry_run: bool,
    /// The pod: its metadata without managed fields, and the relevant fields of its containers.
    pub pod: Value,
    /// The previous state of the pod, if ephemeral containers are added.
    pub old_pod: Option<Value>,
}

impl PodReview {
    /// Returns the input of the injector.
    #[must_use]
    pub fn admission<'a>(&'a self, namespace_annotations: &'a BTreeMap<String, String>) -> Admission<'a> {
        let Self { uid: _, namespace, dry_run: _, pod, old_pod } = self;
        Admission { namespace, namespace_annotations, pod, old_pod: old_pod.as_ref() }
    }
}

/// A body that is not a review of a pod.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct BadReview {
    /// The uid of the request, or empty.
    pub uid: String,
    /// What is invalid.
    pub reason: String,
}

/// Parses the body of a request.
///
/// # Errors
/// The body is not a review that an API server sends for a pod.
pub fn parse_review(body: &[u8]) -> Result<Review, BadReview> {
    let mut fields = Fields::default();
    let read = read_fields(body, &mut fields);
    // An invalid uid is reported below, as a missing one.
    let uid: String = fields.request("uid").unwrap_or_default();
    let bad = |reason: String| BadReview {
        uid: uid.clone(),
        reason: reason.chars().take(REASON_CHARS_MAX).collect(),
    };
    read.map_err(|error| bad(format!("not an AdmissionReview: {error}")))?;
    validate(&fields, &uid).map_err(bad)
}

fn read_fields<'de>(body: &'de [u8], fields: &mut Fields<'de>) -> serde_json::Result<()> {
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let Fields { review, request } = fields;
    let request = Some(FieldsSeed { wanted: &REQUEST_FIELDS, found: request, request: None });
    FieldsSeed { wanted: &REVIEW_FIELDS, found: review, request: request.map(Box::new) }
        .deserialize(&mut deserializer)?;
    deserializer.end()
}

fn validate(fields: &Fields<'_>, uid: &str) -> Result<Review, String> {
    let (version, kind): (String, String) = (fields.review("apiVersion")?, fields.review("kind")?);
    if (version.as_str(), kind.as_str()) != (API_VERSION, KIND) {
        return Err(format!("expected {API_VERSION} {KIND}, got {version:?} {kind:?}"));
    }
    if uid.is_empty() {
        return Err("the request has no uid".to_owned());
    }
    let Kind { group, version, kind } = fields.request("kind")?;
    if (group.as_str(), version.as_str(), kind.as_str()) != ("", "v1", "Pod") {
        return Err(format!("the object is {group:?} {version:?} {kind:?}, not a Pod of v1"));
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
    let budget = Budget::new(EXTRACT_BYTES_MAX);
    let read = |name| fields.pod(name, &budget);
    let pods = read("object").and_then(|pod| Ok((pod, if is_ephemeral { read("oldObject")? } else { None })));
    let too_large = |reason: String| Ok(Review::TooLarge { uid: uid.to_owned(), reason });
    if budget.is_spent() {
        return too_large(format!("it has more entries than fit into {EXTRACT_BYTES_MAX} bytes"));
    }
    let (pod, old_pod) = pods?;
    let pod = pod.ok_or("the request has no object")?;
    if is_ephemeral && old_pod.is_none() {
        return Err("the request has no oldObject".to_owned());
    }
    if let Some(reason) = oversize(&pod["metadata"]) {
        return too_large(reason);
    }
    let dry_run: bool = fields.request("dryRun")?;
    Ok(Review::Pod(PodReview { uid: uid.to_owned(), namespace, dry_run, pod, old_pod }))
}

/// Returns the limit of the API server that the metadata exceeds; the API server checks it only after admission.
fn oversize(metadata: &Value) -> Option<String> {
    for field in ["name", "generateName"] {
        if metadata[field].as_str().is_some_and(|name| name.len() > NAME_BYTES_MAX) {
            return Some(format!("its {field} is longer than {NAME_BYTES_MAX} bytes"));
        }
    }
    let annotations = metadata["annotations"].as_object().into_iter().flatten();
    let bytes: usize = annotations.map(|(key, text)| key.len() + text.as_str().map_or(0, str::len)).sum();
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

/// The fields that were found before reading ended, as text of the body.
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
        let pod = extract_pod(raw.get(), budget).map_err(|error| format!("{name}: {error}"))?;
        Ok(Some(pod).filter(|pod| !pod.is_null()))
    }
}

/// Parses a field. An absent field and `null` are the default value, as in Go.
fn value<'de, T: Deserialize<'de> + Default>(raw: Option<&&'de RawValue>, name: &str) -> Result<T, String> {
    let Some(raw) = raw else { return Ok(T::default()) };
    if raw.get().len() > FIELD_BYTES_MAX {
        return Err(format!("{name}: longer than {FIELD_BYTES_MAX} bytes"));
    }
    let read: Option<T> = serde_json::from_str(raw.get()).map_err(|error| format!("{name}: {error}"))?;
    Ok(read.unwrap_or_default())
}

/// Collects the wanted fields of an object, and those of the request in it.
struct FieldsSeed<'f, 'de> {
    wanted: &'static [&'static str],
    found: &'f mut BTreeMap<&'static str, &'de RawValue>,
    request: Option<Box<Self>>,
}

impl<'de> DeserializeSeed<'de> for FieldsSeed<'_, 'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        // For a string, `deserialize_map` would quote all of it in its error.
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for FieldsSeed<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<(), E> {
        Err(E::custom("expected an object, got a string"))
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
