//! `JsonLines`: splits the response to a watch into lines, one watch event each.
//!
//! The length of a line is bounded. A line that is too long is skipped except for its beginning, so that its object can
//! be named.

use http_body_util::BodyExt;
use kube::client::Body;
use tokio::time::{Instant, timeout_at};

use crate::cluster::list_reader::{HEAD_BYTES_MAX, OBJECT_BYTES_MAX};
use crate::cluster::request::ApiRequest;
use crate::cluster::watch_error::{ErrorKind, WatchError};

/// The maximum length of a line: an object, and the type of the watch event.
const LINE_BYTES_MAX: usize = OBJECT_BYTES_MAX + 1024;
/// The maximum length of a line that is skipped. No API server sends a longer one.
const SKIPPED_BYTES_MAX: usize = 256 << 20;

/// The lines of a response.
pub(super) struct JsonLines {
    body: Body,
    /// The received bytes that are not consumed yet.
    buffer: Vec<u8>,
    /// The length of the line that was returned last. It is consumed by the next call.
    consumed: usize,
    /// The length of the prefix of the buffer that contains no line break.
    searched: usize,
    /// The number of bytes that were skipped in a line that is too long.
    skipped: usize,
}

/// A line.
pub(super) enum JsonLine<'a> {
    Whole(&'a [u8]),
    /// The beginning of a line that is too long.
    TooLarge(&'a [u8]),
}

/// The result of waiting for a line.
pub(super) enum NextLine<'a> {
    Line(JsonLine<'a>),
    /// No line arrived in time.
    Timeout,
    /// The response ended regularly.
    End,
}

impl JsonLines {
    pub(super) fn new(body: Body) -> Self {
        Self { body, buffer: Vec::new(), consumed: 0, searched: 0, skipped: 0 }
    }

    /// Returns the next line that is not empty. The future is cancel-safe.
    pub(super) async fn next(
        &mut self,
        request: &ApiRequest<'_>,
        deadline: Instant,
    ) -> Result<NextLine<'_>, WatchError> {
        loop {
            self.buffer.drain(..self.consumed);
            self.searched -= self.consumed;
            self.consumed = 0;
            if let Some(at) = self.buffer[self.searched..].iter().position(|byte| *byte == b'\n') {
                self.consumed = self.searched + at + 1;
                self.searched = self.consumed;
                if std::mem::take(&mut self.skipped) > 0 {
                    return Ok(NextLine::Line(JsonLine::TooLarge(&self.buffer[..HEAD_BYTES_MAX])));
                }
                if self.buffer[..self.consumed].trim_ascii().is_empty() {
                    continue;
                }
                return Ok(NextLine::Line(JsonLine::Whole(self.buffer[..self.consumed].trim_ascii())));
            }
            self.truncate_long_line(request)?;
            self.searched = self.buffer.len();
            // Releases the memory of a large object.
            if self.buffer.is_empty() && self.buffer.capacity() > HEAD_BYTES_MAX {
                self.buffer = Vec::new();
            }
            let Ok(frame) = timeout_at(deadline, self.body.frame()).await else {
                return Ok(NextLine::Timeout);
            };
            match frame {
                None if self.buffer.trim_ascii().is_empty() => return Ok(NextLine::End),
                None => {
                    let cause = "connection closed within a watch event";
                    return Err(request.error(ErrorKind::Connection, cause));
                }
                Some(Err(error)) => {
                    return Err(WatchError::connection(request.verb, request.resource, &error));
                }
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
            }
        }
    }

    /// Keeps only the beginning of an unfinished line that is too long.
    fn truncate_long_line(&mut self, request: &ApiRequest<'_>) -> Result<(), WatchError> {
        let bytes_max = if self.skipped > 0 { HEAD_BYTES_MAX } else { LINE_BYTES_MAX };
        if self.buffer.len() > bytes_max {
            self.skipped += self.buffer.len() - HEAD_BYTES_MAX;
            self.buffer.truncate(HEAD_BYTES_MAX);
            self.buffer.shrink_to_fit();
        }
        if self.skipped > SKIPPED_BYTES_MAX {
            let cause = format!("watch event is longer than {SKIPPED_BYTES_MAX} bytes");
            return Err(request.error(ErrorKind::InvalidResponse, &cause));
        }
        Ok(())
    }
}
