//! JSON: cutting a stream into documents, and reading one.
//!
//! The stream is cut by counting brackets, so that no more than one document is held, several may follow one
//! another, and a mistake in one does not lose the next. What must not go in here: what a document means.

use std::io::{self, BufRead};

use serde::de::DeserializeSeed;

use crate::document::{Document, DocumentSeed, SyntaxError};
use crate::yaml::{Chunk, DOCUMENT_BYTES_MAX, too_long};

/// Cuts a stream into documents.
pub(crate) struct Splitter<R> {
    input: R,
    chunk: Vec<u8>,
    /// How many line ends have been read.
    line_ends: usize,
}

/// Where in a document the last byte stands.
#[derive(Default)]
struct Scan {
    is_begun: bool,
    /// It does not begin with a bracket: the rest of the line is taken as a document, and will be refused.
    is_garbage: bool,
    depth: usize,
    in_string: bool,
    is_escaped: bool,
}

impl Scan {
    /// Takes bytes up to the end of the document; says how many those are if it ends here.
    fn take(&mut self, bytes: &[u8]) -> Option<usize> {
        if !self.is_begun {
            self.is_begun = true;
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

impl<R: BufRead> Splitter<R> {
    pub(crate) fn new(input: R) -> Self {
        Self { input, chunk: Vec::new(), line_ends: 0 }
    }

    /// The next document; none at the end.
    pub(crate) fn next_chunk(&mut self) -> io::Result<Option<Chunk<'_>>> {
        self.chunk.clear();
        self.skip_white_space()?;
        let line = self.line_ends + 1;
        let mut scan = Scan::default();
        loop {
            let available = match self.input.fill_buf() {
                Ok(available) => available,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            if available.is_empty() {
                break;
            }
            let end = scan.take(available);
            let taken = end.unwrap_or(available.len());
            self.line_ends += available[..taken].iter().filter(|byte| **byte == b'\n').count();
            self.chunk.extend_from_slice(&available[..taken]);
            self.input.consume(taken);
            if self.chunk.len() > DOCUMENT_BYTES_MAX {
                return Err(too_long());
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

    /// What has been read last, and the rest: for reading all of it again in another syntax.
    pub(crate) fn into_parts(self) -> (Vec<u8>, R) {
        (self.chunk, self.input)
    }
}

/// Reads one document that begins on `first_line` of its file.
pub(crate) fn read_document(
    text: &str,
    first_line: usize,
    seed: DocumentSeed<'_>,
) -> Result<Document, SyntaxError> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let read = seed.deserialize(&mut deserializer);
    let read = read.and_then(|document| deserializer.end().map(|()| document));
    read.map_err(|error| {
        let message = error.to_string();
        let message = message.rsplit_once(" at line ").map_or(message.as_str(), |(before, _)| before);
        let line = first_line + error.line().saturating_sub(1);
        SyntaxError { line, column: Some(error.column()), message: message.to_owned() }
    })
}
