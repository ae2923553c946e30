//! `Findings`: the errors and warnings of one object.
//!
//! Input can be garbage of any size, so their number is bounded, and quoted text is truncated and escaped.

use std::cell::RefCell;

/// The maximum number of problems of each severity in a report. Further problems are only counted.
pub const MAX_PROBLEMS: usize = 1000;

/// The maximum number of quoted characters of a text.
const MAX_QUOTED_CHARS: usize = 80;

/// The severity of a problem.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// A file, document or object was rejected.
    Error,
    /// A part of an object was skipped, or is probably a mistake.
    Warning,
}

/// The errors and warnings of one object.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    list: RefCell<Vec<Finding>>,
    /// The first value that is malformed, even if an API server accepted it.
    malformed: RefCell<Option<String>>,
}

/// An error or warning. The message starts with the path of the field.
#[derive(Debug)]
pub(crate) struct Finding {
    pub(crate) severity: Severity,
    pub(crate) message: String,
}

impl Findings {
    pub(crate) fn add(&self, severity: Severity, message: String) {
        let mut list = self.list.borrow_mut();
        let count = list.len();
        // Warnings must not crowd out an error: it decides whether the object is used.
        if count < MAX_PROBLEMS || (severity == Severity::Error && count < 2 * MAX_PROBLEMS) {
            list.push(Finding { severity, message });
        }
    }

    /// Whether further errors would be dropped.
    pub(super) fn is_full(&self) -> bool {
        self.list.borrow().len() >= 2 * MAX_PROBLEMS
    }

    pub(crate) fn has_errors(&self) -> bool {
        self.list.borrow().iter().any(|finding| finding.severity == Severity::Error)
    }

    /// Records why the object cannot be used even if an API server stored it. Only the first reason is kept.
    pub(super) fn set_malformed(&self, reason: impl FnOnce() -> String) {
        self.malformed.borrow_mut().get_or_insert_with(reason);
    }

    /// Returns why the object cannot be used even if an API server stored it.
    pub(crate) fn malformed(&self) -> Option<String> {
        self.malformed.borrow().clone()
    }

    pub(crate) fn into_list(self) -> Vec<Finding> {
        self.list.into_inner()
    }
}

/// Escapes control characters and truncates a text, so that a message can quote it.
pub(crate) fn excerpt(text: &str) -> String {
    let mut out = String::new();
    for (count, character) in text.chars().enumerate() {
        if count == MAX_QUOTED_CHARS {
            out.push_str("...");
            break;
        }
        if character.is_control() {
            out.extend(character.escape_default());
        } else {
            out.push(character);
        }
    }
    out
}
