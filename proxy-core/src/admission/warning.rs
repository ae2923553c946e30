//! `Warnings`: what the API server hands to whoever made the pod.
//!
//! It cuts a warning after 256 characters, takes 4,096 in all, and refuses control characters
//! (endpoints/filters/warning.go). What is cut here is cut where it still says what it is about. What must not go in
//! here: what to warn of.

use std::fmt::Display;

const CHARS_MAX: usize = 256;
const ALL_CHARS_MAX: usize = 4_096;
/// Room for the line that says how many are missing.
const REST_CHARS_MAX: usize = 40;
const EXCERPT_CHARS_MAX: usize = 60;
/// How many names a line lists.
const NAMES_MAX: usize = 8;

/// More different warnings than this are only counted: they would not fit into an answer.
const LINES_MAX: usize = 256;

/// Warnings, each once.
#[derive(Debug, Default)]
pub(super) struct Warnings {
    lines: Vec<String>,
    more: usize,
}

impl Warnings {
    pub(super) fn push(&mut self, message: impl Display) {
        if self.lines.len() == LINES_MAX {
            self.more += 1;
            return;
        }
        let line = sound(&format!("portico: {message}"));
        if !self.lines.contains(&line) {
            self.lines.push(line);
        }
    }

    /// As many as the API server passes on.
    pub(super) fn finish(self) -> Vec<String> {
        let count = self.lines.len() + self.more;
        let mut left = ALL_CHARS_MAX - REST_CHARS_MAX;
        let mut kept = Vec::new();
        for line in self.lines {
            let Some(rest) = left.checked_sub(line.chars().count()) else { break };
            left = rest;
            kept.push(line);
        }
        if kept.len() < count {
            kept.push(format!("portico: {} more warnings", count - kept.len()));
        }
        kept
    }
}

/// One line without control characters, and not too long.
pub(super) fn sound(text: &str) -> String {
    let clean = |character: char| if character.is_control() { ' ' } else { character };
    if text.chars().count() <= CHARS_MAX {
        return text.chars().map(clean).collect();
    }
    text.chars().map(clean).take(CHARS_MAX - 3).chain("...".chars()).collect()
}

/// So much of a text as a message quotes.
pub(super) fn excerpt(text: &str) -> String {
    let short: String = text.chars().take(EXCERPT_CHARS_MAX).collect();
    if short.len() < text.len() { short + "..." } else { short }
}

/// The first of these names, and how many more there are.
pub(super) fn some_of(names: &[String]) -> String {
    let listed = names.iter().take(NAMES_MAX).map(String::as_str).collect::<Vec<_>>().join(", ");
    match names.len().checked_sub(NAMES_MAX) {
        None | Some(0) => listed,
        Some(more) => format!("{listed} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_stay_within_what_the_api_server_takes() {
        let mut warnings = Warnings::default();
        for number in 0..100 {
            warnings.push(format_args!("{number}\n\u{7f}{}", "ä".repeat(300)));
            warnings.push(format_args!("{number}\n\u{7f}{}", "ä".repeat(300)));
        }
        let kept = warnings.finish();
        assert_eq!((kept.len(), kept.last().unwrap().as_str()), (16, "portico: 85 more warnings"));
        assert!(kept.iter().all(|line| line.chars().count() <= 256 && !line.contains(char::is_control)));
        assert!(kept.iter().map(|line| line.chars().count()).sum::<usize>() <= 4_096);
    }
}
