//! `PatchOp`: one operation of a JSON patch (RFC 6902).
//!
//! An operation that cannot be applied makes the API server refuse the pod, whatever the failure policy: so there
//! is no `test`, nothing is added below what is not there, and a list is addressed by an index that the pod had. What
//! must not go in here: what to patch.

use serde::ser::{Error, SerializeSeq};
use serde::{Serialize, Serializer};
use serde_json::Value;

use crate::admission::prepared::Added;

/// What an operation does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Operation {
    /// Sets a field, or inserts into a list.
    Add,
    /// Sets what is there.
    Replace,
}

/// One operation.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PatchOp {
    /// What it does.
    pub op: Operation,
    /// Where: a JSON pointer.
    pub path: String,
    /// What it puts there.
    pub value: PatchValue,
}

/// What an operation puts.
#[derive(Debug, Clone, PartialEq)]
pub enum PatchValue {
    /// Any value.
    Json(Value),
    /// A list of variables: ours, which containers share, then those that were there, as the JSON of a list.
    Env(Added, String),
}

impl Serialize for PatchValue {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Json(value) => value.serialize(serializer),
            Self::Env(ours, theirs) => {
                let theirs: Vec<Value> = serde_json::from_str(theirs).map_err(Error::custom)?;
                let mut list = serializer.serialize_seq(Some(ours.len() + theirs.len()))?;
                ours.iter().try_for_each(|variable| list.serialize_element(variable))?;
                theirs.iter().try_for_each(|entry| list.serialize_element(entry))?;
                list.end()
            }
        }
    }
}

impl PatchOp {
    pub(super) fn add(path: impl Into<String>, value: impl Into<Value>) -> Self {
        Self { op: Operation::Add, path: path.into(), value: PatchValue::Json(value.into()) }
    }

    /// Sets a field, whether it is there or not.
    pub(super) fn put(is_there: bool, path: String, value: PatchValue) -> Self {
        let op = if is_there { Operation::Replace } else { Operation::Add };
        Self { op, path, value }
    }
}

/// A key as a part of a JSON pointer.
pub(super) fn escaped(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}
