//! The rule for plain English: no words of the dialect that docs/style.md replaces.
//!
//! It applies to all text: comments, strings, documentation, scripts and names. `AREAS` lists the paths that are
//! rewritten; it grows until it covers the repository.

use super::repository::File;

/// The paths to which the rule applies, and everything below them.
const AREAS: &[&str] = &[
    ".ci/",
    ".shellcheckrc",
    "CONTRIBUTING.md",
    "Cargo.toml",
    "README.md",
    "SECURITY.md",
    "cli/",
    "clippy.toml",
    "cni-plugin/",
    "crates/admission-review/",
    "crates/agent-ipc/",
    "crates/bench-report/",
    "crates/cni-install/",
    "crates/daemon/",
    "crates/kube-source/",
    "crates/netns-nft/",
    "crates/relay/",
    "crates/support/",
    "deny.toml",
    "deploy/",
    "examples/",
    "fuzz/Cargo.toml",
    "fuzz/fuzz_targets/annotations.rs",
    "fuzz/fuzz_targets/read",
    "fuzz/fuzz_targets/review.rs",
    "fuzz/fuzz_targets/table.rs",
    "fuzz/manifest.dict",
    "fuzz/src/downstream.rs",
    "fuzz/src/draw.rs",
    "fuzz/src/injected.rs",
    "fuzz/src/manifest.rs",
    "fuzz/src/replies.rs",
    "node-agent/",
    "proxy-core/",
    "scripts/",
    "tests/containers/demo.rs",
    "tests/netns/relay_backend.rs",
    "tests/netns/relay_datagram.rs",
    "tests/netns/relay_dial.rs",
    "tests/netns/relay_end.rs",
    "tests/netns/relay_limit.rs",
    "tests/netns/relay_memory.rs",
    "tests/netns/relay_schedule.rs",
    "tests/netns/relay_stream.rs",
    "tests/netns/relay_unmatched.rs",
    "tests/support/src/own_process.rs",
    "tests/support/src/program.rs",
    "tests/support/src/relayed.rs",
    "tests/support/src/temp_dir.rs",
    "tests/unprivileged/main.rs",
    "tests/unprivileged/reference.rs",
    "tests/unprivileged/release",
    "tests/unprivileged/tidy",
    "webhook/",
    "xtask/",
];

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
    let lines = file.lines().filter(|(_, line)| !line.trim_start().starts_with(SERIALIZED_NAME));
    let found = lines.flat_map(|(number, line)| {
        // A word counts also as a part of an identifier, a phrase does not: `is_...` is a method of Rust.
        let (words, parts) = (words(line, |c| c == '_'), words(line, |_| false));
        let found = DIALECT.iter().filter(move |phrase| {
            let text = if phrase.contains(' ') { &words } else { &parts };
            text.contains(&format!(" {phrase} "))
        });
        found.map(move |phrase| format!("{}:{number}: \"{phrase}\"", file.path))
    });
    found.collect()
}

/// Whether the rule applies to a file.
pub(crate) fn is_covered(file: &File) -> bool {
    AREAS.iter().any(|area| file.path.starts_with(area))
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
    fn areas_contain_what_is_below_them() {
        assert!(is_covered(&File::sample("scripts/demo.d/story", "")));
        assert!(!is_covered(&File::sample("relay/src/relay.rs", "")));
    }
}
