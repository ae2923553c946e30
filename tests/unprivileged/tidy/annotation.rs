//! Rules for annotations: each is in the table of the core, and code uses the keys of that table.
//!
//! docs/reference/annotations.md is generated from the table, so every annotation is documented.

use proxy_core::annotation::{ALL, PREFIX};

use super::repository::File;

/// The path of the table.
const TABLE: &str = "proxy-core/src/model/annotation.rs";

/// Finds names with Portico's prefix that are not in the table.
pub(crate) fn unknown_names(file: &File) -> Vec<String> {
    let named = file.lines().flat_map(|(number, line)| names(line).map(move |name| (number, name)));
    let unknown = named.filter(|(_, name)| !ALL.iter().any(|annotation| annotation.name() == *name));
    unknown
        .map(|(number, name)| format!("{}:{number}: {PREFIX}{name} is not in {TABLE}", file.path))
        .collect()
}

/// Finds literal keys in code. Tests may contain them, because users write them.
pub(crate) fn literal_keys(file: &File) -> Vec<String> {
    let is_test = file.path == TABLE || file.path.split('/').any(|part| matches!(part, "tests" | "tests.rs"));
    if is_test {
        return Vec::new();
    }
    let code = file.lines().take_while(|(_, line)| !line.contains("#[cfg(test)]"));
    let spelled =
        code.filter(|(_, line)| names(line).any(|name| line.contains(&format!("\"{PREFIX}{name}\""))));
    spelled.map(|(number, line)| format!("{}:{number}: {}", file.path, line.trim())).collect()
}

/// Returns the names after Portico's prefix.
fn names(line: &str) -> impl Iterator<Item = &str> {
    let ends = |rest: &str| {
        rest.find(|letter: char| !letter.is_ascii_lowercase() && letter != '-').unwrap_or(rest.len())
    };
    line.split(PREFIX).skip(1).map(move |rest| &rest[..ends(rest)]).filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_annotation_is_found() {
        let line = format!("{PREFIX}mode, {PREFIX}speed: fast, {PREFIX}{{name}} and {PREFIX}\n");
        assert_eq!(
            unknown_names(&File::sample("docs/x.md", &line)),
            [format!("docs/x.md:1: {PREFIX}speed is not in {TABLE}")]
        );
    }

    #[test]
    fn literal_key_in_code_is_found() {
        let line = format!("const MODE: &str = \"{PREFIX}mode\";\n");
        assert_eq!(literal_keys(&File::sample("a/src/x.rs", &line)).len(), 1);
        assert_eq!(literal_keys(&File::sample("a/src/tests.rs", &line)).len(), 0);
        let message = format!("format!(\"{PREFIX}mode says no\");\n");
        assert_eq!(literal_keys(&File::sample("a/src/x.rs", &message)).len(), 0);
    }
}
