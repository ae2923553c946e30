//! Rules for Rust sources: a header, a limited size, no leftovers, and a core without input or output.
//!
//! Each rule is a function from a file to its findings, so that a test can show that it finds an invented offender.

use super::repository::File;

const LINES_MAX: usize = 400;
const TEST_LINES_MAX: usize = 600;

/// Names that fit any content; a file is named after the one concept that it contains.
const VAGUE_NAMES: [&str; 5] = ["mod.rs", "utils.rs", "common.rs", "helpers.rs", "types.rs"];

/// Leftovers in comments and in code. Each is split, so that the rule does not find this file.
const LEFTOVER_WORDS: [&str; 3] = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("X", "XX")];
const LEFTOVER_CALLS: [&str; 3] = ["todo!", "unimplemented!", "dbg!"];

/// Input and output, which the core must not have: time and randomness are arguments.
const IMPURE: [&str; 13] = [
    "std::fs",
    "std::env",
    "std::process",
    "std::thread",
    "std::time::Instant",
    "std::time::SystemTime",
    "std::net::TcpListener",
    "std::net::TcpStream",
    "std::net::UdpSocket",
    "std::net::ToSocketAddrs",
    "std::os",
    "std::io::stdin",
    "std::io::stdout",
];

pub(crate) fn header(file: &File) -> Vec<String> {
    let first = file.lines().find(|(_, line)| !line.trim().is_empty() && !line.starts_with("// SPDX"));
    match first.and_then(|(_, line)| line.strip_prefix("//!")) {
        Some(words) if words.trim().len() >= 3 => Vec::new(),
        _ => {
            vec![format!("{}:1: no `//!` header that describes the contents", file.path)]
        }
    }
}

pub(crate) fn size(file: &File) -> Vec<String> {
    let holds_tests = file.path.split('/').any(|part| matches!(part, "tests" | "tests.rs" | "benches"));
    let (lines, lines_max) =
        (file.text.lines().count(), if holds_tests { TEST_LINES_MAX } else { LINES_MAX });
    if lines <= lines_max {
        Vec::new()
    } else {
        vec![format!("{}: {lines} lines, at most {lines_max}", file.path)]
    }
}

pub(crate) fn vague_name(file: &File) -> Vec<String> {
    if VAGUE_NAMES.contains(&file.name()) { vec![file.path.clone()] } else { Vec::new() }
}

pub(crate) fn leftovers(file: &File) -> Vec<String> {
    let in_text = file.lines().flat_map(|(number, line)| {
        let found = words(line).filter(|word| LEFTOVER_WORDS.contains(word));
        found.map(move |word| format!("{}:{number}: {word}", file.path))
    });
    let code = code_only(&file.text);
    let in_code = code.lines().enumerate().flat_map(|(index, line)| {
        let found = LEFTOVER_CALLS.iter().filter(|call| line.contains(**call));
        found.map(move |call| format!("{}:{}: {call}", file.path, index + 1)).collect::<Vec<_>>()
    });
    in_text.chain(in_code).collect()
}

/// Finds a file that is compiled as a part of several programs, and items that rustc does not report if unused.
pub(crate) fn hidden_sharing(file: &File) -> Vec<String> {
    let code = code_only(&file.text);
    let is_hidden = |line: &str| {
        let line = line.replace(' ', "");
        line.contains("#[path=") || (line.contains("allow(") && line.contains("dead_code"))
    };
    let found = code.lines().enumerate().filter(|(_, line)| is_hidden(line));
    found.map(|(index, line)| format!("{}:{}: {}", file.path, index + 1, line.trim())).collect()
}

pub(crate) fn impure_paths(file: &File) -> Vec<String> {
    let code = code_only(&file.text);
    let mut findings = Vec::new();
    for (number, path) in std_paths(&code) {
        if IMPURE.iter().any(|refused| path == *refused || path.starts_with(&format!("{refused}::"))) {
            findings.push(format!("{}:{number}: {path}", file.path));
        }
    }
    findings
}

/// Returns the identifiers and numbers of a line.
fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

/// Returns every path that begins with `std::`, with its line; `use std::{a, b::{c, d}}` is three paths.
fn std_paths(code: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (start, _) in code.match_indices("std::") {
        let joined = code[..start].ends_with(|c: char| c.is_alphanumeric() || c == '_');
        if !joined {
            let number = code[..start].matches('\n').count() + 1;
            let tight: String = code[start..].split(';').next().unwrap_or("").split_whitespace().collect();
            expand("", &tight, &mut |path| found.push((number, path)));
        }
    }
    found
}

/// Reads one path, groups included, from the start of `rest`; returns what follows it.
fn expand<'a>(prefix: &str, rest: &'a str, found: &mut dyn FnMut(String)) -> &'a str {
    let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_' && c != ':').unwrap_or(rest.len());
    let path = format!("{prefix}{}", &rest[..end]);
    let Some(mut inner) = rest[end..].strip_prefix('{').filter(|_| path.ends_with("::")) else {
        found(path);
        return &rest[end..];
    };
    loop {
        inner = expand(&path, inner, found);
        match inner.strip_prefix(',') {
            Some(next) => inner = next,
            None => return inner.strip_prefix('}').unwrap_or(""),
        }
    }
}

/// Replaces comments, strings and characters by spaces; line numbers stay the same.
pub(crate) fn code_only(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let after_word = code.ends_with(|c: char| c.is_alphanumeric() || c == '_');
        let len = skipped_len(rest, after_word);
        if len == 0 {
            code.push(c);
            rest = &rest[c.len_utf8()..];
        } else {
            code.extend(rest[..len].chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
            rest = &rest[len..];
        }
    }
    code
}

/// Returns the length of the comment, string or character at the start of `rest`; 0 if that is code.
fn skipped_len(rest: &str, after_word: bool) -> usize {
    if rest.starts_with("//") {
        return rest.find('\n').unwrap_or(rest.len());
    }
    if rest.starts_with("/*") {
        return block_comment_len(rest);
    }
    if rest.starts_with('"') {
        return quoted_len(rest, '"');
    }
    if let Some(quoted) = rest.strip_prefix('\'') {
        let mut inside = quoted.chars();
        let is_char = match inside.next() {
            Some('\\') => true,
            _ => inside.next() == Some('\''), // 'a' is a character, 'a is a lifetime
        };
        return if is_char { quoted_len(rest, '\'') } else { 0 };
    }
    if after_word {
        return 0;
    }
    let raw = rest.strip_prefix("br").or_else(|| rest.strip_prefix('r')).unwrap_or("");
    let hashes = raw.len() - raw.trim_start_matches('#').len();
    if raw[hashes..].starts_with('"') {
        let close = format!("\"{}", "#".repeat(hashes));
        let body = rest.len() - raw.len() + hashes + 1;
        return rest[body..].find(&close).map_or(rest.len(), |at| body + at + close.len());
    }
    0
}

fn block_comment_len(rest: &str) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while at < rest.len() {
        let here = &rest.as_bytes()[at..];
        if here.starts_with(b"/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if here.starts_with(b"*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    rest.len()
}

fn quoted_len(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        if !escaped && c == quote {
            return at + c.len_utf8();
        }
        escaped = c == '\\' && !escaped;
    }
    rest.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rust(text: &str) -> File {
        File::sample("some-crate/src/portal.rs", text)
    }

    #[test]
    fn file_without_a_header_is_found() {
        assert_eq!(header(&rust("use std::fmt;\n")).len(), 1);
        assert_eq!(header(&rust("\n//!\n")).len(), 1);
        assert_eq!(header(&rust("")).len(), 1);
        assert_eq!(header(&rust("// SPDX-License-Identifier: Apache-2.0\n//! Portals.\n")), [""; 0]);
    }

    #[test]
    fn long_file_is_found_and_tests_may_be_longer() {
        let text = "x\n".repeat(LINES_MAX + 1);
        assert_eq!(size(&rust(&text)).len(), 1);
        assert_eq!(size(&File::sample("some-crate/src/portal/tests.rs", &text)).len(), 0);
        assert_eq!(size(&File::sample("tests/all.rs", &text.repeat(2))).len(), 1);
    }

    #[test]
    fn leftovers_are_found_in_comments_and_code() {
        let bad = format!("// {}: later\nfn f() {{ {}(1); }}\n", LEFTOVER_WORDS[0], LEFTOVER_CALLS[2]);
        let expected = [
            format!("some-crate/src/portal.rs:1: {}", LEFTOVER_WORDS[0]),
            format!("some-crate/src/portal.rs:2: {}", LEFTOVER_CALLS[2]),
        ];
        assert_eq!(leftovers(&rust(&bad)), expected);
        assert_eq!(leftovers(&rust("// TODOS are none, nor is \"dbg!\"\n")), [""; 0]);
    }

    #[test]
    fn input_and_output_in_the_core_are_found() {
        let bad = "use std::{fmt, net::{IpAddr, TcpStream}};\nfn f() { std::env::var(1); }\nuse std::time::Instant;\n";
        assert_eq!(
            impure_paths(&rust(bad)),
            [
                "some-crate/src/portal.rs:1: std::net::TcpStream",
                "some-crate/src/portal.rs:2: std::env::var",
                "some-crate/src/portal.rs:3: std::time::Instant"
            ]
        );
        assert_eq!(
            impure_paths(&rust("//! std::fs is not used\nuse std::time::Duration;\nuse std::net::IpAddr;")),
            [""; 0]
        );
    }

    #[test]
    fn path_attributes_and_permitted_dead_code_are_found() {
        let bad = "#[path = \"other.rs\"]\n#[allow(unused, dead_code)]\nmod other;\n";
        let found = hidden_sharing(&File::sample("tests/netns/dns.rs", bad));
        assert_eq!(found.len(), 2, "{found:?}");
        assert_eq!(hidden_sharing(&rust("// #[path = \"other.rs\"]\n#[allow(missing_docs)]\n")), [""; 0]);
    }

    #[test]
    fn vague_file_name_is_found() {
        assert_eq!(vague_name(&File::sample("some-crate/src/utils.rs", "")).len(), 1);
        assert_eq!(vague_name(&rust("")).len(), 0);
    }

    #[test]
    fn lifetimes_are_code_and_characters_are_not() {
        assert_eq!(code_only("fn f<'a>(x: &'a str) { '\\'' }"), "fn f<'a>(x: &'a str) {      }");
        assert_eq!(code_only("r\"\\\" vip"), "     vip");
    }
}
