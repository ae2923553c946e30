//! `ObjectHead`: the metadata at the start of an object or watch event, even if the text is truncated.
//!
//! An API server writes the type of a watch event before its object, and `metadata` before the other fields of an
//! object. Therefore an object that is too large to be decoded can still be named.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};

/// The annotation of the bookmark that ends the initial events of a watch.
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

/// The metadata at the start of an object or watch event.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct ObjectHead {
    /// The type of the watch event, such as `ADDED`. Empty for an object.
    pub(super) event_type: String,
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) version: Option<u64>,
    /// Whether this is the bookmark that ends the initial events of a watch.
    pub(super) ends_initial_events: bool,
}

/// The value that is being parsed.
#[derive(Debug, Clone, Copy)]
enum Level {
    Event,
    /// A watch event that is skipped unless it is a bookmark.
    Bookmark,
    Object,
    Metadata,
    Annotations,
}

impl ObjectHead {
    /// Parses the head of a watch event, whose text may be truncated.
    pub(super) fn of_event(text: &[u8]) -> Self {
        Self::parse(text, Level::Event)
    }

    /// Parses the head of a watch event if it is a bookmark, otherwise only its type.
    pub(super) fn of_bookmark(text: &[u8]) -> Self {
        Self::parse(text, Level::Bookmark)
    }

    /// Parses the head of an object, whose text may be truncated.
    pub(super) fn of_object(text: &[u8]) -> Self {
        Self::parse(text, Level::Object)
    }

    fn parse(text: &[u8], level: Level) -> Self {
        let mut head = Self::default();
        let mut json = serde_json::Deserializer::from_slice(text);
        // The fields before a syntax error are valid.
        let _ = HeadVisitor { head: &mut head, level }.deserialize(&mut json);
        head
    }
}

struct HeadVisitor<'a> {
    head: &'a mut ObjectHead,
    level: Level,
}

impl<'de> DeserializeSeed<'de> for HeadVisitor<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for HeadVisitor<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        let Self { head, level } = self;
        while let Some(key) = entries.next_key::<String>()? {
            match (level, key.as_str()) {
                (Level::Bookmark, "type") => {
                    head.event_type = entries.next_value()?;
                    if head.event_type != "BOOKMARK" {
                        // The rest is not needed.
                        return Ok(());
                    }
                }
                (Level::Event, "type") => head.event_type = entries.next_value()?,
                (Level::Event | Level::Bookmark, "object") => {
                    entries.next_value_seed(HeadVisitor { head: &mut *head, level: Level::Object })?;
                }
                (Level::Object, "metadata") => {
                    entries.next_value_seed(HeadVisitor { head: &mut *head, level: Level::Metadata })?;
                }
                (Level::Metadata, "name") => head.name = entries.next_value()?,
                (Level::Metadata, "namespace") => head.namespace = entries.next_value()?,
                (Level::Metadata, "resourceVersion") => {
                    head.version = entries.next_value::<String>()?.parse().ok();
                }
                (Level::Metadata, "annotations") => {
                    entries.next_value_seed(HeadVisitor { head: &mut *head, level: Level::Annotations })?;
                }
                (Level::Annotations, INITIAL_EVENTS_END) => {
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

    const EVENT: &str = r#"{"type":"MODIFIED","object":{"kind":"Service","apiVersion":"v1","metadata":{"name":"a","namespace":"d","uid":"u","resourceVersion":"7","labels":{"x":"y"}},"spec":{"ports":[]}}}"#;

    #[test]
    fn truncated_event_has_its_type_and_name() {
        let end = EVENT.find("\"labels\"").expect("the event has labels");
        for text in [EVENT, &EVENT[..end], &EVENT[..end + 12]] {
            let head = ObjectHead::of_event(text.as_bytes());
            assert_eq!(
                (head.event_type.as_str(), head.namespace.as_str(), head.name.as_str()),
                ("MODIFIED", "d", "a")
            );
            assert_eq!((head.version, head.ends_initial_events), (Some(7), false));
        }
        assert_eq!(ObjectHead::of_event(b"garbage"), ObjectHead::default());
        assert_eq!(
            ObjectHead::of_object(br#"{"metadata":{"name":5,"namespace":"d"}}"#),
            ObjectHead::default()
        );
    }

    #[test]
    fn bookmark_that_ends_the_initial_events_is_detected() {
        let text = r#"{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"9","annotations":{"k8s.io/initial-events-end":"true"}}}}"#;
        let head = ObjectHead::of_event(text.as_bytes());
        assert!(head.ends_initial_events && head.version == Some(9));
        assert!(!ObjectHead::of_event(text.replace("true", "false").as_bytes()).ends_initial_events);
    }
}
