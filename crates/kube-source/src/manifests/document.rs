//! `Document`: deserializes one YAML or JSON document, which is an object or a list of objects.
//!
//! A list can hold all objects of a cluster, so its items are not collected: each item is passed to a callback as soon
//! as it is complete. Both parsers share this code through serde. The meaning of an object does not belong here.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// A syntax error in a document, with its position in the file.
#[derive(Debug)]
pub(crate) struct SyntaxError {
    pub(crate) line: usize,
    pub(crate) column: Option<usize>,
    pub(crate) message: String,
}

/// The content of a document.
#[derive(Debug)]
pub(crate) enum Document {
    /// Only white space, comments or `null`.
    Empty,
    /// An object. If its `items` were passed to the callback, they are `null` here.
    Object(Map<String, Value>),
    /// An array, whose elements were passed to the callback.
    Array,
}

/// The type of a list, as far as it was read before an item. `kind` may follow `items`.
#[derive(Debug, Default)]
pub(crate) struct ListHeader {
    pub(crate) kind: Option<String>,
    pub(crate) api_version: Option<String>,
}

/// Receives the items of a list one by one.
pub(crate) type ItemSink<'a> = &'a mut dyn FnMut(&ListHeader, Value);

/// Deserializes a document and passes the items of a list to `sink`.
pub(crate) struct DocumentSeed<'a> {
    pub(crate) header: &'a mut ListHeader,
    pub(crate) sink: ItemSink<'a>,
}

impl<'de> DeserializeSeed<'de> for DocumentSeed<'_> {
    type Value = Document;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Document, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for DocumentSeed<'_> {
    type Value = Document;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a Kubernetes object")
    }

    fn visit_unit<E>(self) -> Result<Document, E> {
        Ok(Document::Empty)
    }

    fn visit_none<E>(self) -> Result<Document, E> {
        Ok(Document::Empty)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, elements: A) -> Result<Document, A::Error> {
        Items { header: self.header, sink: self.sink }.visit_seq(elements)?;
        Ok(Document::Array)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Document, A::Error> {
        let Self { header, sink } = self;
        let mut object = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            // Other kinds may have a field named `items`.
            let is_list = header.kind.as_deref().is_none_or(|kind| kind.ends_with("List"));
            if key == "items" && is_list {
                entries.next_value_seed(Items { header: &*header, sink: &mut *sink })?;
                object.insert(key, Value::Null);
                continue;
            }
            let value: Value = entries.next_value()?;
            match key.as_str() {
                "kind" => header.kind = value.as_str().map(str::to_owned),
                "apiVersion" => header.api_version = value.as_str().map(str::to_owned),
                _ => {}
            }
            object.insert(key, value);
        }
        Ok(Document::Object(object))
    }
}

struct Items<'a> {
    header: &'a ListHeader,
    sink: ItemSink<'a>,
}

impl<'de> DeserializeSeed<'de> for Items<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Items<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of objects")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_none<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<(), A::Error> {
        while let Some(value) = elements.next_element()? {
            (self.sink)(self.header, value);
        }
        Ok(())
    }

    /// Skips `items` of an unknown kind in which it is a map: no value in it is a Kubernetes object.
    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        while entries.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(())
    }
}
