//! One document, whatever its syntax: an object, or a list whose items are handed on one by one.
//!
//! A list may be as long as a cluster is large, so its items are not collected: each goes to the reader as
//! soon as it is complete. What must not go in here: the meaning of an object.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// What is wrong with the syntax of a document, and where in the file.
#[derive(Debug)]
pub(crate) struct SyntaxError {
    pub(crate) line: usize,
    pub(crate) column: Option<usize>,
    pub(crate) message: String,
}

/// What a document was.
#[derive(Debug)]
pub(crate) enum Document {
    /// Nothing but white space, comments or `null`.
    Empty,
    /// An object; without `items` if those were handed on.
    Object(Map<String, Value>),
    /// An array, whose elements were handed on.
    Array,
}

/// What is known of a list when an item of it is read; it may be that its kind stands after its items.
#[derive(Debug, Default)]
pub(crate) struct ListHeader {
    pub(crate) kind: Option<String>,
    pub(crate) api_version: Option<String>,
}

/// Takes items one by one.
pub(crate) type Sink<'a> = &'a mut dyn FnMut(&ListHeader, Value);

/// Reads a document and hands on the items of a list.
pub(crate) struct DocumentSeed<'a> {
    pub(crate) header: &'a mut ListHeader,
    pub(crate) sink: Sink<'a>,
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
            // Other kinds may have a field of that name.
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
    sink: Sink<'a>,
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

    /// Some object of an unknown kind has a map of this name: nothing in it is a Kubernetes object.
    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        while entries.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(())
    }
}
