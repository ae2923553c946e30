//! The excerpt of a pod: what the injector and whoever tells of it look at, as a JSON value.
//!
//! Managed fields, volumes and probes are most of a pod, and a hostile object is all of something else: they are
//! passed over without being built. What must not go in here: what a field means.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use crate::review::field::Field;

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

/// Reads the excerpt of a pod.
pub(super) fn pod_excerpt(text: &str) -> serde_json::Result<Value> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let value = POD.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(value)
}

impl<'de> DeserializeSeed<'de> for Kept {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        match self {
            Self::All => serde::Deserialize::deserialize(deserializer),
            Self::Fields(_) | Self::Each(_) => deserializer.deserialize_any(self),
        }
    }
}

/// What is of another type than it should be is kept as something that is wrong there, too.
impl<'de> Visitor<'de> for Kept {
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

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut kept = Vec::new();
        if let Self::Each(element) = self {
            while let Some(value) = list.next_element_seed(*element)? {
                kept.push(value);
            }
        } else {
            while list.next_element::<IgnoredAny>()?.is_some() {}
        }
        Ok(Value::Array(kept))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let wanted = if let Self::Fields(wanted) = self { wanted } else { &[] };
        let mut kept = Map::new();
        let field = |key: &str| wanted.iter().find(|(name, _)| *name == key);
        while let Some(found) = map.next_key_seed(Field(field))? {
            match found {
                Some((name, field)) => {
                    let value = map.next_value_seed(*field)?;
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
