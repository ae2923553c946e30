//! Answers of an API server: asked for, bounded in time and size, and cut into lines.
//!
//! What must not go in here: what stands in an answer.

use std::future::Future;
use std::time::Duration;

use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use kube::client::Body;
use serde_json::Value;
use tokio::time::{Instant, timeout, timeout_at};

use crate::cluster::fault::{Cause, Fault};
use crate::cluster::items::{HEAD_BYTES_MAX, OBJECT_BYTES_MAX};
use crate::cluster::resource::Resource;

/// The longest line of a watch that is read: an object, and the type of its change.
const LINE_BYTES_MAX: usize = OBJECT_BYTES_MAX + 1024;
/// A line that is longer than this is no change of an API server.
const PASSED_BYTES_MAX: usize = 256 << 20;
/// How much of a refusal is read.
const REFUSAL_BYTES_MAX: usize = 64 << 10;

/// Asks one API server about one resource.
pub(super) struct Ask<'a> {
    pub(super) client: &'a kube::Client,
    pub(super) resource: &'a Resource,
    /// What is tried: list, or watch.
    pub(super) verb: &'static str,
    /// In which form.
    pub(super) accept: &'static str,
    /// How long an answer may take to begin, or to go on.
    pub(super) patience: Duration,
}

impl Ask<'_> {
    /// The body of the answer, if the server agrees.
    pub(super) async fn open(&self, path_and_query: &str) -> Result<Body, Fault> {
        let request = Request::get(path_and_query).header("Accept", self.accept).body(Body::empty());
        let request = request.map_err(|error| self.fault(Cause::Content, &error.to_string()))?;
        let response = self.within(self.client.send(request)).await?;
        let response = response.map_err(|error| Fault::connection(self.verb, self.resource, &error))?;
        if response.status() == StatusCode::OK {
            return Ok(response.into_body());
        }
        Err(self.refusal(response).await)
    }

    /// The next piece of an answer; none: it is complete.
    pub(super) async fn next(&self, body: &mut Body) -> Result<Option<impl AsRef<[u8]> + use<>>, Fault> {
        while let Some(frame) = self.within(body.frame()).await? {
            let frame = frame.map_err(|error| Fault::connection(self.verb, self.resource, &error))?;
            if let Ok(data) = frame.into_data() {
                return Ok(Some(data));
            }
        }
        Ok(None)
    }

    pub(super) fn fault(&self, cause: Cause, why: &str) -> Fault {
        Fault::new(cause, self.verb, self.resource, why)
    }

    async fn refusal(&self, response: Response<Body>) -> Fault {
        let code = response.status().as_u16();
        let after = response.headers().get("Retry-After").and_then(|value| value.to_str().ok()?.parse().ok());
        // What it says is worth knowing, and no more than that.
        let mut body = response.into_body();
        let mut text = Vec::new();
        while let Ok(Some(data)) = self.next(&mut body).await {
            text.extend_from_slice(data.as_ref());
            if text.len() > REFUSAL_BYTES_MAX {
                break;
            }
        }
        let status: Value = serde_json::from_slice(&text).unwrap_or_default();
        let message = status.get("message").and_then(Value::as_str).unwrap_or_default();
        let mut fault = Fault::status(self.verb, self.resource, code, message);
        fault.retry_after = after.map(Duration::from_secs);
        fault
    }

    async fn within<T>(&self, step: impl Future<Output = T>) -> Result<T, Fault> {
        let patience = self.patience;
        timeout(patience, step)
            .await
            .map_err(|_| self.fault(Cause::Silence, &format!("no answer within {patience:?}")))
    }
}

/// The lines of an answer that goes on.
pub(super) struct Lines {
    body: Body,
    /// What has come and was not yet handed out.
    bytes: Vec<u8>,
    /// How much of it was handed out with the last line.
    taken: usize,
    /// How much of it is known to hold no end of a line.
    searched: usize,
    /// How much of the line was thrown away after its beginning, because it is too long.
    passed: usize,
}

/// A line.
pub(super) enum Line<'a> {
    Whole(&'a [u8]),
    /// The beginning of a line that is too long.
    TooLarge(&'a [u8]),
}

/// What comes next.
pub(super) enum Next<'a> {
    Line(Line<'a>),
    /// Nothing came in time.
    Nothing,
    /// The answer has ended, as it should.
    End,
}

impl Lines {
    pub(super) fn new(body: Body) -> Self {
        Self { body, bytes: Vec::new(), taken: 0, searched: 0, passed: 0 }
    }

    /// The next line that is not empty. It may be dropped while it waits.
    pub(super) async fn next(&mut self, ask: &Ask<'_>, until: Instant) -> Result<Next<'_>, Fault> {
        loop {
            self.bytes.drain(..self.taken);
            self.searched -= self.taken;
            self.taken = 0;
            if let Some(at) = self.bytes[self.searched..].iter().position(|byte| *byte == b'\n') {
                self.taken = self.searched + at + 1;
                self.searched = self.taken;
                if std::mem::take(&mut self.passed) > 0 {
                    return Ok(Next::Line(Line::TooLarge(&self.bytes[..HEAD_BYTES_MAX])));
                }
                if self.bytes[..self.taken].trim_ascii().is_empty() {
                    continue;
                }
                return Ok(Next::Line(Line::Whole(self.bytes[..self.taken].trim_ascii())));
            }
            self.pass_over(ask)?;
            self.searched = self.bytes.len();
            // What is kept of one large object is given back.
            if self.bytes.is_empty() && self.bytes.capacity() > HEAD_BYTES_MAX {
                self.bytes = Vec::new();
            }
            let Ok(frame) = timeout_at(until, self.body.frame()).await else { return Ok(Next::Nothing) };
            match frame {
                None if self.bytes.trim_ascii().is_empty() => return Ok(Next::End),
                None => {
                    return Err(
                        ask.fault(Cause::Connection, "the connection ended in the middle of a change")
                    );
                }
                Some(Err(error)) => return Err(Fault::connection(ask.verb, ask.resource, &error)),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.bytes.extend_from_slice(&data);
                    }
                }
            }
        }
    }

    /// Of a line that is too long and has not ended, its beginning is kept.
    fn pass_over(&mut self, ask: &Ask<'_>) -> Result<(), Fault> {
        let bytes_max = if self.passed > 0 { HEAD_BYTES_MAX } else { LINE_BYTES_MAX };
        if self.bytes.len() > bytes_max {
            self.passed += self.bytes.len() - HEAD_BYTES_MAX;
            self.bytes.truncate(HEAD_BYTES_MAX);
            self.bytes.shrink_to_fit();
        }
        if self.passed > PASSED_BYTES_MAX {
            let why = format!("one change is longer than {PASSED_BYTES_MAX} bytes");
            return Err(ask.fault(Cause::Content, &why));
        }
        Ok(())
    }
}
