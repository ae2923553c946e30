//! `Field`: the key of an object, looked up while it is read.
//!
//! Most keys of a review are not needed, and none has to be allocated as a string.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, Visitor};

/// Looks up a key by this function.
pub(crate) struct Field<F>(pub(crate) F);

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
