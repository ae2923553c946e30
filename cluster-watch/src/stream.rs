//! Sources to documents: the IO of reading.
//!
//! A stream is read once, document by document, whether file or standard input. What a document holds is the
//! `Reader`'s to say; what must not go in here is anything about objects.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::sync::Arc;

use crate::allocate::Earlier;
use crate::document::SyntaxError;
use crate::finish::{Finished, finish};
use crate::objects::Objects;
use crate::options::ReadOptions;
use crate::reader::Reader;
use crate::report::{Place, Report, Severity};
use crate::source::{Listing, Source, listing};
use crate::yaml::Chunk;
use crate::{json, yaml};

/// How many bytes are read from a file at once.
const BUFFER_BYTES: usize = 64 << 10;

/// How many characters of a parser's message are kept: it may quote the document.
const MESSAGE_CHARS_MAX: usize = 300;

/// Reads all sources, one after the other.
#[must_use]
pub fn read(sources: &[Source], options: &ReadOptions) -> (Objects, Report) {
    let Finished { objects, report, derived: _ } = read_again(sources, options, &Earlier::new());
    (objects, report)
}

/// Reads all sources; a service that had drawn an address earlier draws it again.
pub(crate) fn read_again(sources: &[Source], options: &ReadOptions, earlier: &Earlier) -> Finished {
    let mut reader = Reader::default();
    for source in sources {
        match source {
            Source::Stdin => reader.stream("<stdin>", io::stdin().lock()),
            Source::Path(path) => {
                let Listing { files, folders: _, unreadable } = listing(path);
                if files.is_empty() && unreadable.is_empty() {
                    let message = "no .yaml, .yml or .json file in this folder".to_owned();
                    reader.file_problem(&path.to_string_lossy(), Severity::Warning, message);
                }
                for problem in unreadable {
                    reader.file_problem(&problem.path.to_string_lossy(), Severity::Error, problem.message);
                }
                for file in files {
                    let name = file.to_string_lossy();
                    match File::open(&file) {
                        Ok(open) => reader.stream(&name, BufReader::with_capacity(BUFFER_BYTES, open)),
                        Err(error) => {
                            reader.file_problem(&name, Severity::Error, format!("open file: {error}"));
                        }
                    }
                }
            }
        }
    }
    finish(reader, options, earlier)
}

/// Reads a text as if it were the file `name`.
#[must_use]
pub fn read_str(name: &str, text: &str, options: &ReadOptions) -> (Objects, Report) {
    let mut reader = Reader::default();
    reader.stream(name, text.as_bytes());
    let Finished { objects, report, derived: _ } = finish(reader, options, &Earlier::new());
    (objects, report)
}

impl Reader {
    fn file_problem(&mut self, file: &str, severity: Severity, message: String) {
        let place = Place { file: file.into(), document: 0, line: 0, column: None };
        self.report.add(severity, &place, None, message);
    }

    /// Reads one file. Its name does not tell its syntax: YAML, too, may begin with a bracket.
    pub(crate) fn stream(&mut self, name: &str, mut input: impl BufRead) {
        let file: Arc<str> = name.into();
        let start = match start_of(&mut input) {
            Ok(start) => start,
            Err(error) => {
                self.file_problem(name, Severity::Error, format!("read file: {error}"));
                return;
            }
        };
        let is_yaml_allowed = !name.ends_with(".json");
        if let Some(why) = start.no_text {
            self.file_problem(name, Severity::Error, format!("read file: {why}"));
        } else if start.has_bracket {
            let result = self.json_stream(&file, start.white, input, is_yaml_allowed);
            self.finish_stream(name, result);
        } else {
            let result = self.yaml_stream(&file, Cursor::new(start.white).chain(input), Before::default());
            self.finish_stream(name, result);
        }
    }

    fn finish_stream(&mut self, name: &str, result: io::Result<()>) {
        if let Err(error) = result {
            self.file_problem(name, Severity::Error, format!("read file: {error}"));
        }
    }

    fn json_stream(
        &mut self,
        file: &Arc<str>,
        white: Vec<u8>,
        input: impl BufRead,
        is_yaml_allowed: bool,
    ) -> io::Result<()> {
        let mut documents = json::Splitter::new(Cursor::new(&white).chain(input));
        let mut number = 0;
        while let Some(Chunk { line, bytes, .. }) = documents.next_chunk()? {
            number += 1;
            if bytes.starts_with(b"---") {
                // JSON documents as documents of a YAML stream.
                let before = Before { lines: line - 1, documents: number - 1, not_json: None };
                let (chunk, rest) = documents.into_parts();
                return self.yaml_stream(file, Cursor::new(chunk).chain(rest), before);
            }
            let place = Place { file: Arc::clone(file), document: number, line, column: None };
            let Some(text) = self.utf8(bytes, line, &place) else { continue };
            let before = self.report.objects;
            let read = self.document(&place, |seed| json::read_document(text, line, seed));
            let Err(error) = read else { continue };
            if is_yaml_allowed && self.report.objects == before {
                self.report.documents -= 1;
                if self.document(&place, |seed| yaml::read_document(text, line, seed)).is_ok() {
                    continue;
                }
                if number == 1 && self.report.objects == before && has_bare_key(bytes) {
                    // Brackets in YAML's other quotes may have cut it in the wrong place.
                    let (chunk, rest) = documents.into_parts();
                    let (_, rest) = rest.into_inner();
                    let all = Cursor::new(white.clone()).chain(Cursor::new(chunk)).chain(rest);
                    self.report.documents -= 1;
                    return self.yaml_stream(
                        file,
                        all,
                        Before { not_json: Some(error), ..Before::default() },
                    );
                }
            }
            self.syntax_error(&place, &error, self.report.objects - before);
        }
        Ok(())
    }

    /// Reads YAML, from the beginning of a file or after some of it.
    fn yaml_stream(&mut self, file: &Arc<str>, input: impl BufRead, before: Before) -> io::Result<()> {
        let Before { lines, documents: mut number, mut not_json } = before;
        let mut documents = yaml::Splitter::new(input, lines);
        while let Some(Chunk { line, content_line, bytes }) = documents.next_chunk()? {
            number += 1;
            let place = Place { file: Arc::clone(file), document: number, line: content_line, column: None };
            let Some(text) = self.utf8(bytes, line, &place) else { continue };
            let before = self.report.objects;
            let read = self.document(&place, |seed| yaml::read_document(text, line, seed));
            let not_json = not_json.take();
            if let Err(error) = read {
                // The mistake in what looks like JSON is the one that the user is looking for.
                let error = not_json.unwrap_or(error);
                self.syntax_error(&place, &error, self.report.objects - before);
            }
        }
        Ok(())
    }

    fn utf8<'a>(&mut self, bytes: &'a [u8], first_line: usize, place: &Place) -> Option<&'a str> {
        match std::str::from_utf8(bytes) {
            Ok(text) => Some(text),
            Err(error) => {
                let valid = &bytes[..error.valid_up_to()];
                let lines = valid.iter().filter(|byte| **byte == b'\n').count();
                let column = valid.iter().rev().take_while(|byte| **byte != b'\n').count() + 1;
                let place = Place { line: first_line + lines, column: Some(column), ..place.clone() };
                self.report.documents += 1;
                self.report.add(Severity::Error, &place, None, "read document: not UTF-8".to_owned());
                None
            }
        }
    }

    fn syntax_error(&mut self, place: &Place, error: &SyntaxError, kept: usize) {
        // Where the parser knows no place, the document's own is the nearest.
        let line = if error.column.is_some() { error.line } else { place.line };
        let place = Place { line, column: error.column, ..place.clone() };
        let mut message = format!("read document: {}", cleaned(&error.message));
        if kept > 0 {
            message.push_str(&format!("; the {kept} objects before it are kept"));
        }
        self.report.add(Severity::Error, &place, None, message);
    }
}

/// Bounded and without control characters, like everything that is quoted.
fn cleaned(message: &str) -> String {
    message.chars().filter(|character| !character.is_control()).take(MESSAGE_CHARS_MAX).collect()
}

/// Whether what stands in the first brackets is not quoted, as JSON never has it.
fn has_bare_key(text: &[u8]) -> bool {
    let first = text.iter().find(|byte| !byte.is_ascii_whitespace() && !b"{[".contains(byte));
    first.is_some_and(|byte| !b"\"}]".contains(byte))
}

/// What has been read of a file before its YAML.
#[derive(Default)]
struct Before {
    lines: usize,
    documents: usize,
    /// Why the file is not the JSON that it looks like.
    not_json: Option<SyntaxError>,
}

/// What a file begins with.
struct Start {
    /// White space, which has been read already.
    white: Vec<u8>,
    /// The first other character is an opening bracket: it looks like JSON.
    has_bracket: bool,
    /// Why it cannot be text that is read here, if so.
    no_text: Option<&'static str>,
}

/// Looks at the beginning of a file; a byte order mark is passed over.
fn start_of(input: &mut impl BufRead) -> io::Result<Start> {
    let mut white = Vec::new();
    let mut first = [0_u8; 3];
    let available = input.fill_buf()?;
    let length = available.len().min(first.len());
    first[..length].copy_from_slice(&available[..length]);
    if first == [0xef, 0xbb, 0xbf] {
        input.consume(first.len());
    }
    let is_utf16 = matches!(first[..2], [0xff, 0xfe] | [0xfe, 0xff]);
    let mut no_text = is_utf16.then_some("it is UTF-16, but YAML and JSON are read as UTF-8");
    if length > 0 && first[0] == 0 {
        no_text = Some("it begins with a NUL byte, so it is no text");
    }
    loop {
        let available = input.fill_buf()?;
        let length = available.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
        let next = available.get(length).copied();
        let is_end = available.is_empty();
        white.extend_from_slice(&available[..length]);
        input.consume(length);
        if white.len() > yaml::DOCUMENT_BYTES_MAX {
            return Err(yaml::too_long());
        }
        if is_end || next.is_some() {
            return Ok(Start { white, has_bracket: matches!(next, Some(b'{' | b'[')), no_text });
        }
    }
}
