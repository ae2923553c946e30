//! JSON: splits a stream into documents, and parses a document.
//!
//! The splitter counts brackets. Only one document is in memory at a time, documents can follow one another without a
//! separator, and a syntax error in one does not affect the next. The meaning of a document does not belong here.

use std::io::{self, BufRead};

use serde::de::DeserializeSeed;

use crate::manifests::document::{Document, DocumentSeed, SyntaxError};
use crate::manifests::yaml::{Chunk, DOCUMENT_BYTES_MAX, document_too_long};

/// Splits a stream into JSON documents.
pub(crate) struct JsonSplitter<R> {
    input: R,
    chunk: Vec<u8>,
    /// The number of line ends read so far.
    line_ends: usize,
}

/// Finds the end of a document. The state is that after the last scanned byte.
#[derive(Default)]
struct BracketScanner {
    is_started: bool,
    /// The document does not start with a bracket. The rest of its line is one document, which the parser rejects.
    is_garbage: bool,
    depth: usize,
    in_string: bool,
    is_escaped: bool,
}

impl BracketScanner {
    /// Scans bytes up to the end of the document. Returns their number if the document ends in `bytes`.
    fn scan(&mut self, bytes: &[u8]) -> Option<usize> {
        if !self.is_started {
            self.is_started = true;
            self.is_garbage = !matches!(bytes.first(), Some(b'{' | b'['));
        }
        let after = |from: usize, stops: fn(u8) -> bool| {
            let found = bytes[from..].iter().position(|byte| stops(*byte));
            found.map(|offset| from + offset + 1)
        };
        let mut at = 0;
        while at < bytes.len() {
            if self.is_garbage {
                return after(at, |byte| byte == b'\n');
            }
            if self.is_escaped {
                self.is_escaped = false;
                at += 1;
            } else if self.in_string {
                at = after(at, |byte| matches!(byte, b'"' | b'\\'))?;
                self.is_escaped = bytes[at - 1] == b'\\';
                self.in_string = self.is_escaped;
            } else {
                at = after(at, |byte| matches!(byte, b'"' | b'{' | b'[' | b'}' | b']'))?;
                match bytes[at - 1] {
                    b'"' => self.in_string = true,
                    b'{' | b'[' => self.depth += 1,
                    _ => self.depth -= 1,
                }
                if self.depth == 0 && !self.in_string {
                    return Some(at);
                }
            }
        }
        None
    }
}

impl<R: BufRead> JsonSplitter<R> {
    pub(crate) fn new(input: R) -> Self {
        Self { input, chunk: Vec::new(), line_ends: 0 }
    }

    /// Returns the next document, or `None` at the end of the stream.
    pub(crate) fn next_chunk(&mut self) -> io::Result<Option<Chunk<'_>>> {
        self.chunk.clear();
        self.skip_white_space()?;
        let line = self.line_ends + 1;
        let mut scanner = BracketScanner::default();
        loop {
            let available = match self.input.fill_buf() {
                Ok(available) => available,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            if available.is_empty() {
                break;
            }
            let end = scanner.scan(available);
            let taken = end.unwrap_or(available.len());
            self.line_ends += available[..taken].iter().filter(|byte| **byte == b'\n').count();
            self.chunk.extend_from_slice(&available[..taken]);
            self.input.consume(taken);
            if self.chunk.len() > DOCUMENT_BYTES_MAX {
                return Err(document_too_long());
            }
            if end.is_some() {
                break;
            }
        }
        Ok((!self.chunk.is_empty()).then_some(Chunk { line, content_line: line, bytes: &self.chunk }))
    }

    fn skip_white_space(&mut self) -> io::Result<()> {
        loop {
            let available = match self.input.fill_buf() {
                Ok(available) => available,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            let is_white = |byte: &&u8| matches!(**byte, b' ' | b'\t' | b'\r' | b'\n');
            let white = available.iter().take_while(is_white).count();
            self.line_ends += available[..white].iter().filter(|byte| **byte == b'\n').count();
            let is_done = white < available.len() || available.is_empty();
            self.input.consume(white);
            if is_done {
                return Ok(());
            }
        }
    }

    /// Returns the last document and the rest of the input, to parse both with another syntax.
    pub(crate) fn into_parts(self) -> (Vec<u8>, R) {
        (self.chunk, self.input)
    }
}

/// Parses one document that starts on `first_line` of its file.
pub(crate) fn parse_document(
    text: &str,
    first_line: usize,
    seed: DocumentSeed<'_>,
) -> Result<Document, SyntaxError> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let result = seed.deserialize(&mut deserializer);
    let result = result.and_then(|document| deserializer.end().map(|()| document));
    result.map_err(|error| {
        let message = error.to_string();
        let message = message.rsplit_once(" at line ").map_or(message.as_str(), |(before, _)| before);
        let line = first_line + error.line().saturating_sub(1);
        SyntaxError { line, column: Some(error.column()), message: message.to_owned() }
    })
}
