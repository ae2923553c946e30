//! Requests for single objects of the double: get, create, replace, merge patch and delete, with the conflicts of a real server.

use http::Method;
use serde_json::Value;

use super::double::{Inner, status};
use super::kind::Target;

/// The status and the object of a response.
pub(crate) fn handle_object_request(
    inner: &mut Inner,
    method: &Method,
    target: &Target,
    body: &[u8],
) -> (u16, Value) {
    let Target { kind, namespace, name } = target;
    let refuse = |code: u16, what: &str| (code, status(code, what));
    if *method != Method::GET
        && let Some((resource, object)) = inner.faults.race.take()
    {
        if resource == kind.resource {
            inner.store.put(object);
        } else {
            inner.faults.race = Some((resource, object));
        }
    }
    let namespace = namespace.clone().unwrap_or_default();
    let mut object: Value = serde_json::from_slice(body).unwrap_or_default();
    let named = object["metadata"]["name"].as_str().map(str::to_owned);
    let Some(name) = name.clone().or(named) else { return refuse(422, "the object has no name") };
    let found = inner.store.get(*kind, &namespace, &name).cloned();
    let version = |object: &Value| object["metadata"]["resourceVersion"].clone();
    match (method.as_str(), found) {
        ("GET" | "PUT" | "PATCH" | "DELETE", None) => refuse(404, "not found"),
        ("GET", Some(found)) => (200, found),
        ("POST", Some(_)) => refuse(409, "already exists"),
        ("PUT", Some(found)) if !version(&object).is_null() && version(&object) != version(&found) => {
            refuse(409, "the object has been modified")
        }
        ("PATCH", Some(found)) => {
            let wanted = version(&object);
            if !wanted.is_null() && wanted != version(&found) {
                return refuse(409, "the object has been modified");
            }
            inner.store.put(merged(found, object));
            (200, inner.store.get(*kind, &namespace, &name).cloned().unwrap_or_default())
        }
        ("POST" | "PUT", _) => {
            object["kind"] = kind.name.into();
            if kind.is_namespaced {
                object["metadata"]["namespace"] = namespace.as_str().into();
            }
            inner.store.put(object);
            let made = inner.store.get(*kind, &namespace, &name).cloned().unwrap_or_default();
            (if *method == Method::POST { 201 } else { 200 }, made)
        }
        ("DELETE", Some(found)) => {
            let wanted = &object["preconditions"]["resourceVersion"];
            if !wanted.is_null() && *wanted != version(&found) {
                return refuse(409, "the object has been modified");
            }
            inner.store.delete(*kind, &namespace, &name);
            (200, status(200, "deleted"))
        }
        _ => refuse(405, "the double does not support this method"),
    }
}

/// Applies a JSON merge patch (RFC 7386).
fn merged(mut object: Value, patch: Value) -> Value {
    let Value::Object(patch) = patch else { return patch };
    if !object.is_object() {
        object = Value::Object(Default::default());
    }
    for (key, value) in patch {
        if value.is_null() {
            if let Some(fields) = object.as_object_mut() {
                fields.remove(&key);
            }
        } else {
            object[&key] = merged(object[&key].take(), value);
        }
    }
    object
}
