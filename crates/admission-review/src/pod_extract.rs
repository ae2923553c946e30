//! Extracts the parts of a pod that the injector and the log need, as a JSON value.
//!
//! Managed fields, volumes and probes are most of a pod, and a hostile object can contain anything: other fields are
//! skipped without being built. Each value is charged against a budget before it is built, as it takes many times the
//! memory of its text (`{"name":"a"}` 800 bytes).

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use crate::field::Field;

/// The memory in addition to text: of an object (one node of a `BTreeMap`), of an entry, of an element of a list, of a
/// string, and of a reference in a string to a variable.
const OBJECT_BYTES: usize = 640;
const ENTRY_BYTES: usize = 32;
const ELEMENT_BYTES: usize = 64;
const TEXT_BYTES: usize = 32;
const REFERENCE_BYTES: usize = 64;

/// The remaining memory for the values of one review, estimated before they are built.
#[derive(Debug)]
pub(crate) struct Budget(Cell<usize>);

impl Budget {
    pub(crate) fn new(bytes: usize) -> Self {
        Self(Cell::new(bytes))
    }

    /// Whether a value did not fit.
    pub(crate) fn is_spent(&self) -> bool {
        self.0.get() == 0
    }

    fn charge<E: Error>(&self, bytes: usize) -> Result<(), E> {
        let left = self.0.get().saturating_sub(bytes);
        self.0.set(left);
        if left == 0 { Err(E::custom("the pod has too many entries")) } else { Ok(()) }
    }

    fn charge_text<E: Error>(&self, text: &str) -> Result<(), E> {
        let references = text.as_bytes().windows(2).filter(|pair| pair == b"$(").count();
        self.charge(TEXT_BYTES + text.len() + references * REFERENCE_BYTES)
    }
}

/// The parts of a value that are kept.
#[derive(Clone, Copy)]
enum Keep {
    /// All of it.
    All,
    /// These fields of an object.
    Fields(&'static [(&'static str, Keep)]),
    /// These parts of each element of a list.
    Each(&'static Keep),
}

const CONTAINER: Keep = Keep::Fields(&[("name", Keep::All), ("env", Keep::All), ("envFrom", Keep::All)]);
const METADATA: Keep = Keep::Fields(&[
    ("name", Keep::All),
    ("generateName", Keep::All),
    // The patch that adds a label depends on the existing labels.
    ("labels", Keep::All),
    ("annotations", Keep::All),
    ("ownerReferences", Keep::All),
]);
const SPEC: Keep = Keep::Fields(&[
    ("enableServiceLinks", Keep::All),
    ("hostNetwork", Keep::All),
    ("initContainers", Keep::Each(&CONTAINER)),
    ("containers", Keep::Each(&CONTAINER)),
    ("ephemeralContainers", Keep::Each(&CONTAINER)),
]);
const POD: Keep = Keep::Fields(&[("metadata", METADATA), ("spec", SPEC)]);

/// Parses a pod and returns its relevant parts, within a budget.
pub(crate) fn extract_pod(text: &str, budget: &Budget) -> serde_json::Result<Value> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let value = Extract { kept: POD, budget }.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(value)
}

/// Builds the kept parts of a value.
#[derive(Clone, Copy)]
struct Extract<'b> {
    kept: Keep,
    budget: &'b Budget,
}

impl Extract<'_> {
    fn with(self, kept: Keep) -> Self {
        Self { kept, ..self }
    }
}

impl<'de> DeserializeSeed<'de> for Extract<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

/// A value of an unexpected type is kept as a value of a type that is wrong there, too.
impl<'de> Visitor<'de> for Extract<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a part of a pod")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        self.budget.charge_text(value)?;
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let element = match self.kept {
            Keep::All => Keep::All,
            Keep::Each(element) => *element,
            Keep::Fields(_) => {
                while list.next_element::<IgnoredAny>()?.is_some() {}
                return Ok(Value::Array(Vec::new()));
            }
        };
        let mut kept = Vec::new();
        while let Some(value) = list.next_element_seed(self.with(element))? {
            self.budget.charge(ELEMENT_BYTES)?;
            kept.push(value);
        }
        Ok(Value::Array(kept))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        self.budget.charge(OBJECT_BYTES)?;
        let mut kept = Map::new();
        if let Keep::All = self.kept {
            while let Some(key) = map.next_key::<String>()? {
                self.budget.charge(ENTRY_BYTES + key.len())?;
                kept.insert(key, map.next_value_seed(self)?);
            }
            return Ok(Value::Object(kept));
        }
        let wanted = if let Keep::Fields(wanted) = self.kept { wanted } else { &[] };
        let field = |key: &str| wanted.iter().find(|(name, _)| *name == key);
        while let Some(found) = map.next_key_seed(Field(field))? {
            match found {
                Some((name, field)) => {
                    let value = map.next_value_seed(self.with(*field))?;
                    kept.insert((*name).to_owned(), value);
                }
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(Value::Object(kept))
    }
}
