//! YAML: cutting a stream into documents, and reading one.
//!
//! The stream is cut by line before it is parsed, so that no more than one document is held and a mistake in
//! one does not lose the next; YAML makes that exact, since `---` at the start of a line begins a document
//! wherever it stands. Limits on depth, aliases and size keep a hostile document from costing more than its
//! length. What must not go in here: what a document means.

use std::io::{self, BufRead};

use serde::de::DeserializeSeed;
use serde_saphyr::budget::BudgetBreach;

use crate::document::{Document, DocumentSeed, SyntaxError};

/// A document longer than this is refused: it would have to be held as a whole.
pub(crate) const DOCUMENT_BYTES_MAX: usize = 1 << 30;

const DEPTH_MAX: usize = 64;
const ALIASES_MAX: usize = 1_000;
const REPLAYED_EVENTS_MAX: usize = 100_000;
const EVENTS_SLACK: usize = 100_000;
const SCALAR_BYTES_SLACK: usize = 16 << 20;

/// One document of a stream, as it was read.
#[derive(Debug)]
pub(crate) struct Chunk<'a> {
    /// The line of the file on which its text begins.
    pub(crate) line: usize,
    /// The line on which its first content stands, after comments and the like.
    pub(crate) content_line: usize,
    pub(crate) bytes: &'a [u8],
}

/// Cuts a stream into documents.
pub(crate) struct Splitter<R> {
    input: R,
    /// The line that begins the next document, already read.
    pending: Vec<u8>,
    chunk: Vec<u8>,
    /// How many lines have been read.
    lines: usize,
    is_at_end: bool,
}

enum Line {
    /// `---`: begins a document.
    Start,
    /// `...`: ends one.
    End,
    /// Blank, a comment, or a directive.
    Nothing,
    Content,
}

impl<R: BufRead> Splitter<R> {
    /// `lines`: how many lines of the file stand before the input.
    pub(crate) fn new(input: R, lines: usize) -> Self {
        Self { input, pending: Vec::new(), chunk: Vec::new(), lines, is_at_end: false }
    }

    /// The next document that holds anything; none at the end.
    pub(crate) fn next_chunk(&mut self) -> io::Result<Option<Chunk<'_>>> {
        loop {
            let (line, content_line) = self.collect()?;
            if let Some(content_line) = content_line {
                return Ok(Some(Chunk { line, content_line, bytes: &self.chunk }));
            }
            if self.is_at_end && self.pending.is_empty() {
                return Ok(None);
            }
        }
    }

    /// Collects lines up to the end of a document; says where it begins, and where its content does if it
    /// holds any.
    fn collect(&mut self) -> io::Result<(usize, Option<usize>)> {
        self.chunk.clear();
        std::mem::swap(&mut self.chunk, &mut self.pending);
        self.pending.clear();
        let is_started = !self.chunk.is_empty();
        let mut has_start = is_started;
        let mut content_line = (is_started && holds_content(&self.chunk[3..])).then_some(self.lines);
        let first_line = if is_started { self.lines } else { self.lines + 1 };
        while !self.is_at_end {
            let before = self.chunk.len();
            if !self.read_line()? {
                break;
            }
            match kind_of(&self.chunk[before..]) {
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
                    content_line = holds_content(&self.chunk[before + 3..]).then_some(self.lines);
                }
                Line::Nothing => {}
                Line::Content => content_line = content_line.or(Some(self.lines)),
            }
        }
        Ok((first_line, content_line))
    }

    /// Appends a line to the chunk; false at the end of the stream.
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
                return Err(too_long());
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

pub(crate) fn too_long() -> io::Error {
    let message = format!("a document is longer than {DOCUMENT_BYTES_MAX} bytes");
    io::Error::new(io::ErrorKind::FileTooLarge, message)
}

fn kind_of(line: &[u8]) -> Line {
    let is_marker = |marker: &[u8]| {
        let rest = line.strip_prefix(marker);
        rest.is_some_and(|rest| rest.first().is_none_or(u8::is_ascii_whitespace))
    };
    if is_marker(b"---") {
        Line::Start
    } else if is_marker(b"...") {
        Line::End
    } else if line.first() != Some(&b'%') && holds_content(line) {
        Line::Content
    } else {
        Line::Nothing
    }
}

fn holds_content(line: &[u8]) -> bool {
    line.iter().find(|byte| !byte.is_ascii_whitespace()).is_some_and(|byte| *byte != b'#')
}

/// Reads one document that begins on `first_line` of its file.
pub(crate) fn read_document(
    text: &str,
    first_line: usize,
    seed: DocumentSeed<'_>,
) -> Result<Document, SyntaxError> {
    let length = text.len();
    // Every limit grows with the document, so that aliases can add no more than a fixed slack to it.
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
    let read = serde_saphyr::with_deserializer_from_str_with_options(text, options, |deserializer| {
        seed.deserialize(deserializer)
    });
    read.map_err(|error| {
        let location = error.location().filter(|location| location.line() > 0);
        let at = location.map(|location| (location.line() as usize, location.column() as usize));
        let (line, column) =
            at.map_or((first_line, None), |(line, column)| (first_line + line - 1, Some(column)));
        SyntaxError { line, column, message: message(error.without_snippet()) }
    })
}

/// The parser's message in the user's words, without its place, which counts from the start of the document.
fn message(error: &serde_saphyr::Error) -> String {
    use serde_saphyr::Error;
    match error {
        Error::RecursiveReferencesRequireWeakTypes { .. } => {
            "an alias refers to what it stands in".to_owned()
        }
        Error::AliasReplayCounterOverflow { .. }
        | Error::AliasReplayLimitExceeded { .. }
        | Error::AliasExpansionLimitExceeded { .. }
        | Error::AliasReplayStackDepthExceeded { .. } => "its aliases repeat too much".to_owned(),
        Error::Budget { breach: BudgetBreach::Depth { .. }, .. } => {
            format!("nested deeper than {DEPTH_MAX} levels")
        }
        Error::Budget { breach, .. } => format!("it exceeds a limit: {breach:?}"),
        Error::AliasError { error, .. } => message(error),
        other => {
            let text = other.to_string();
            text.split_once(" at line ").map_or(text.as_str(), |(before, _)| before).to_owned()
        }
    }
}
