//! A watch of one resource, from a position on, line by line.
//!
//! What must not go in here: lists.

use std::borrow::Cow;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::time::Instant;

use crate::cluster::WatchOptions;
use crate::cluster::answer::{Ask, Line, Lines, Next};
use crate::cluster::decoder::Decoder;
use crate::cluster::fault::{Cause, Fault};
use crate::cluster::follow::{Follower, Position, SHORT_WATCHES_MAX, Stop, too_large};
use crate::cluster::head::Head;
use crate::cluster::object::ObjectKey;
use crate::cluster::resource::encoded;
use crate::cluster::retry::spread;
use crate::cluster::said::Said;

/// One change in a watch.
#[derive(Deserialize)]
struct Change<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    object: &'a RawValue,
}

/// A watch that the server has begun to answer.
pub(super) struct Opened {
    lines: Lines,
    watch_s: u32,
    /// The connection counts as dead if nothing has come by then.
    end: Instant,
}

impl<D: Decoder> Follower<D> {
    /// Asks for a watch, from where the query says.
    pub(super) async fn open_watch(&self, from: &str) -> Result<Opened, Fault> {
        let WatchOptions { watch_timeout_s: watch_s, watch_grace: grace, .. } = self.limits;
        let watch_s = watch_s + (f64::from(watch_s) / 4.0 * spread()) as u32;
        let (path, selectors) = (self.path(), self.resource.selectors());
        let query =
            format!("{path}?watch=true&allowWatchBookmarks=true&timeoutSeconds={watch_s}&{from}{selectors}");
        let lines = Lines::new(self.ask("watch").open(&query).await?);
        Ok(Opened { lines, watch_s, end: Instant::now() + Duration::from_secs(watch_s.into()) + grace })
    }

    /// One watch, from a position on, which moves on with it.
    pub(super) async fn watch(&mut self, position: &mut Position) -> Result<(), Stop> {
        let opened = self.open_watch(&format!("resourceVersion={}", encoded(&position.text))).await?;
        self.go_on(opened, position).await
    }

    /// Goes on with a watch until it ends.
    pub(super) async fn go_on(&mut self, opened: Opened, position: &mut Position) -> Result<(), Stop> {
        let Opened { mut lines, watch_s, end } = opened;
        let WatchOptions { watch_grace: grace, stable_after: settle, .. } = self.limits;
        let start = Instant::now();
        let (mut is_settled, mut last) = (false, start);
        loop {
            let until = if is_settled { end } else { end.min(start + settle) };
            let ask = self.ask("watch");
            let said = match lines.next(&ask, until).await? {
                Next::Line(line) => self.change(&ask, line, position)?,
                Next::End if is_settled => return Ok(()),
                Next::End => return self.ended_at_once().await,
                // It does not end the watch as it was asked to, but it lives.
                Next::Nothing if Instant::now() >= end && last + grace > end => return Ok(()),
                Next::Nothing if Instant::now() >= end => {
                    return Err(ask.fault(Cause::Silence, &format!("nothing came for {watch_s} s")).into());
                }
                Next::Nothing => None,
            };
            if !is_settled {
                is_settled = true;
                self.settle().await?;
            }
            last = Instant::now();
            if let Some(said) = said {
                self.say(said).await?;
            }
        }
    }

    /// The next line of the initial events of a watch, which is silent no longer than an answer may be.
    pub(super) async fn initial_event(&self, opened: &mut Opened) -> Result<Initial<D::Content>, Stop> {
        let ask = self.ask("watch");
        let until = opened.end.min(Instant::now() + self.limits.response_timeout);
        let line = match opened.lines.next(&ask, until).await? {
            Next::Line(line) => line,
            Next::End => return Err(ask.fault(Cause::Content, "it ended before all was sent").into()),
            Next::Nothing => {
                return Err(ask.fault(Cause::Silence, "not all that there is was sent in time").into());
            }
        };
        if let Line::Whole(text) = line {
            let head = Head::of_bookmark(text);
            // Anybody may write the annotation on an object of his own.
            let is_end = head.change == "BOOKMARK" && head.ends_initial_events;
            if let (true, Some(number)) = (is_end, head.version) {
                return Ok(Initial::End(Position { text: number.to_string(), number }));
            }
        }
        // Initial events come in the order of their names, not of their versions.
        let said = self.change(&ask, line, &mut Position { text: String::new(), number: 0 })?;
        Ok(match said {
            Some(Said::Changed(object)) => Initial::Said(Said::Listed(object)),
            Some(said) => Initial::Said(said),
            None => Initial::Nothing,
        })
    }

    /// A server that ends watches at once is asked less and less; one that is about to end does it once.
    async fn ended_at_once(&mut self) -> Result<(), Stop> {
        self.short_watches += 1;
        if self.short_watches > SHORT_WATCHES_MAX {
            return Err(self.ask("watch").fault(Cause::Connection, "each watch ends at once").into());
        }
        Ok(self.pause(None).await?)
    }

    /// What a line of a watch says, if it is about an object.
    fn change(
        &self,
        ask: &Ask<'_>,
        line: Line<'_>,
        position: &mut Position,
    ) -> Result<Option<Said<D::Content>>, Stop> {
        let garbage = |why: &str| Stop::Fault(ask.fault(Cause::Content, why));
        let (version, said) = match line {
            Line::Whole(text) => self.whole_change(ask, text)?,
            Line::TooLarge(text) => self.large_change(&Head::of_change(text)).ok_or_else(|| {
                garbage(&format!("a change without the name of its object: {}", too_large()))
            })?,
        };
        if let Some(number) = version {
            if number < position.number {
                return Err(garbage("an older change came after a newer one"));
            }
            *position = Position { text: number.to_string(), number };
        }
        Ok(said)
    }

    /// What a change says, and its version.
    fn whole_change(&self, ask: &Ask<'_>, text: &[u8]) -> Result<Versioned<D::Content>, Stop> {
        let garbage = |why: &str| Stop::Fault(ask.fault(Cause::Content, why));
        let change: Change<'_> = serde_json::from_slice(text)
            .map_err(|error| garbage(&format!("a change is no JSON: {error}")))?;
        let Change { kind, object } = change;
        let text = object.get().as_bytes();
        match &*kind {
            "ERROR" => Err(error(ask, text)),
            "BOOKMARK" => Ok((Head::of_object(text).version, None)),
            "ADDED" | "MODIFIED" => {
                let mut names = self.names();
                let object = self.decoder.decode(text, &mut names).or_else(|error| {
                    let head = Head::of_object(text);
                    let why = format!("it is no JSON of this kind: {error}");
                    if head.name.is_empty() {
                        Err(garbage(&why))
                    } else {
                        Ok(self.decoder.unread(&head, &why, &mut names))
                    }
                })?;
                Ok((object.version, Some(Said::Changed(object))))
            }
            "DELETED" => {
                let head = Head::of_object(text);
                Ok((head.version, Some(Said::Gone(self.key(&head)))))
            }
            other => Err(garbage(&format!("a change of the unknown type {other}"))),
        }
    }

    /// What a change says whose object is too large; none: its beginning does not say it.
    fn large_change(&self, head: &Head) -> Option<Versioned<D::Content>> {
        let said = match head.change.as_str() {
            "DELETED" => Said::Gone(self.key(head)),
            "ADDED" | "MODIFIED" => Said::Changed(self.decoder.unread(head, &too_large(), &mut self.names())),
            _ => return None,
        };
        (!head.name.is_empty()).then_some((head.version, Some(said)))
    }

    fn key(&self, head: &Head) -> Option<ObjectKey> {
        let mut names = self.names();
        let key = || ObjectKey { namespace: names.get(&head.namespace), name: names.get(&head.name) };
        (!head.name.is_empty()).then(key)
    }
}

/// What comes before a watch has sent all that there is.
pub(super) enum Initial<C> {
    Said(Said<C>),
    Nothing,
    /// All that there is was sent; changes follow from there.
    End(Position),
}

/// What a change says, with its version.
type Versioned<C> = (Option<u64>, Option<Said<C>>);

/// A server that cannot go on with a watch: whatever it is, nobody knows what was missed.
fn error(ask: &Ask<'_>, text: &[u8]) -> Stop {
    let status: Value = serde_json::from_slice(text).unwrap_or_default();
    let code = status.get("code").and_then(Value::as_u64).and_then(|code| u16::try_from(code).ok());
    let message = status.get("message").and_then(Value::as_str).unwrap_or_default();
    let fault = Fault::status(ask.verb, ask.resource, code.unwrap_or(500), message);
    let cause = if fault.is(410) { fault.cause } else { Cause::Content };
    Fault { cause, ..fault }.into()
}
