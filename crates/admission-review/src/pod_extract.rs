//! The excerpt of a pod: what the injector and whoever tells of it look at, as a JSON value.
//!
//! Managed fields, volumes and probes are most of a pod, and a hostile object is all of something else: they are
//! passed over without being built. What is kept is charged against a budget before it is built: a value takes many times
//! its text (`{"name":"a"}` 800 bytes). What must not go in here: what a field means.

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use crate::field::Field;

/// What a value takes beside its text: an object (one node of a `BTreeMap`), an entry of one, an element of a list, the
/// allocation of a text, and a variable that a text refers to.
const OBJECT_BYTES: usize = 640;
const ENTRY_BYTES: usize = 32;
const ELEMENT_BYTES: usize = 64;
const TEXT_BYTES: usize = 32;
const REFERENCE_BYTES: usize = 64;

/// The memory that the values of one review may still take, as estimated before they are built.
#[derive(Debug)]
pub(super) struct Budget(Cell<usize>);

impl Budget {
    pub(super) fn new(bytes: usize) -> Self {
        Self(Cell::new(bytes))
    }

    /// Whether something did not fit.
    pub(super) fn is_spent(&self) -> bool {
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

/// What of a value is kept.
#[derive(Clone, Copy)]
enum Kept {
    /// All of it.
    All,
    /// These fields.
    Fields(&'static [(&'static str, Kept)]),
    /// All elements, and this of each.
    Each(&'static Kept),
}

const CONTAINER: Kept = Kept::Fields(&[("name", Kept::All), ("env", Kept::All), ("envFrom", Kept::All)]);
const METADATA: Kept = Kept::Fields(&[
    ("name", Kept::All),
    ("generateName", Kept::All),
    // A label is added beside those that are there, so what is there must be known.
    ("labels", Kept::All),
    ("annotations", Kept::All),
    ("ownerReferences", Kept::All),
]);
const SPEC: Kept = Kept::Fields(&[
    ("enableServiceLinks", Kept::All),
    ("initContainers", Kept::Each(&CONTAINER)),
    ("containers", Kept::Each(&CONTAINER)),
    ("ephemeralContainers", Kept::Each(&CONTAINER)),
]);
const POD: Kept = Kept::Fields(&[("metadata", METADATA), ("spec", SPEC)]);

/// Reads the excerpt of a pod, within a budget.
pub(super) fn pod_excerpt(text: &str, budget: &Budget) -> serde_json::Result<Value> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let value = Excerpt { kept: POD, budget }.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(value)
}

/// Builds what is kept of a value.
#[derive(Clone, Copy)]
struct Excerpt<'b> {
    kept: Kept,
    budget: &'b Budget,
}

impl Excerpt<'_> {
    fn of(self, kept: Kept) -> Self {
        Self { kept, ..self }
    }
}

impl<'de> DeserializeSeed<'de> for Excerpt<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

/// What is of another type than it should be is kept as something that is wrong there, too.
impl<'de> Visitor<'de> for Excerpt<'_> {
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
            Kept::All => Kept::All,
            Kept::Each(element) => *element,
            Kept::Fields(_) => {
                while list.next_element::<IgnoredAny>()?.is_some() {}
                return Ok(Value::Array(Vec::new()));
            }
        };
        let mut kept = Vec::new();
        while let Some(value) = list.next_element_seed(self.of(element))? {
            self.budget.charge(ELEMENT_BYTES)?;
            kept.push(value);
        }
        Ok(Value::Array(kept))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        self.budget.charge(OBJECT_BYTES)?;
        let mut kept = Map::new();
        if let Kept::All = self.kept {
            while let Some(key) = map.next_key::<String>()? {
                self.budget.charge(ENTRY_BYTES + key.len())?;
                kept.insert(key, map.next_value_seed(self)?);
            }
            return Ok(Value::Object(kept));
        }
        let wanted = if let Kept::Fields(wanted) = self.kept { wanted } else { &[] };
        let field = |key: &str| wanted.iter().find(|(name, _)| *name == key);
        while let Some(found) = map.next_key_seed(Field(field))? {
            match found {
                Some((name, field)) => {
                    let value = map.next_value_seed(self.of(*field))?;
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
