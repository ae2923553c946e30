//! `Warnings`: the warnings that the API server forwards to the client that creates the pod.
//!
//! The API server truncates a warning after 256 characters, forwards 4,096 in all, and rejects control characters
//! (endpoints/filters/warning.go). So warnings are truncated here, where the beginning still names the subject.

use std::fmt::Display;

const CHARS_MAX: usize = 256;
const ALL_CHARS_MAX: usize = 4_096;
/// Room for the line that counts the omitted warnings.
const REST_CHARS_MAX: usize = 40;
const EXCERPT_CHARS_MAX: usize = 60;
/// The number of names that a line lists.
const NAMES_MAX: usize = 8;

/// Further distinct warnings are only counted: they would not fit into a response.
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
        let line = sanitized(&format!("portico: {message}"));
        if !self.lines.contains(&line) {
            self.lines.push(line);
        }
    }

    /// Returns as many warnings as the API server forwards.
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

/// Returns the text without control characters, truncated to one warning.
pub(super) fn sanitized(text: &str) -> String {
    let clean = |character: char| if character.is_control() { ' ' } else { character };
    if text.chars().count() <= CHARS_MAX {
        return text.chars().map(clean).collect();
    }
    text.chars().map(clean).take(CHARS_MAX - 3).chain("...".chars()).collect()
}

/// Truncates a text for a quotation in a message.
pub(super) fn excerpt(text: &str) -> String {
    let short: String = text.chars().take(EXCERPT_CHARS_MAX).collect();
    if short.len() < text.len() { short + "..." } else { short }
}

/// Lists the first of these names and the number of further ones.
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
    fn warnings_stay_within_the_limits_of_the_api_server() {
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
