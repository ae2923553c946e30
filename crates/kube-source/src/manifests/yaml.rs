//! YAML: splits a stream into documents, and parses a document.
//!
//! The splitter works by line, before parsing. Only one document is in memory at a time, and a syntax error in one does
//! not affect the next. This is exact: in YAML, `---` at the start of a line always starts a document. Limits on depth,
//! aliases and size bound the cost of a hostile document to its length. The meaning of a document does not belong here.

use std::io::{self, BufRead};

use serde::de::DeserializeSeed;
use serde_saphyr::budget::BudgetBreach;

use crate::manifests::document::{Document, DocumentSeed, SyntaxError};

/// The maximum length of a document, which is held in memory as a whole.
pub(crate) const DOCUMENT_BYTES_MAX: usize = 1 << 30;

const DEPTH_MAX: usize = 64;
const ALIASES_MAX: usize = 1_000;
const REPLAYED_EVENTS_MAX: usize = 100_000;
const EVENTS_SLACK: usize = 100_000;
const SCALAR_BYTES_SLACK: usize = 16 << 20;

/// The text of one document of a stream.
#[derive(Debug)]
pub(crate) struct Chunk<'a> {
    /// The line of the file on which the text starts.
    pub(crate) line: usize,
    /// The line of the first content after comments, directives and blank lines.
    pub(crate) content_line: usize,
    pub(crate) bytes: &'a [u8],
}

/// Splits a stream into YAML documents.
pub(crate) struct YamlSplitter<R> {
    input: R,
    /// The first line of the next document, already read.
    pending: Vec<u8>,
    chunk: Vec<u8>,
    /// The number of lines read so far.
    lines: usize,
    is_at_end: bool,
}

enum Line {
    /// `---`: starts a document.
    Start,
    /// `...`: ends a document.
    End,
    /// Blank, a comment, or a directive.
    Empty,
    Content,
}

impl<R: BufRead> YamlSplitter<R> {
    /// `lines` is the number of lines of the file before the input.
    pub(crate) fn new(input: R, lines: usize) -> Self {
        Self { input, pending: Vec::new(), chunk: Vec::new(), lines, is_at_end: false }
    }

    /// Returns the next document that has content, or `None` at the end of the stream.
    pub(crate) fn next_chunk(&mut self) -> io::Result<Option<Chunk<'_>>> {
        loop {
            let (line, content_line) = self.read_chunk()?;
            if let Some(content_line) = content_line {
                return Ok(Some(Chunk { line, content_line, bytes: &self.chunk }));
            }
            if self.is_at_end && self.pending.is_empty() {
                return Ok(None);
            }
        }
    }

    /// Reads the lines of a document into the chunk. Returns its first line, and the line of its first content, if any.
    fn read_chunk(&mut self) -> io::Result<(usize, Option<usize>)> {
        self.chunk.clear();
        std::mem::swap(&mut self.chunk, &mut self.pending);
        self.pending.clear();
        let is_started = !self.chunk.is_empty();
        let mut has_start = is_started;
        let mut content_line = (is_started && has_content(&self.chunk[3..])).then_some(self.lines);
        let first_line = if is_started { self.lines } else { self.lines + 1 };
        while !self.is_at_end {
            let before = self.chunk.len();
            if !self.read_line()? {
                break;
            }
            match classify(&self.chunk[before..]) {
                Line::End => {
                    self.chunk.truncate(before);
                    break;
                }
                Line::Start if has_start || content_line.is_some() => {
                    self.pending.extend_from_slice(&self.chunk[before..]);
                    self.chunk.truncate(before);
                    break;
                }
                Line::Start => {
                    has_start = true;
                    content_line = has_content(&self.chunk[before + 3..]).then_some(self.lines);
                }
                Line::Empty => {}
                Line::Content => content_line = content_line.or(Some(self.lines)),
            }
        }
        Ok((first_line, content_line))
    }

    /// Appends a line to the chunk. Returns false at the end of the stream.
    fn read_line(&mut self) -> io::Result<bool> {
        let before = self.chunk.len();
        loop {
            let available = match self.input.fill_buf() {
                Ok(available) => available,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            let end = available.iter().position(|byte| *byte == b'\n').map(|at| at + 1);
            let taken = end.unwrap_or(available.len());
            self.chunk.extend_from_slice(&available[..taken]);
            self.input.consume(taken);
            if self.chunk.len() > DOCUMENT_BYTES_MAX {
                return Err(document_too_long());
            }
            if taken == 0 {
                self.is_at_end = true;
            }
            if end.is_some() || taken == 0 {
                break;
            }
        }
        let has_read = self.chunk.len() > before;
        self.lines += usize::from(has_read);
        Ok(has_read)
    }
}

pub(crate) fn document_too_long() -> io::Error {
    let message = format!("document is longer than {DOCUMENT_BYTES_MAX} bytes");
    io::Error::new(io::ErrorKind::FileTooLarge, message)
}

fn classify(line: &[u8]) -> Line {
    let is_marker = |marker: &[u8]| {
        let rest = line.strip_prefix(marker);
        rest.is_some_and(|rest| rest.first().is_none_or(u8::is_ascii_whitespace))
    };
    if is_marker(b"---") {
        Line::Start
    } else if is_marker(b"...") {
        Line::End
    } else if line.first() != Some(&b'%') && has_content(line) {
        Line::Content
    } else {
        Line::Empty
    }
}

fn has_content(line: &[u8]) -> bool {
    line.iter().find(|byte| !byte.is_ascii_whitespace()).is_some_and(|byte| *byte != b'#')
}

/// Parses one document that starts on `first_line` of its file.
pub(crate) fn parse_document(
    text: &str,
    first_line: usize,
    seed: DocumentSeed<'_>,
) -> Result<Document, SyntaxError> {
    let length = text.len();
    // Each limit grows with the document, so aliases can add only a constant to its cost.
    let options = serde_saphyr::options! {
        with_snippet: false,
        strict_booleans: false,
        legacy_octal_numbers: true,
        budget: serde_saphyr::budget! {
            max_events: 2 * length + EVENTS_SLACK,
            max_nodes: length + EVENTS_SLACK,
            max_depth: DEPTH_MAX,
            max_total_scalar_bytes: length + SCALAR_BYTES_SLACK,
            max_aliases: ALIASES_MAX,
            max_anchors: ALIASES_MAX,
        },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: REPLAYED_EVENTS_MAX },
    };
    let result = serde_saphyr::with_deserializer_from_str_with_options(text, options, |deserializer| {
        seed.deserialize(deserializer)
    });
    result.map_err(|error| {
        let location = error.location().filter(|location| location.line() > 0);
        let at = location.map(|location| (location.line() as usize, location.column() as usize));
        let (line, column) =
            at.map_or((first_line, None), |(line, column)| (first_line + line - 1, Some(column)));
        SyntaxError { line, column, message: message(error.without_snippet()) }
    })
}

/// Returns a message without the position, which is relative to the document.
fn message(error: &serde_saphyr::Error) -> String {
    use serde_saphyr::Error;
    match error {
        Error::RecursiveReferencesRequireWeakTypes { .. } => {
            "alias refers to a node that contains it".to_owned()
        }
        Error::AliasReplayCounterOverflow { .. }
        | Error::AliasReplayLimitExceeded { .. }
        | Error::AliasExpansionLimitExceeded { .. }
        | Error::AliasReplayStackDepthExceeded { .. } => "aliases expand to too many nodes".to_owned(),
        Error::Budget { breach: BudgetBreach::Depth { .. }, .. } => {
            format!("nested deeper than {DEPTH_MAX} levels")
        }
        Error::Budget { breach, .. } => format!("document exceeds a limit: {breach:?}"),
        Error::AliasError { error, .. } => message(error),
        other => {
            let text = other.to_string();
            text.split_once(" at line ").map_or(text.as_str(), |(before, _)| before).to_owned()
        }
    }
}
