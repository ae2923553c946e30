//! `Report`: the errors and warnings of the input, and the number of ignored objects.
//!
//! Input can be garbage of any size, so the report is bounded: it keeps the first problems of each severity and counts
//! the rest.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::objects::finding::{MAX_PROBLEMS, Severity, excerpt};

/// The maximum number of kinds in the list of ignored objects.
const MAX_IGNORED_KINDS: usize = 200;

/// The position of an object or an error in the input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SourceLocation {
    pub(crate) file: Arc<str>,
    /// Counts from 1; 0 if the problem is the file itself.
    pub(crate) document: usize,
    /// Counts from 1; 0 if it is unknown.
    pub(crate) line: usize,
    pub(crate) column: Option<usize>,
}

impl fmt::Display for SourceLocation {
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

/// An error or warning about the input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Whether something was rejected.
    pub severity: Severity,
    /// The file; `<stdin>` for standard input.
    pub file: Arc<str>,
    /// The document within the file, from 1; 0 if the problem is the file itself.
    pub document: usize,
    /// The line within the file, from 1: the line of a syntax error, otherwise the first line of the document; 0 if the
    /// problem is the file itself.
    pub line: usize,
    /// The column of a syntax error within the line, from 1.
    pub column: Option<usize>,
    /// The object, such as `Service default/redis`.
    pub object: Option<String>,
    /// The message, with the path of the field.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { severity: _, file, document, line, column, object, message } = self;
        let location =
            SourceLocation { file: Arc::clone(file), document: *document, line: *line, column: *column };
        write!(f, "{location}: ")?;
        if let Some(object) = object {
            write!(f, "{object}: ")?;
        }
        f.write_str(message)
    }
}

/// The errors and warnings of the input, and the number of ignored objects.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// The problems in reading order, at most [`MAX_PROBLEMS`] of each severity.
    pub problems: Vec<Problem>,
    /// The number of problems that were not kept.
    pub suppressed: usize,
    /// The number of errors, kept or suppressed.
    pub errors: usize,
    /// The number of warnings, kept or suppressed.
    pub warnings: usize,
    /// The number of ignored objects of other kinds, by "apiVersion kind".
    pub ignored: BTreeMap<String, usize>,
    /// The number of documents that are not empty.
    pub documents: usize,
    /// The number of objects, including those in lists.
    pub objects: usize,
}

impl Report {
    /// Whether a file, document or object was rejected.
    #[must_use]
    pub fn has_errors(&self) -> bool {
        self.errors > 0
    }

    /// Whether all files and documents could be parsed, even if objects in them were rejected.
    pub(crate) fn has_read_everything(&self) -> bool {
        let is_unread = |problem: &Problem| problem.severity == Severity::Error && problem.object.is_none();
        self.suppressed == 0 && !self.problems.iter().any(is_unread)
    }

    pub(crate) fn add(
        &mut self,
        severity: Severity,
        location: &SourceLocation,
        object: Option<&str>,
        message: String,
    ) {
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
            file: Arc::clone(&location.file),
            document: location.document,
            line: location.line,
            column: location.column,
            object: object.map(str::to_owned),
            message,
        });
    }

    /// Counts an ignored object.
    pub(crate) fn ignore(&mut self, kind: &str) {
        let kind = excerpt(kind);
        if self.ignored.len() >= MAX_IGNORED_KINDS && !self.ignored.contains_key(&kind) {
            *self.ignored.entry("other kinds".to_owned()).or_default() += 1;
        } else {
            *self.ignored.entry(kind).or_default() += 1;
        }
    }
}
