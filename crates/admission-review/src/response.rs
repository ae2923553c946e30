//! Responses to reviews, as bytes of JSON.
//!
//! A response contains the patch as base64. Most of a patch are variables that containers have in common, whose JSON is
//! cached with them: so the patch is written by hand around that text. `response_len` returns the length of a response
//! without building it, so that a server can reserve memory for it.

use std::io::{self, Write};

use base64::engine::general_purpose::STANDARD;
use base64::write::EncoderWriter;
use proxy_core::admission::{AddedVariables, Injection, PatchOp, PatchValue};
use serde::Serialize;
use serde_json::Value;

use crate::{API_VERSION, BadReview, KIND};

const SERIALIZES: &str = "strings, numbers, lists and maps with string keys are valid JSON";
/// The fields of a response that precede the patch, and the text after it.
const PATCH_FIELDS: &[u8] = br#","patchType":"JSONPatch","patch":""#;
const END: &[u8] = b"}}";

/// Returns the response to the request for a pod.
#[must_use]
pub fn response(uid: &str, injection: &Injection<'_>) -> Vec<u8> {
    let mut body = json(&envelope(uid, injection));
    if patches(injection) {
        body.reserve_exact(patch_fields_len(injection));
        body.truncate(body.len() - END.len());
        body.extend_from_slice(PATCH_FIELDS);
        let mut encoder = EncoderWriter::new(&mut body, &STANDARD);
        write_patch(&mut encoder, &injection.patch).expect(SERIALIZES);
        encoder.finish().expect("writing to a vector succeeds");
        drop(encoder);
        body.push(b'"');
        body.extend_from_slice(END);
    }
    body
}

/// Returns the length of `response` in bytes.
#[must_use]
pub fn response_len(uid: &str, injection: &Injection<'_>) -> usize {
    json(&envelope(uid, injection)).len() + if patches(injection) { patch_fields_len(injection) } else { 0 }
}

fn patches(injection: &Injection<'_>) -> bool {
    injection.denied.is_none() && !injection.patch.is_empty()
}

fn patch_fields_len(injection: &Injection<'_>) -> usize {
    let mut counter = ByteCounter(0);
    write_patch(&mut counter, &injection.patch).expect(SERIALIZES);
    PATCH_FIELDS.len() + counter.0.div_ceil(3) * 4 + 1
}

fn write_patch(out: &mut impl Write, patch: &[PatchOp<'_>]) -> io::Result<()> {
    let mut separator = "[";
    for PatchOp { op, path, value } in patch {
        write!(out, "{separator}{{\"op\":")?;
        serde_json::to_writer(&mut *out, op)?;
        out.write_all(b",\"path\":")?;
        serde_json::to_writer(&mut *out, path)?;
        out.write_all(b",\"value\":")?;
        match value {
            PatchValue::Json(value) => serde_json::to_writer(&mut *out, value)?,
            PatchValue::Env(added, own) => write_env(out, added, own)?,
        }
        out.write_all(b"}")?;
        separator = ",";
    }
    out.write_all(b"]")
}

fn write_env(out: &mut impl Write, added: &AddedVariables, own: &[Value]) -> io::Result<()> {
    let mut separator = "[";
    for text in added.json() {
        write!(out, "{separator}{text}")?;
        separator = ",";
    }
    for entry in own {
        out.write_all(separator.as_bytes())?;
        serde_json::to_writer(&mut *out, entry)?;
        separator = ",";
    }
    out.write_all(if separator == "[" { b"[]" } else { b"]" })
}

/// Returns the response that allows a request without a patch.
#[must_use]
pub fn allow(uid: &str) -> Vec<u8> {
    response(uid, &Injection::default())
}

/// Returns the response that allows a pod that is too large to inspect, with a warning.
#[must_use]
pub fn allow_too_large(uid: &str, reason: &str) -> Vec<u8> {
    let warnings = vec![format!("portico: nothing is injected: {reason}")];
    response(uid, &Injection { warnings, ..Injection::default() })
}

impl BadReview {
    /// Returns the response that rejects the request.
    #[must_use]
    pub fn response(&self) -> Vec<u8> {
        let status = Some(Status { code: 400, reason: "BadRequest", message: &self.reason });
        let response = Response { uid: &self.uid, status, ..Response::default() };
        json(&Body { api_version: API_VERSION, kind: KIND, response })
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body<'a> {
    api_version: &'static str,
    kind: &'static str,
    response: Response<'a>,
}

#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Response<'a> {
    uid: &'a str,
    allowed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<Status<'a>>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    warnings: &'a [String],
}

#[derive(Serialize)]
struct Status<'a> {
    code: u16,
    reason: &'static str,
    message: &'a str,
}

/// Returns the response without its patch.
fn envelope<'a>(uid: &'a str, injection: &'a Injection<'_>) -> Body<'a> {
    let status = |message| Status { code: 403, reason: "Forbidden", message };
    let response = Response {
        uid,
        allowed: injection.denied.is_none(),
        status: injection.denied.as_deref().map(status),
        warnings: &injection.warnings,
    };
    Body { api_version: API_VERSION, kind: KIND, response }
}

fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect(SERIALIZES)
}

/// Counts the bytes that are written to it.
struct ByteCounter(usize);

impl Write for ByteCounter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
