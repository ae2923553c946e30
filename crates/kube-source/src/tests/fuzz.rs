//! Tests that reading terminates, does not panic and reports bounded messages for any input.
//!
//! The inputs are random bytes, random syntax fragments, and damaged manifests. Specific errors are tested elsewhere.

use super::LINE_LEN_LIMIT;
use crate::{MAX_PROBLEMS, ReadOptions, read_str};
use proptest::prelude::*;

/// A manifest with all supported kinds, to be damaged.
const WHOLE: &str = include_str!("whole.yaml");
/// The same objects as JSON, to be damaged.
const WHOLE_JSON: &str = include_str!("whole.json");

/// Fragments that are significant to a parser or to a validation rule.
const FRAGMENTS: [&str; 28] = [
    "\n---\n",
    "\n...\n",
    "\n",
    ": ",
    "- ",
    "  ",
    "{",
    "}",
    "[",
    "]",
    "\"",
    "'",
    "&a ",
    "*a",
    "<<: *a",
    "!!binary ",
    "|\n",
    "null",
    "true",
    "-1",
    "70000",
    "None",
    "127.0.0.1",
    "fd00::1",
    "\u{0}",
    "\u{feff}",
    "kind: List\nitems:\n",
    "99999999999999999999",
];

fn check(name: &str, text: &str) {
    let (objects, report) = read_str(name, text, &ReadOptions::default());
    assert!(report.problems.len() <= 2 * MAX_PROBLEMS);
    for problem in &report.problems {
        let line = problem.to_string();
        assert!(line.len() < LINE_LEN_LIMIT && !line.contains(['\n', '\u{1b}']), "{line}");
    }
    // The objects are consistent: proxy-core accepts them.
    let count = objects.services.len();
    assert_eq!(objects.into_snapshot().service_count(), count);
}

fn check_both(text: &str) {
    check("a.yaml", text);
    check("a.json", text);
}

/// Returns a text with some parts removed, duplicated or replaced.
fn mutated_text(text: &'static str) -> impl Strategy<Value = String> {
    let edit =
        (any::<prop::sample::Index>(), 0..40_usize, prop::sample::select(&FRAGMENTS[..]), any::<bool>());
    prop::collection::vec(edit, 1..8).prop_map(move |edits| {
        let mut chars: Vec<char> = text.chars().collect();
        for (at, length, fragment, duplicates) in edits {
            let from = at.index(chars.len());
            let to = (from + length).min(chars.len());
            let mut new: Vec<char> = fragment.chars().collect();
            if duplicates {
                new.extend_from_slice(&chars[from..to]);
                new.extend_from_slice(&chars[from..to]);
            }
            chars.splice(from..to, new);
            if chars.is_empty() {
                chars.push('a');
            }
        }
        chars.into_iter().collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn reading_random_bytes_terminates(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        check_both(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn reading_random_fragments_terminates(fragments in prop::collection::vec(prop::sample::select(&FRAGMENTS[..]), 0..60)) {
        check_both(&fragments.concat());
    }

    #[test]
    fn reading_damaged_yaml_terminates(text in mutated_text(WHOLE)) {
        check("a.yaml", &text);
    }

    #[test]
    fn reading_damaged_json_terminates(text in mutated_text(WHOLE_JSON)) {
        check_both(&text);
    }
}

#[test]
fn undamaged_manifests_have_no_problems() {
    for text in [WHOLE, WHOLE_JSON] {
        let (objects, report) = read_str("whole", text, &ReadOptions::default());
        assert_eq!(super::lines(&report), Vec::<String>::new());
        assert_eq!((objects.services.len(), objects.slices.len(), objects.nodes.len()), (4, 4, 1));
        assert_eq!(objects.service_ranges.len(), 1);
    }
}
