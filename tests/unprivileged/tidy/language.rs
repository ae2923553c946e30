//! The rule for plain English: no words of the dialect that docs/style.md replaces.
//!
//! It applies to the text of every file: comments, strings, documentation, scripts and names.

use super::repository::File;

/// The file that lists the words next to their replacements.
const STYLE_GUIDE: &str = "docs/style.md";

/// The file that quotes the messages and names of earlier versions, in backticks.
const CHANGELOG: &str = "CHANGELOG.md";

/// Words and phrases. Each is split, so that the rule does not find this file.
const DIALECT: [&str; 12] = [
    concat!("to", "ld"),
    concat!("an", "ew"),
    concat!("who", "ever"),
    concat!("no", "body"),
    concat!("some", "body"),
    concat!("every", "body"),
    concat!("any", "body"),
    concat!("i", "s none"),
    concat!("s", "o many"),
    concat!("s", "o long"),
    concat!("s", "o often"),
    concat!("o", "f ours"),
];

/// The start of a line with a name in a stored or transmitted format, which cannot be changed.
const SERIALIZED_NAME: &str = "#[serde(rename = ";

/// Returns the lines that contain a word of the dialect.
pub(crate) fn dialect(file: &File) -> Vec<String> {
    if file.path == STYLE_GUIDE {
        return Vec::new();
    }
    let lines = file.lines().filter(|(_, line)| !line.trim_start().starts_with(SERIALIZED_NAME));
    let found = lines.flat_map(|(number, line)| {
        let text = if file.path == CHANGELOG { without_quotes(line) } else { line.to_owned() };
        // A word counts also as a part of an identifier, a phrase does not: `is_...` is a method of Rust.
        let (words, parts) = (words(&text, |c| c == '_'), words(&text, |_| false));
        let found = DIALECT.iter().filter(move |phrase| {
            let text = if phrase.contains(' ') { &words } else { &parts };
            text.contains(&format!(" {phrase} "))
        });
        found.map(move |phrase| format!("{}:{number}: \"{phrase}\"", file.path))
    });
    found.collect()
}

/// Returns a line without the texts in backticks.
fn without_quotes(line: &str) -> String {
    line.split('`').step_by(2).collect::<Vec<_>>().join(" ")
}

/// Returns the words of a line in lower case, with a space around each. Words consist of letters, digits, and what
/// `is_letter` accepts.
fn words(line: &str, is_letter: fn(char) -> bool) -> String {
    let is_part = |c: char| c.is_alphanumeric() || is_letter(c);
    let letters = line.chars().map(|c| if is_part(c) { c.to_ascii_lowercase() } else { ' ' });
    let text: String = letters.collect();
    format!(" {} ", text.split_whitespace().collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dialect_is_found_in_text_and_names() {
        let [verb, .., phrase] = DIALECT;
        let text = format!(
            "It is {verb}.\nfn is_{verb}_of()\nsuch as {phrase}\nun{verb}\n{}\n",
            phrase.replace(' ', "_")
        );
        let expected = [(1, verb), (2, verb), (3, phrase)];
        let expected = expected.map(|(number, word)| format!("xtask/src/x.rs:{number}: \"{word}\""));
        assert_eq!(dialect(&File::sample("xtask/src/x.rs", &text)), expected);
    }

    #[test]
    fn serialized_names_may_contain_dialect() {
        let [word, ..] = DIALECT;
        let text = format!("    {SERIALIZED_NAME}\"{word}\")]\n");
        assert!(dialect(&File::sample("xtask/src/x.rs", &text)).is_empty());
    }

    #[test]
    fn changelog_may_quote_dialect() {
        let [word, ..] = DIALECT;
        let changelog = |text: String| dialect(&File::sample(CHANGELOG, &text)).len();
        assert_eq!(changelog(format!("- FEATURE: `reported` (was `is {word}`)\n")), 0);
        assert_eq!(changelog(format!("- FEATURE: it is {word} `now`\n")), 1);
    }

    #[test]
    fn style_guide_may_list_dialect() {
        let [word, ..] = DIALECT;
        assert!(dialect(&File::sample(STYLE_GUIDE, word)).is_empty());
        assert_eq!(dialect(&File::sample("docs/node.md", word)).len(), 1);
    }
}
