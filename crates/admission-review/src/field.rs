//! `Field`: the key of an object, looked up as it is read.
//!
//! Most keys of a review are of no use here, and none needs to be kept as a text of its own. What must not go in here:
//! which keys are looked for.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, Visitor};

/// Looks up a key by this function.
pub(super) struct Field<F>(pub(super) F);

impl<'de, T, F: Fn(&str) -> Option<T>> DeserializeSeed<'de> for Field<F> {
    type Value = Option<T>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Option<T>, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<T, F: Fn(&str) -> Option<T>> Visitor<'_> for Field<F> {
    type Value = Option<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<Option<T>, E> {
        Ok((self.0)(key))
    }
}
