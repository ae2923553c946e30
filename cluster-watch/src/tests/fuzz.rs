//! Whatever the input, reading ends, does not panic, and says only what is bounded.
//!
//! Random bytes, random pieces of syntax, and right manifests with damage. What a particular mistake leads
//! to is claimed elsewhere.

use super::ENDLESS_LINE_LEN;
use crate::{MAX_PROBLEMS, ReadOptions, read_str};
use proptest::prelude::*;

/// A manifest with every kind that is read, to be damaged.
const WHOLE: &str = include_str!("whole.yaml");
/// The same as JSON, to be damaged.
const WHOLE_JSON: &str = include_str!("whole.json");

/// Pieces that mean something to a parser or to a rule.
const PIECES: [&str; 28] = [
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
        assert!(line.len() < ENDLESS_LINE_LEN && !line.contains(['\n', '\u{1b}']), "{line}");
    }
    // What was read fits together: the core takes it.
    let count = objects.services.len();
    assert_eq!(objects.into_snapshot().service_count(), count);
}

fn check_both(text: &str) {
    check("a.yaml", text);
    check("a.json", text);
}

/// A text with some of its parts cut, doubled or replaced.
fn damaged(text: &'static str) -> impl Strategy<Value = String> {
    let edit = (any::<prop::sample::Index>(), 0..40_usize, prop::sample::select(&PIECES[..]), any::<bool>());
    prop::collection::vec(edit, 1..8).prop_map(move |edits| {
        let mut chars: Vec<char> = text.chars().collect();
        for (at, length, piece, doubles) in edits {
            let from = at.index(chars.len());
            let to = (from + length).min(chars.len());
            let mut new: Vec<char> = piece.chars().collect();
            if doubles {
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
    fn any_bytes_end(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        check_both(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn any_pieces_end(pieces in prop::collection::vec(prop::sample::select(&PIECES[..]), 0..60)) {
        check_both(&pieces.concat());
    }

    #[test]
    fn damaged_yaml_ends(text in damaged(WHOLE)) {
        check("a.yaml", &text);
    }

    #[test]
    fn damaged_json_ends(text in damaged(WHOLE_JSON)) {
        check_both(&text);
    }
}

#[test]
fn the_undamaged_manifests_are_right() {
    for text in [WHOLE, WHOLE_JSON] {
        let (objects, report) = read_str("whole", text, &ReadOptions::default());
        assert_eq!(super::lines(&report), Vec::<String>::new());
        assert_eq!((objects.services.len(), objects.slices.len(), objects.nodes.len()), (4, 4, 1));
        assert_eq!(objects.service_ranges.len(), 1);
    }
}
