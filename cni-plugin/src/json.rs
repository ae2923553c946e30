//! JSON objects whose values are not parsed until they are needed.
//!
//! So a verb does not fail because of a value that it does not use, and values that are passed through keep their
//! bytes.

use std::collections::BTreeMap;
use std::fmt::Display;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::error::{CniError, Code};

/// A JSON object with raw values. Of duplicate keys the last one counts, as in libcni.
pub(crate) type Object<'a> = BTreeMap<String, &'a RawValue>;

/// Parses a value of an object; `null` counts as missing.
pub(crate) fn value<'a, T: Deserialize<'a>>(object: &Object<'a>, key: &str) -> Result<Option<T>, CniError> {
    let raw = object.get(key).map(|raw| raw.get()).filter(|raw| *raw != "null");
    let value = raw.map(serde_json::from_str).transpose();
    value.map_err(|error| invalid(format!("{key}: {error}")))
}

/// The error for an invalid configuration.
pub(crate) fn invalid(message: impl Display) -> CniError {
    CniError::new(Code::InvalidConfiguration, message)
}
