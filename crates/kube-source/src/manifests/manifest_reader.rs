//! Reads manifests from their sources: opens files, detects YAML or JSON, and splits streams into documents.
//!
//! A stream, file or standard input, is read once, document by document. A file that starts with a bracket is split as
//! JSON; a document that is not valid JSON is then parsed as YAML flow style, unless the file is named `.json`. The
//! objects in a document are the business of `ObjectReader`.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::sync::Arc;

use crate::manifests::allocate::PreviousAddresses;
use crate::manifests::document::SyntaxError;
use crate::manifests::json::JsonSplitter;
use crate::manifests::object_reader::ObjectReader;
use crate::manifests::object_set::Objects;
use crate::manifests::options::ReadOptions;
use crate::manifests::report::{Report, SourceLocation};
use crate::manifests::resolve::{Resolved, resolve};
use crate::manifests::source::{Listing, Source, listing};
use crate::manifests::yaml::{Chunk, YamlSplitter};
use crate::manifests::{json, yaml};
use crate::objects::finding::Severity;

/// The size of the read buffer.
const BUFFER_BYTES: usize = 64 << 10;
/// The maximum length of a parser's message, which can quote the document.
const MESSAGE_CHARS_MAX: usize = 300;

/// Reads all sources, in order.
#[must_use]
pub fn read(sources: &[Source], options: &ReadOptions) -> (Objects, Report) {
    let Resolved { objects, report, derived: _ } = read_again(sources, options, &PreviousAddresses::new());
    (objects, report)
}

/// Reads all sources. A service without a cluster IP gets its previous address again.
pub(crate) fn read_again(
    sources: &[Source],
    options: &ReadOptions,
    previous: &PreviousAddresses,
) -> Resolved {
    let mut reader = ObjectReader::default();
    for source in sources {
        match source {
            Source::Stdin => reader.stream("<stdin>", io::stdin().lock()),
            Source::Path(path) => {
                let Listing { files, directories: _, unreadable } = listing(path);
                if files.is_empty() && unreadable.is_empty() {
                    let message = "no .yaml, .yml or .json file in this directory".to_owned();
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
                            reader.file_problem(
                                &name,
                                Severity::Error,
                                format!("failed to open file: {error}"),
                            );
                        }
                    }
                }
            }
        }
    }
    resolve(reader, options, previous)
}

/// Reads a text as if it were the content of the file `name`.
#[must_use]
pub fn read_str(name: &str, text: &str, options: &ReadOptions) -> (Objects, Report) {
    let mut reader = ObjectReader::default();
    reader.stream(name, text.as_bytes());
    let Resolved { objects, report, derived: _ } = resolve(reader, options, &PreviousAddresses::new());
    (objects, report)
}

impl ObjectReader {
    fn file_problem(&mut self, file: &str, severity: Severity, message: String) {
        let location = SourceLocation { file: file.into(), document: 0, line: 0, column: None };
        self.report.add(severity, &location, None, message);
    }

    /// Reads one file. The content decides the syntax, because YAML can start with a bracket, too.
    pub(crate) fn stream(&mut self, name: &str, input: impl BufRead) {
        if let Err(error) = self.try_stream(name, input) {
            self.file_problem(name, Severity::Error, format!("failed to read file: {error}"));
        }
    }

    fn try_stream(&mut self, name: &str, mut input: impl BufRead) -> io::Result<()> {
        let file: Arc<str> = name.into();
        let preamble = read_preamble(&mut input)?;
        if preamble.has_bracket {
            let is_yaml_allowed = !name.ends_with(".json");
            self.json_stream(&file, preamble.whitespace, input, is_yaml_allowed)
        } else {
            self.yaml_stream(&file, Cursor::new(preamble.whitespace).chain(input), JsonPrefix::default())
        }
    }

    fn json_stream(
        &mut self,
        file: &Arc<str>,
        whitespace: Vec<u8>,
        input: impl BufRead,
        is_yaml_allowed: bool,
    ) -> io::Result<()> {
        let mut documents = JsonSplitter::new(Cursor::new(&whitespace).chain(input));
        let mut number = 0;
        while let Some(Chunk { line, bytes, .. }) = documents.next_chunk()? {
            number += 1;
            if bytes.starts_with(b"---") {
                // The stream is YAML whose first documents are JSON.
                let prefix = JsonPrefix { lines: line - 1, documents: number - 1, error: None };
                let (chunk, rest) = documents.into_parts();
                return self.yaml_stream(file, Cursor::new(chunk).chain(rest), prefix);
            }
            let location = SourceLocation { file: Arc::clone(file), document: number, line, column: None };
            let objects_before = self.report.objects;
            let result = match utf8(bytes, line) {
                Ok(text) => {
                    let result = self.json_document(&location, text, line, is_yaml_allowed);
                    let is_undecided =
                        is_yaml_allowed && number == 1 && self.report.objects == objects_before;
                    if is_undecided && result.is_err() && has_bare_key(bytes) {
                        // The splitter does not know YAML's single quotes: a bracket in them ends a chunk too early.
                        let (chunk, rest) = documents.into_parts();
                        let (_, rest) = rest.into_inner();
                        let all = Cursor::new(whitespace.clone()).chain(Cursor::new(chunk)).chain(rest);
                        return self.yaml_stream(
                            file,
                            all,
                            JsonPrefix { error: result.err(), ..JsonPrefix::default() },
                        );
                    }
                    result
                }
                Err(error) => Err(error),
            };
            self.report.documents += 1;
            if let Err(error) = result {
                self.syntax_error(&location, &error, self.report.objects - objects_before);
            }
        }
        Ok(())
    }

    /// Reads a JSON document, or a YAML document in flow style. Returns the error of the JSON parser.
    fn json_document(
        &mut self,
        location: &SourceLocation,
        text: &str,
        line: usize,
        is_yaml_allowed: bool,
    ) -> Result<(), SyntaxError> {
        let objects_before = self.report.objects;
        let result = self.document(location, |seed| json::parse_document(text, line, seed));
        if result.is_ok() || !is_yaml_allowed || self.report.objects > objects_before {
            return result;
        }
        self.document(location, |seed| yaml::parse_document(text, line, seed)).or(result)
    }

    /// Reads YAML documents, from the start of a file or after JSON documents.
    fn yaml_stream(&mut self, file: &Arc<str>, input: impl BufRead, prefix: JsonPrefix) -> io::Result<()> {
        let JsonPrefix { lines, documents: mut number, error: mut json_error } = prefix;
        let mut documents = YamlSplitter::new(input, lines);
        while let Some(Chunk { line, content_line, bytes }) = documents.next_chunk()? {
            number += 1;
            let location =
                SourceLocation { file: Arc::clone(file), document: number, line: content_line, column: None };
            let objects_before = self.report.objects;
            let result = match utf8(bytes, line) {
                // The file looks like JSON, so the error of the JSON parser is more useful.
                Ok(text) => self
                    .document(&location, |seed| yaml::parse_document(text, line, seed))
                    .map_err(|error| json_error.take().unwrap_or(error)),
                Err(error) => Err(error),
            };
            json_error = None;
            self.report.documents += 1;
            if let Err(error) = result {
                self.syntax_error(&location, &error, self.report.objects - objects_before);
            }
        }
        Ok(())
    }

    /// Reports a syntax error in a document of which `objects` objects were read.
    fn syntax_error(&mut self, location: &SourceLocation, error: &SyntaxError, objects: usize) {
        // If the parser reports no position, that of the document is the closest.
        let line = if error.column.is_some() { error.line } else { location.line };
        let location = SourceLocation { line, column: error.column, ..location.clone() };
        let mut message = format!("failed to parse document: {}", sanitized(&error.message));
        if objects > 0 {
            message.push_str(&format!("; the {objects} objects before it are kept"));
        }
        self.report.add(Severity::Error, &location, None, message);
    }
}

/// Decodes the text of a document that starts on `first_line` of its file.
fn utf8(bytes: &[u8], first_line: usize) -> Result<&str, SyntaxError> {
    std::str::from_utf8(bytes).map_err(|error| {
        let valid = &bytes[..error.valid_up_to()];
        let line = first_line + valid.iter().filter(|byte| **byte == b'\n').count();
        let column = valid.iter().rev().take_while(|byte| **byte != b'\n').count() + 1;
        SyntaxError { line, column: Some(column), message: "not UTF-8".to_owned() }
    })
}

/// Removes control characters and truncates the message of a parser.
fn sanitized(message: &str) -> String {
    message.chars().filter(|character| !character.is_control()).take(MESSAGE_CHARS_MAX).collect()
}

/// Whether the first key after the opening brackets is unquoted, which JSON does not allow.
fn has_bare_key(text: &[u8]) -> bool {
    let first = text.iter().find(|byte| !byte.is_ascii_whitespace() && !b"{[".contains(byte));
    first.is_some_and(|byte| !b"\"}]".contains(byte))
}

/// The part of a file that was read as JSON before the rest is read as YAML.
#[derive(Default)]
struct JsonPrefix {
    lines: usize,
    documents: usize,
    /// The error of the JSON parser, if the whole file is read again as YAML.
    error: Option<SyntaxError>,
}

/// The start of a file.
struct Preamble {
    /// The leading white space, already consumed.
    whitespace: Vec<u8>,
    /// The first other character is an opening bracket, so the file is probably JSON.
    has_bracket: bool,
}

/// Reads the byte order mark and the white space at the start of a file.
///
/// # Errors
/// The file cannot be read, is binary or is not in UTF-8.
fn read_preamble(input: &mut impl BufRead) -> io::Result<Preamble> {
    let available = input.fill_buf()?;
    let unsupported = match available {
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => Some("unsupported encoding UTF-16: must be UTF-8"),
        [0, ..] => Some("binary file: starts with a NUL byte"),
        _ => None,
    };
    if let Some(reason) = unsupported {
        return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
    }
    if available.starts_with(&[0xef, 0xbb, 0xbf]) {
        input.consume(3);
    }
    let mut whitespace = Vec::new();
    loop {
        let available = input.fill_buf()?;
        let length = available.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
        let next = available.get(length).copied();
        let is_end = available.is_empty();
        whitespace.extend_from_slice(&available[..length]);
        input.consume(length);
        if whitespace.len() > yaml::DOCUMENT_BYTES_MAX {
            return Err(yaml::document_too_long());
        }
        if is_end || next.is_some() {
            return Ok(Preamble { whitespace, has_bracket: matches!(next, Some(b'{' | b'[')) });
        }
    }
}
