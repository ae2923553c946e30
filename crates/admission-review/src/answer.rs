//! The answers to reviews, as bytes.
//!
//! What is large in one is the patch: the same variables for each container, as base64. They come written already, and
//! stand as shared pieces between what is this pod's own. What must not go in here: what the answer is.

use serde::Serialize;

use crate::{API_VERSION, BadReview, KIND};
use proxy_core::admission::{Added, Injection, PatchOp, PatchValue, Run};
use proxy_core::base64;

/// What is shorter is copied: each piece is written by itself.
const SHARED_BYTES_MIN: usize = 1_024;

/// What is this answer's own mostly fits into this.
const OWN_BYTES: usize = 512;

/// The body of an answer, in pieces.
#[derive(Debug, Default)]
pub struct Answer {
    pieces: Vec<Piece>,
}

/// Some bytes in a row.
#[derive(Debug)]
pub enum Piece {
    /// Those of this answer.
    Own(Vec<u8>),
    /// Those that other answers have as well.
    Shared(Run),
}

impl Answer {
    /// The pieces, in order.
    #[must_use]
    pub fn into_pieces(self) -> Vec<Piece> {
        self.pieces
    }

    /// How many bytes it has.
    #[must_use]
    pub fn size(&self) -> usize {
        self.pieces.iter().map(|piece| piece.as_ref().len()).sum()
    }

    /// All of it.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        let mut all = Vec::new();
        for piece in &self.pieces {
            all.extend_from_slice(piece.as_ref());
        }
        all
    }
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        match self {
            Self::Own(bytes) => bytes,
            Self::Shared(run) => run.as_ref(),
        }
    }
}

/// The answer to a request for a pod.
#[must_use]
pub fn answer(uid: &str, injection: &Injection) -> Answer {
    let Injection { patch, warnings, denied, .. } = injection;
    let status = denied.as_deref().map(|message| Status { code: 403, reason: "Forbidden", message });
    let mut text = written(&Response { uid, allowed: denied.is_none(), status, warnings });
    if denied.is_some() || patch.is_empty() {
        return Answer { pieces: vec![Piece::Own(text)] };
    }
    // It ends with the ends of two objects; the patch is the last field of the inner one.
    text.truncate(text.len() - ENDS.len());
    text.extend_from_slice(br#","patchType":"JSONPatch","patch":""#);
    let json = Vec::with_capacity(OWN_BYTES);
    let mut writer = PatchWriter { pieces: Vec::new(), text, json };
    writer.patch(patch);
    writer.text.push(b'"');
    writer.text.extend_from_slice(ENDS);
    writer.pieces.push(Piece::Own(writer.text));
    Answer { pieces: writer.pieces }
}

/// The answer that lets a request pass as it is.
#[must_use]
pub fn pass(uid: &str) -> Answer {
    answer(uid, &Injection::default())
}

/// The answer that lets a pod pass which is too large to look at, and tells its owner so.
#[must_use]
pub fn pass_too_large(uid: &str, why: &str) -> Answer {
    let warnings = vec![format!("portico: nothing is injected: {why}")];
    answer(uid, &Injection { warnings, ..Injection::default() })
}

impl BadReview {
    /// The answer.
    #[must_use]
    pub fn answer(&self) -> Answer {
        let status = Some(Status { code: 400, reason: "BadRequest", message: &self.why });
        let text = written(&Response { uid: &self.uid, allowed: false, status, warnings: &[] });
        Answer { pieces: vec![Piece::Own(text)] }
    }
}

const ENDS: &[u8] = b"}}";

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body<'a> {
    api_version: &'static str,
    kind: &'static str,
    response: &'a Response<'a>,
}

#[derive(Serialize)]
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

fn written(response: &Response<'_>) -> Vec<u8> {
    let mut text = Vec::with_capacity(OWN_BYTES);
    let body = Body { api_version: API_VERSION, kind: KIND, response };
    // Texts and numbers are always JSON.
    serde_json::to_writer(&mut text, &body).unwrap_or_default();
    text
}

/// A patch on its way into base64.
struct PatchWriter {
    pieces: Vec<Piece>,
    /// The end of what is written, which may go on.
    text: Vec<u8>,
    /// What is to be written as base64.
    json: Vec<u8>,
}

impl PatchWriter {
    fn patch(&mut self, patch: &[PatchOp]) {
        for (index, PatchOp { op, path, value }) in patch.iter().enumerate() {
            self.json.extend_from_slice(if index == 0 { b"[{\"op\":" } else { b",{\"op\":" });
            self.value(op);
            self.json.extend_from_slice(b",\"path\":");
            self.value(path);
            self.json.extend_from_slice(b",\"value\":");
            match value {
                PatchValue::Json(value) => self.value(value),
                PatchValue::Env(ours, theirs) => self.env(ours, theirs),
            }
            self.json.push(b'}');
        }
        self.json.push(b']');
        base64::encode(&self.json, &mut self.text);
    }

    /// A list of variables, ours first; theirs is a list.
    fn env(&mut self, ours: &Added, theirs: &str) {
        self.json.push(b'[');
        let (runs, last) = ours.texts();
        for run in runs {
            self.paste(run);
        }
        if let Some(last) = last {
            self.value(last);
        }
        let theirs = theirs.strip_prefix('[').unwrap_or_default();
        if last.is_some() && theirs != "]" {
            self.json.push(b',');
        }
        self.json.extend_from_slice(theirs.as_bytes());
    }

    fn paste(&mut self, run: Run) {
        base64::fill_up(&mut self.json);
        base64::encode(&self.json, &mut self.text);
        self.json.clear();
        if run.as_ref().len() < SHARED_BYTES_MIN {
            self.text.extend_from_slice(run.as_ref());
        } else {
            self.pieces.push(Piece::Own(std::mem::take(&mut self.text)));
            self.pieces.push(Piece::Shared(run));
        }
    }

    /// Texts, numbers and lists are always JSON.
    fn value(&mut self, value: &impl Serialize) {
        serde_json::to_writer(&mut self.json, value).unwrap_or_default();
    }
}
