//! One manifest as it stands: for whoever asks what would be done to an object, rather than what it means.
//!
//! What must not go in here: defaults, validation, more than one object.

use serde_json::Value;

use crate::document::{Document, DocumentSeed, ListHeader, SyntaxError};
use crate::{json, yaml};

/// The object in a text, YAML or JSON; of several documents the first that holds anything.
///
/// # Errors
/// It holds none, and why.
pub fn manifest(text: &str) -> Result<Value, String> {
    let said = |error: SyntaxError| format!("line {}: {}", error.line, error.message);
    let document = if text.trim_start().starts_with('{')
        && let Ok(document) = parsed(|seed| json::read_document(text, 1, seed))
    {
        document
    } else {
        let mut documents = yaml::Splitter::new(text.as_bytes(), 0);
        let chunk = documents.next_chunk().map_err(|error| error.to_string())?.ok_or("it is empty")?;
        let text = std::str::from_utf8(chunk.bytes).map_err(|error| error.to_string())?;
        parsed(|seed| yaml::read_document(text, chunk.line, seed)).map_err(said)?
    };
    match document {
        Document::Object(object) => Ok(Value::Object(object)),
        _ => Err("it holds no object".to_owned()),
    }
}

fn parsed(
    parse: impl FnOnce(DocumentSeed<'_>) -> Result<Document, SyntaxError>,
) -> Result<Document, SyntaxError> {
    parse(DocumentSeed { header: &mut ListHeader::default(), sink: &mut |_, _| () })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn yaml_and_json_are_the_same_object() {
        let expected = Ok(json!({ "kind": "Pod", "spec": { "containers": [{ "name": "a" }] } }));
        assert_eq!(
            manifest("# a pod\n---\nkind: Pod\nspec: {containers: [{name: a}]}\n---\nkind: X\n"),
            expected
        );
        assert_eq!(manifest(r#" {"kind":"Pod","spec":{"containers":[{"name":"a"}]}}"#), expected);
    }

    #[test]
    fn what_is_no_object_is_refused_with_the_reason() {
        for text in ["", "# nothing\n", "5", "- a\n", "a: [", "{"] {
            assert!(!manifest(text).expect_err(text).is_empty(), "{text}");
        }
    }
}
