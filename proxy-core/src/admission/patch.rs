//! `PatchOp`: one operation of a JSON patch (RFC 6902).
//!
//! If an operation cannot be applied, the API server rejects the pod, whatever the failure policy. So there is no `test`
//! operation, nothing is added below a path that does not exist, and a list is addressed by an index that the pod had.

use serde::ser::SerializeSeq;
use serde::{Serialize, Serializer};
use serde_json::Value;

use crate::admission::rendered::AddedVariables;

/// The kind of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Operation {
    /// Sets a field, or inserts into a list.
    Add,
    /// Sets a field that exists.
    Replace,
}

/// One operation.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PatchOp<'a> {
    /// Its kind.
    pub op: Operation,
    /// The JSON pointer to the target.
    pub path: String,
    /// The new value.
    pub value: PatchValue<'a>,
}

/// The value of an operation.
#[derive(Debug, Clone, PartialEq)]
pub enum PatchValue<'a> {
    /// Any value.
    Json(Value),
    /// A list of variables: the added ones, then the container's own entries.
    Env(AddedVariables, &'a [Value]),
}

impl Serialize for PatchValue<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Json(value) => value.serialize(serializer),
            Self::Env(added, own) => {
                let mut list = serializer.serialize_seq(Some(added.len() + own.len()))?;
                added.iter().try_for_each(|variable| list.serialize_element(variable))?;
                own.iter().try_for_each(|entry| list.serialize_element(entry))?;
                list.end()
            }
        }
    }
}

impl PatchOp<'_> {
    pub(super) fn add(path: impl Into<String>, value: impl Into<Value>) -> Self {
        Self { op: Operation::Add, path: path.into(), value: PatchValue::Json(value.into()) }
    }
}

impl<'a> PatchOp<'a> {
    /// Sets a field, whether it exists or not.
    pub(super) fn set(exists: bool, path: String, value: PatchValue<'a>) -> Self {
        let op = if exists { Operation::Replace } else { Operation::Add };
        Self { op, path, value }
    }
}

/// Escapes a key as a part of a JSON pointer.
pub(super) fn escaped(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}
