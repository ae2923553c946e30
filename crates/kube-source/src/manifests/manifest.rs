//! `parse_manifest`: parses one object without interpreting it.
//!
//! Used by commands that show how an object would be changed. It applies no defaults and validates nothing.

use serde_json::Value;

use crate::manifests::document::{Document, DocumentSeed, ListHeader, SyntaxError};
use crate::manifests::yaml::YamlSplitter;
use crate::manifests::{json, yaml};

/// Parses the first object in a YAML or JSON text. Empty documents before it are skipped.
///
/// # Errors
/// The reason why the text contains no object.
pub fn parse_manifest(text: &str) -> Result<Value, String> {
    let with_line = |error: SyntaxError| format!("line {}: {}", error.line, error.message);
    let document = if text.trim_start().starts_with('{')
        && let Ok(document) = parse_with(|seed| json::parse_document(text, 1, seed))
    {
        document
    } else {
        let mut documents = YamlSplitter::new(text.as_bytes(), 0);
        let chunk = documents.next_chunk().map_err(|error| error.to_string())?.ok_or("no document")?;
        let text = std::str::from_utf8(chunk.bytes).map_err(|error| error.to_string())?;
        parse_with(|seed| yaml::parse_document(text, chunk.line, seed)).map_err(with_line)?
    };
    match document {
        Document::Object(object) => Ok(Value::Object(object)),
        _ => Err("not an object".to_owned()),
    }
}

fn parse_with(
    parse: impl FnOnce(DocumentSeed<'_>) -> Result<Document, SyntaxError>,
) -> Result<Document, SyntaxError> {
    parse(DocumentSeed { header: &mut ListHeader::default(), sink: &mut |_, _| () })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn yaml_and_json_parse_to_the_same_object() {
        let expected = Ok(json!({ "kind": "Pod", "spec": { "containers": [{ "name": "a" }] } }));
        assert_eq!(
            parse_manifest("# a pod\n---\nkind: Pod\nspec: {containers: [{name: a}]}\n---\nkind: X\n"),
            expected
        );
        assert_eq!(parse_manifest(r#" {"kind":"Pod","spec":{"containers":[{"name":"a"}]}}"#), expected);
    }

    #[test]
    fn text_without_an_object_is_rejected_with_a_reason() {
        for text in ["", "# nothing\n", "5", "- a\n", "a: [", "{"] {
            assert!(!parse_manifest(text).expect_err(text).is_empty(), "{text}");
        }
    }
}
