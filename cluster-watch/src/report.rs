//! `Report`: what reading found wrong, and what it left out.
//!
//! Input can be garbage of any size, so the report is bounded: it keeps the first problems of each severity
//! and counts the rest, and text that it quotes is cut and escaped.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// How many problems of each severity a report keeps; further ones are counted only.
pub const MAX_PROBLEMS: usize = 1000;

/// How many different kinds the list of ignored objects names.
const MAX_IGNORED_KINDS: usize = 200;

/// How many characters of a text are quoted.
const MAX_QUOTED_CHARS: usize = 80;

/// Whether something was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// A file, a document or an object was refused.
    Error,
    /// A part was skipped, or something is probably not meant.
    Warning,
}

/// Where something was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) file: Arc<str>,
    /// Counts from 1; 0 where the problem is the file itself.
    pub(crate) document: usize,
    /// Counts from 1; 0 where it is not known.
    pub(crate) line: usize,
    pub(crate) column: Option<usize>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
            if let Some(column) = self.column {
                write!(f, ":{column}")?;
            }
        }
        if self.document > 0 {
            write!(f, ": document {}", self.document)?;
        }
        Ok(())
    }
}

/// One thing that is wrong with the input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Whether something was lost.
    pub severity: Severity,
    /// The file; `<stdin>` for standard input.
    pub file: Arc<str>,
    /// The document within the file, from 1; 0 where the problem is the file itself.
    pub document: usize,
    /// The line within the file, from 1: of the mistake where the syntax is wrong, else the line on which
    /// the document begins; 0 where the problem is the file itself.
    pub line: usize,
    /// The column within the line, from 1, where the syntax is wrong.
    pub column: Option<usize>,
    /// The object, as `Service default/redis`.
    pub object: Option<String>,
    /// What is wrong, with the path of the field.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { severity: _, file, document, line, column, object, message } = self;
        let place = Place { file: Arc::clone(file), document: *document, line: *line, column: *column };
        write!(f, "{place}: ")?;
        if let Some(object) = object {
            write!(f, "{object}: ")?;
        }
        f.write_str(message)
    }
}

/// What reading found wrong, and what it left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// The problems in reading order, at most [`MAX_PROBLEMS`] of each severity.
    pub problems: Vec<Problem>,
    /// How many further problems there were.
    pub suppressed: usize,
    /// How many errors there were, kept or suppressed.
    pub errors: usize,
    /// How many warnings there were, kept or suppressed.
    pub warnings: usize,
    /// How many objects of other kinds were passed over, by "apiVersion kind".
    pub ignored: BTreeMap<String, usize>,
    /// How many documents were read; empty ones do not count.
    pub documents: usize,
    /// How many objects were read, those in lists included.
    pub objects: usize,
}

impl Report {
    /// Whether a file, a document or an object was refused.
    #[must_use]
    pub fn has_errors(&self) -> bool {
        self.errors > 0
    }

    /// Whether every file and document could be read, whatever was in it.
    pub(crate) fn has_read_everything(&self) -> bool {
        let is_unread = |problem: &Problem| problem.severity == Severity::Error && problem.object.is_none();
        self.suppressed == 0 && !self.problems.iter().any(is_unread)
    }

    pub(crate) fn add(&mut self, severity: Severity, place: &Place, object: Option<&str>, message: String) {
        let count = match severity {
            Severity::Error => &mut self.errors,
            Severity::Warning => &mut self.warnings,
        };
        *count += 1;
        if *count > MAX_PROBLEMS {
            self.suppressed += 1;
            return;
        }
        self.problems.push(Problem {
            severity,
            file: Arc::clone(&place.file),
            document: place.document,
            line: place.line,
            column: place.column,
            object: object.map(str::to_owned),
            message,
        });
    }

    pub(crate) fn ignore(&mut self, what: &str) {
        let what = excerpt(what);
        if self.ignored.len() >= MAX_IGNORED_KINDS && !self.ignored.contains_key(&what) {
            *self.ignored.entry("other kinds".to_owned()).or_default() += 1;
        } else {
            *self.ignored.entry(what).or_default() += 1;
        }
    }
}

/// A text as a message may carry it: control characters escaped, not too long.
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
