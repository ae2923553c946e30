//! `Head`: what the beginning of an object says of it, wherever its text ends.
//!
//! An API server writes the type of a change before its object, and `metadata` with the name before all else of an
//! object, so an object that is too large to be read can still be named. What must not go in here: the rest of an
//! object.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};

/// The annotation of the bookmark that ends the initial events of a watch.
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

/// What the beginning of an object, or of a change, says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Head {
    /// The type of the change; empty for an object.
    pub(super) change: String,
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) version: Option<u64>,
    /// It is the bookmark after which all that there was has been sent.
    pub(super) ends_initial_events: bool,
}

/// Where a reader is.
#[derive(Debug, Clone, Copy)]
enum Place {
    Change,
    /// A change that is of interest only if it is a bookmark.
    Bookmark,
    Object,
    Metadata,
    Annotations,
}

impl Head {
    /// The head of a change, which may be cut.
    pub(super) fn of_change(text: &[u8]) -> Self {
        Self::read(text, Place::Change)
    }

    /// The head of a change if it is a bookmark; of another one, no more than its type.
    pub(super) fn of_bookmark(text: &[u8]) -> Self {
        Self::read(text, Place::Bookmark)
    }

    /// The head of an object, which may be cut.
    pub(super) fn of_object(text: &[u8]) -> Self {
        Self::read(text, Place::Object)
    }

    fn read(text: &[u8], place: Place) -> Self {
        let mut head = Self::default();
        let mut json = serde_json::Deserializer::from_slice(text);
        // What was read before an error counts.
        let _ = Reading { head: &mut head, place }.deserialize(&mut json);
        head
    }
}

struct Reading<'a> {
    head: &'a mut Head,
    place: Place,
}

impl<'de> DeserializeSeed<'de> for Reading<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Reading<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        let Self { head, place } = self;
        while let Some(key) = entries.next_key::<String>()? {
            match (place, key.as_str()) {
                (Place::Bookmark, "type") => {
                    head.change = entries.next_value()?;
                    if head.change != "BOOKMARK" {
                        // The rest need not be looked at.
                        return Ok(());
                    }
                }
                (Place::Change, "type") => head.change = entries.next_value()?,
                (Place::Change | Place::Bookmark, "object") => {
                    entries.next_value_seed(Reading { head: &mut *head, place: Place::Object })?;
                }
                (Place::Object, "metadata") => {
                    entries.next_value_seed(Reading { head: &mut *head, place: Place::Metadata })?;
                }
                (Place::Metadata, "name") => head.name = entries.next_value()?,
                (Place::Metadata, "namespace") => head.namespace = entries.next_value()?,
                (Place::Metadata, "resourceVersion") => {
                    head.version = entries.next_value::<String>()?.parse().ok();
                }
                (Place::Metadata, "annotations") => {
                    entries.next_value_seed(Reading { head: &mut *head, place: Place::Annotations })?;
                }
                (Place::Annotations, INITIAL_EVENTS_END) => {
                    head.ends_initial_events = entries.next_value::<String>()? == "true";
                }
                _ => {
                    entries.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHANGE: &str = r#"{"type":"MODIFIED","object":{"kind":"Service","apiVersion":"v1","metadata":{"name":"a","namespace":"d","uid":"u","resourceVersion":"7","labels":{"x":"y"}},"spec":{"ports":[]}}}"#;

    #[test]
    fn a_change_that_is_cut_has_its_type_and_name() {
        let end = CHANGE.find("\"labels\"").expect("it has labels");
        for text in [CHANGE, &CHANGE[..end], &CHANGE[..end + 12]] {
            let head = Head::of_change(text.as_bytes());
            assert_eq!(
                (head.change.as_str(), head.namespace.as_str(), head.name.as_str()),
                ("MODIFIED", "d", "a")
            );
            assert_eq!((head.version, head.ends_initial_events), (Some(7), false));
        }
        assert_eq!(Head::of_change(b"garbage"), Head::default());
        assert_eq!(Head::of_object(br#"{"metadata":{"name":5,"namespace":"d"}}"#), Head::default());
    }

    #[test]
    fn the_bookmark_after_the_initial_events_is_known() {
        let text = r#"{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"9","annotations":{"k8s.io/initial-events-end":"true"}}}}"#;
        let head = Head::of_change(text.as_bytes());
        assert!(head.ends_initial_events && head.version == Some(9));
        assert!(!Head::of_change(text.replace("true", "false").as_bytes()).ends_initial_events);
    }
}
