//! Watches a resource from a resource version, line by line.
//!
//! ```text
//! Starting ─ first event, or `stable_after` has passed ─► Stable ─ API server ends the watch ─► next watch
//!     └─ API server ends the watch early: back-off
//! ```

use std::borrow::Cow;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use support::{jitter, percent_encode_query};
use tokio::time::Instant;

use crate::cluster::decoder::Decoder;
use crate::cluster::json_lines::{JsonLine, JsonLines, NextLine};
use crate::cluster::list_watch::state::{ListWatch, ResourceVersion, Stop, too_large};
use crate::cluster::message::WatchMessage;
use crate::cluster::object::ObjectKey;
use crate::cluster::object_head::ObjectHead;
use crate::cluster::request::ApiRequest;
use crate::cluster::watch_error::{ErrorKind, WatchError};
use crate::cluster::watch_options::WatchOptions;

/// The number of consecutive watches that may end early until it is an error.
const SHORT_WATCHES_MAX: u32 = 3;

/// An event of a watch, as the API server sends it.
#[derive(Deserialize)]
struct WatchEvent<'a> {
    #[serde(rename = "type", borrow)]
    event_type: Cow<'a, str>,
    #[serde(borrow)]
    object: &'a RawValue,
}

/// A watch to which the API server has responded.
pub(super) struct OpenWatch {
    lines: JsonLines,
    timeout_s: u32,
    /// The time by which the API server must have ended the watch.
    end: Instant,
}

/// The phase of a watch. Only a stable watch ends an outage.
enum Phase {
    Starting { since: Instant },
    Stable { last_activity: Instant },
}

impl Phase {
    fn last_activity(&self) -> Instant {
        match self {
            Self::Starting { since: time } | Self::Stable { last_activity: time } => *time,
        }
    }
}

/// An event before the initial events of a watch are complete.
pub(super) enum InitialEvent<C> {
    Message(WatchMessage<C>),
    /// A bookmark.
    Ignored,
    /// All objects were sent. Changes follow from this resource version.
    End(ResourceVersion),
}

/// The message for a watch event, and the resource version of the event.
type Versioned<C> = (Option<u64>, Option<WatchMessage<C>>);

impl<D: Decoder> ListWatch<D> {
    /// Starts a watch with these parameters in its query.
    pub(super) async fn open_watch(&self, parameters: &str) -> Result<OpenWatch, WatchError> {
        let WatchOptions { watch_timeout_s, watch_grace, .. } = self.options;
        let timeout_s = watch_timeout_s + (f64::from(watch_timeout_s) / 4.0 * jitter()) as u32;
        let (path, selectors) = (self.path(), self.resource.selectors());
        let query = format!(
            "{path}?watch=true&allowWatchBookmarks=true&timeoutSeconds={timeout_s}&{parameters}{selectors}"
        );
        let lines = JsonLines::new(self.watch_request().send(&query).await?);
        let end = Instant::now() + Duration::from_secs(timeout_s.into()) + watch_grace;
        Ok(OpenWatch { lines, timeout_s, end })
    }

    /// Watches from a resource version until the watch ends, and advances the version.
    pub(super) async fn watch(&mut self, version: &mut ResourceVersion) -> Result<(), Stop> {
        let parameters = format!("resourceVersion={}", percent_encode_query(&version.text));
        let watch = self.open_watch(&parameters).await?;
        self.read_watch(watch, version).await
    }

    /// Reads an open watch until it ends.
    pub(super) async fn read_watch(
        &mut self,
        watch: OpenWatch,
        version: &mut ResourceVersion,
    ) -> Result<(), Stop> {
        let OpenWatch { mut lines, timeout_s, end } = watch;
        let WatchOptions { watch_grace, stable_after, .. } = self.options;
        let mut phase = Phase::Starting { since: Instant::now() };
        loop {
            let deadline = match phase {
                Phase::Starting { since } => end.min(since + stable_after),
                Phase::Stable { .. } => end,
            };
            let request = self.watch_request();
            let message = match lines.next(&request, deadline).await? {
                NextLine::Line(line) => self.parse_line(&request, line, version)?,
                NextLine::End => match phase {
                    Phase::Starting { .. } => return self.ended_early().await,
                    Phase::Stable { .. } => return Ok(()),
                },
                NextLine::Timeout if Instant::now() >= end => {
                    // The API server exceeds the timeout of the watch. The connection is alive if an event came lately.
                    if phase.last_activity() + watch_grace > end {
                        return Ok(());
                    }
                    let cause = format!("no event for {timeout_s} s");
                    return Err(request.error(ErrorKind::Timeout, &cause).into());
                }
                NextLine::Timeout => None,
            };
            if matches!(phase, Phase::Starting { .. }) {
                self.mark_healthy().await?;
            }
            phase = Phase::Stable { last_activity: Instant::now() };
            if let Some(message) = message {
                self.send(message).await?;
            }
        }
    }

    /// Waits for the next initial event of a watch. Each must arrive within the response timeout.
    pub(super) async fn next_initial_event(
        &self,
        watch: &mut OpenWatch,
    ) -> Result<InitialEvent<D::Content>, Stop> {
        let request = self.watch_request();
        let deadline = watch.end.min(Instant::now() + self.options.response_timeout);
        let line = match watch.lines.next(&request, deadline).await? {
            NextLine::Line(line) => line,
            NextLine::End => {
                let cause = "watch ended before its initial events were complete";
                return Err(request.error(ErrorKind::InvalidResponse, cause).into());
            }
            NextLine::Timeout => {
                return Err(request.error(ErrorKind::Timeout, "timed out waiting for initial events").into());
            }
        };
        if let JsonLine::Whole(text) = line {
            let head = ObjectHead::of_bookmark(text);
            // Only a bookmark counts: any user can put the annotation on an object.
            let is_end = head.event_type == "BOOKMARK" && head.ends_initial_events;
            if let (true, Some(number)) = (is_end, head.version) {
                return Ok(InitialEvent::End(ResourceVersion::from_number(number)));
            }
        }
        // Initial events are sorted by name, so their versions are not checked against each other.
        let message = self.parse_line(&request, line, &mut ResourceVersion::start())?;
        Ok(match message {
            Some(WatchMessage::Applied(object)) => InitialEvent::Message(WatchMessage::Listed(object)),
            Some(message) => InitialEvent::Message(message),
            None => InitialEvent::Ignored,
        })
    }

    /// Backs off after a watch that ended early. An API server that shuts down does this once.
    async fn ended_early(&mut self) -> Result<(), Stop> {
        self.short_watches += 1;
        if self.short_watches > SHORT_WATCHES_MAX {
            let request = self.watch_request();
            return Err(request.error(ErrorKind::Connection, "watches end immediately").into());
        }
        Ok(self.back_off(None).await?)
    }

    /// Parses a line, and advances the resource version. Returns `None` if the line is not about an object.
    fn parse_line(
        &self,
        request: &ApiRequest<'_>,
        line: JsonLine<'_>,
        version: &mut ResourceVersion,
    ) -> Result<Option<WatchMessage<D::Content>>, Stop> {
        let invalid = |cause: &str| Stop::Failed(request.error(ErrorKind::InvalidResponse, cause));
        let (event_version, message) = match line {
            JsonLine::Whole(text) => self.parse_event(request, text)?,
            JsonLine::TooLarge(text) => {
                let message = self.parse_large_event(&ObjectHead::of_event(text));
                message.ok_or_else(|| invalid(&format!("watch event without a name: {}", too_large())))?
            }
        };
        if let Some(number) = event_version {
            if number < version.number {
                return Err(invalid("resource version moved backwards"));
            }
            *version = ResourceVersion::from_number(number);
        }
        Ok(message)
    }

    fn parse_event(&self, request: &ApiRequest<'_>, text: &[u8]) -> Result<Versioned<D::Content>, Stop> {
        let invalid = |cause: &str| Stop::Failed(request.error(ErrorKind::InvalidResponse, cause));
        let event: WatchEvent<'_> = serde_json::from_slice(text)
            .map_err(|error| invalid(&format!("watch event is invalid JSON: {error}")))?;
        let text = event.object.get().as_bytes();
        match &*event.event_type {
            "ERROR" => Err(error_event(request, text)),
            "BOOKMARK" => Ok((ObjectHead::of_object(text).version, None)),
            "ADDED" | "MODIFIED" => {
                let mut names = self.names();
                let object = self.decoder.decode(text, &mut names).or_else(|error| {
                    let head = ObjectHead::of_object(text);
                    let reason = format!("invalid JSON: {error}");
                    if head.name.is_empty() {
                        Err(invalid(&reason))
                    } else {
                        Ok(self.decoder.undecoded(&head, &reason, &mut names))
                    }
                })?;
                Ok((object.version, Some(WatchMessage::Applied(object))))
            }
            "DELETED" => {
                let head = ObjectHead::of_object(text);
                Ok((head.version, Some(WatchMessage::Deleted(self.key(&head)))))
            }
            other => Err(invalid(&format!("unknown watch event type {other}"))),
        }
    }

    /// Returns the message for an event whose object is too large, or `None` if its beginning contains no name.
    fn parse_large_event(&self, head: &ObjectHead) -> Option<Versioned<D::Content>> {
        let message = match head.event_type.as_str() {
            "DELETED" => WatchMessage::Deleted(self.key(head)),
            "ADDED" | "MODIFIED" => {
                WatchMessage::Applied(self.decoder.undecoded(head, &too_large(), &mut self.names()))
            }
            _ => return None,
        };
        (!head.name.is_empty()).then_some((head.version, Some(message)))
    }

    fn key(&self, head: &ObjectHead) -> Option<ObjectKey> {
        let mut names = self.names();
        let key = || ObjectKey { namespace: names.get(&head.namespace), name: names.get(&head.name) };
        (!head.name.is_empty()).then(key)
    }
}

/// Returns the error for an `ERROR` event. Events may have been missed, so the resource is listed again.
fn error_event(request: &ApiRequest<'_>, text: &[u8]) -> Stop {
    let status: Value = serde_json::from_slice(text).unwrap_or_default();
    let code = status.get("code").and_then(Value::as_u64).and_then(|code| u16::try_from(code).ok());
    let message = status.get("message").and_then(Value::as_str).unwrap_or_default();
    let error = WatchError::status(request.verb, request.resource, code.unwrap_or(500), message);
    let kind = if error.is_status(410) { error.kind } else { ErrorKind::InvalidResponse };
    WatchError { kind, ..error }.into()
}
