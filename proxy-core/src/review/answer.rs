//! The answers to reviews, as bytes.
//!
//! What is large in one is the patch: the same variables for each container, as base64. They come written already, and
//! are pasted between what is this pod's own. What must not go in here: what the answer is.

use serde::Serialize;

use crate::base64;
use crate::inject::{Added, Injection, PatchOp, PatchValue};
use crate::review::{API_VERSION, BadReview, KIND};

/// The body of the answer to a request for a pod.
#[must_use]
pub fn answer(uid: &str, injection: &Injection) -> Vec<u8> {
    let Injection { patch, warnings, denied, config_maps: _, accounts: _, untouched: _ } = injection;
    let status = denied.as_deref().map(|message| Status { code: 403, reason: "Forbidden", message });
    let mut text = written(&Response { uid, allowed: denied.is_none(), status, warnings });
    if denied.is_none() && !patch.is_empty() {
        // It ends with the ends of two objects; the patch is the last field of the inner one.
        text.truncate(text.len() - ENDS.len());
        text.extend_from_slice(br#","patchType":"JSONPatch","patch":""#);
        PatchText::new(&mut text).patch(patch);
        text.extend_from_slice(b"\"");
        text.extend_from_slice(ENDS);
    }
    text
}

/// The body of the answer that lets a request pass as it is.
#[must_use]
pub fn pass(uid: &str) -> Vec<u8> {
    answer(uid, &Injection::default())
}

impl BadReview {
    /// The body of the answer.
    #[must_use]
    pub fn answer(&self) -> Vec<u8> {
        let status = Some(Status { code: 400, reason: "BadRequest", message: &self.why });
        written(&Response { uid: &self.uid, allowed: false, status, warnings: &[] })
    }
}

const ENDS: &[u8] = b"}}";

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer<'a> {
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
    serde_json::to_vec(&Answer { api_version: API_VERSION, kind: KIND, response }).unwrap_or_default()
}

/// A patch on its way into base64.
struct PatchText<'a> {
    text: &'a mut Vec<u8>,
    /// JSON that is not base64 yet.
    json: Vec<u8>,
}

impl<'a> PatchText<'a> {
    fn new(text: &'a mut Vec<u8>) -> Self {
        Self { text, json: Vec::new() }
    }

    fn patch(mut self, patch: &[PatchOp]) {
        let values = patch.iter().map(|op| match &op.value {
            PatchValue::Env(ours, _) => ours.text_len(),
            PatchValue::Json(_) => 0,
        });
        self.text.reserve(values.sum());
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
        base64::encode(&self.json, self.text);
    }

    /// A list of variables, ours first.
    fn env(&mut self, ours: &Added, theirs: &[serde_json::Value]) {
        self.json.push(b'[');
        let (texts, last) = ours.texts();
        for text in texts {
            base64::fill_up(&mut self.json);
            base64::encode(&self.json, self.text);
            self.json.clear();
            self.text.extend_from_slice(text.as_bytes());
        }
        self.json.extend_from_slice(&last);
        for entry in theirs {
            if self.json.last() != Some(&b'[') {
                self.json.push(b',');
            }
            self.value(entry);
        }
        self.json.push(b']');
    }

    /// Texts, numbers and lists are always JSON.
    fn value(&mut self, value: &impl Serialize) {
        serde_json::to_writer(&mut self.json, value).unwrap_or_default();
    }
}
