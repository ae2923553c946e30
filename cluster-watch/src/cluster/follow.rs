//! `Follower`: one resource of an API server, listed and then watched, for ever.
//!
//! A list is taken in pages and a watch goes on from where it stood; a watch that the server can no longer go on with
//! begins with a new list. Anything that an API server would not say leads to a new list as well, since nobody knows
//! what was missed. What must not go in here: what was told before.

use std::borrow::Cow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeSeed;
use serde_json::{Map, Value};
use tokio::sync::mpsc::Sender;
use tokio::time::{Instant, sleep};

use crate::cluster::Limits;
use crate::cluster::answer::{Ask, Lines, Next};
use crate::cluster::collector::Said;
use crate::cluster::fault::{Cause, Fault};
use crate::cluster::object::{Object, version};
use crate::cluster::resource::{Resource, encoded};
use crate::cluster::retry::{Retry, spread};
use crate::document::{Document, DocumentSeed, ListHeader};
use crate::metadata::Names;

/// How many objects are asked for at once.
const PAGE_LEN: usize = 500;
/// A page of more bytes than this makes the next ones shorter.
const PAGE_BYTES_AIM: usize = 4 << 20;
/// No page is shorter than this.
const PAGE_LEN_MIN: usize = 20;
/// How many watches in a row may end at once before that is told.
const SHORT_WATCHES_MAX: u32 = 3;
/// How often a resource that the server does not know is asked for again: it may learn it.
const ABSENT_PAUSE: Duration = Duration::from_secs(300);
/// How often a resource that may not be read, and can be done without, is asked for again.
const DENIED_PAUSE: Duration = Duration::from_secs(60);

/// Nobody listens any more.
struct Deaf;

/// Why a list or a watch did not go well.
enum Stop {
    Deaf,
    Fault(Fault),
    /// The server no longer knows where we stood.
    Expired,
}

impl From<Deaf> for Stop {
    fn from(Deaf: Deaf) -> Self {
        Self::Deaf
    }
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Self {
        if fault.is(410) { Self::Expired } else { Self::Fault(fault) }
    }
}

/// One change in a watch.
#[derive(Deserialize)]
struct Change<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    object: Value,
}

/// Lists and watches one resource.
pub(super) struct Follower {
    client: kube::Client,
    resource: Resource,
    source: usize,
    limits: Limits,
    names: Arc<Mutex<Names>>,
    say: Sender<(usize, Said)>,
    retry: Retry,
    /// How many watches in a row have ended at once.
    short_watches: u32,
    /// Which of the resource's paths the server knows, as far as we know.
    path: usize,
}

/// Where a watch stands: what the server calls it, and as a number.
struct Position {
    text: String,
    number: u64,
}

impl Follower {
    pub(super) fn new(
        client: kube::Client,
        resource: Resource,
        source: usize,
        limits: Limits,
        names: Arc<Mutex<Names>>,
        say: Sender<(usize, Said)>,
    ) -> Self {
        let retry = Retry::new(limits.retry_min, limits.retry_max);
        Self { client, resource, source, limits, names, say, retry, short_watches: 0, path: 0 }
    }

    /// Until nobody listens any more.
    pub(super) async fn run(mut self) {
        while self.follow().await.is_ok() {}
    }

    /// One list, and watches from there on as long as they go well.
    async fn follow(&mut self) -> Result<(), Deaf> {
        let mut position = match self.list().await {
            Ok(position) => position,
            Err(Stop::Deaf) => return Err(Deaf),
            Err(Stop::Expired) => return self.pause(None).await,
            Err(Stop::Fault(fault)) => return self.failed_list(fault).await,
        };
        loop {
            match self.watch(&mut position).await {
                Ok(()) => {}
                Err(Stop::Deaf) => return Err(Deaf),
                // Most often after a long outage; a server that does it all the time is asked less and less.
                Err(Stop::Expired) => return self.pause(None).await,
                Err(Stop::Fault(fault)) => {
                    let is_lost = fault.cause == Cause::Content || fault.is(404);
                    self.failed(fault).await?;
                    if is_lost {
                        return Ok(());
                    }
                }
            }
        }
    }

    async fn failed_list(&mut self, fault: Fault) -> Result<(), Deaf> {
        let paths = self.resource.kind.paths().len();
        if self.resource.is_optional() && fault.is(404) {
            self.path += 1;
            if self.path < paths {
                return Ok(());
            }
            self.path = 0;
            self.say(Said::Absent).await?;
            return self.wait(ABSENT_PAUSE).await;
        }
        if self.resource.is_optional() && fault.is(403) {
            self.say(Said::Denied(fault.text)).await?;
            return self.wait(DENIED_PAUSE).await;
        }
        self.failed(fault).await
    }

    async fn failed(&mut self, fault: Fault) -> Result<(), Deaf> {
        let retry_after = fault.retry_after;
        self.say(Said::Lost(fault)).await?;
        self.pause(retry_after).await
    }

    async fn pause(&mut self, asked: Option<Duration>) -> Result<(), Deaf> {
        let pause = self.retry.pause(asked);
        self.wait(pause).await
    }

    async fn wait(&self, pause: Duration) -> Result<(), Deaf> {
        tokio::select! {
            () = sleep(pause) => Ok(()),
            () = self.say.closed() => Err(Deaf),
        }
    }

    async fn say(&self, said: Said) -> Result<(), Deaf> {
        self.say.send((self.source, said)).await.map_err(|_| Deaf)
    }

    /// Says that all is well, once it has gone well for a while.
    async fn settle(&mut self) -> Result<(), Deaf> {
        self.retry.reset();
        self.short_watches = 0;
        self.say(Said::Found).await
    }

    fn ask(&self, verb: &'static str) -> Ask<'_> {
        Ask { client: &self.client, resource: &self.resource, verb, patience: self.limits.answer }
    }

    fn path(&self) -> &'static str {
        let paths = self.resource.kind.paths();
        paths.get(self.path).or(paths.first()).copied().unwrap_or_default()
    }

    async fn list(&self) -> Result<Position, Stop> {
        let ask = self.ask("list");
        let selectors = self.resource.selectors();
        let (mut page_len, mut token) = (PAGE_LEN, String::new());
        self.say(Said::Begin).await?;
        loop {
            let mut query = format!("{}?limit={page_len}{selectors}", self.path());
            if !token.is_empty() {
                query.push_str(&format!("&continue={}", encoded(&token)));
            }
            let page = ask.read(&query).await?;
            if page.len() > PAGE_BYTES_AIM {
                page_len = (page_len / 2).max(PAGE_LEN_MIN);
            }
            let (objects, metadata) = self.page(&page).map_err(|why| ask.fault(Cause::Content, &why))?;
            drop(page);
            for object in objects {
                self.say(Said::Listed(object)).await?;
            }
            let text = |key: &str| metadata.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
            token = text("continue");
            if !token.is_empty() {
                continue;
            }
            self.say(Said::End).await?;
            let text = text("resourceVersion");
            return Ok(Position { number: text.parse().unwrap_or(0), text });
        }
    }

    /// The objects of a page, and the metadata of the list.
    fn page(&self, page: &[u8]) -> Result<(Vec<Object>, Map<String, Value>), String> {
        let mut objects = Vec::new();
        let mut header = ListHeader::default();
        let mut names = self.names();
        let mut sink =
            |_: &ListHeader, item: Value| objects.push(Object::new(self.resource.kind, &item, &mut names));
        let mut json = serde_json::Deserializer::from_slice(page);
        let seed = DocumentSeed { header: &mut header, sink: &mut sink };
        let document = seed.deserialize(&mut json).and_then(|document| json.end().map(|()| document));
        let document = document.map_err(|error| format!("the answer is no JSON: {error}"))?;
        let Document::Object(mut list) = document else { return Err("the answer is no list".to_owned()) };
        let is_list = header.kind.as_deref().is_some_and(|kind| kind.ends_with("List"));
        match list.remove("metadata") {
            Some(Value::Object(metadata)) if is_list => Ok((objects, metadata)),
            _ => Err("the answer is no list".to_owned()),
        }
    }

    /// One watch, from a position on, which moves on with it.
    async fn watch(&mut self, position: &mut Position) -> Result<(), Stop> {
        let Limits { watch_s, grace, settle, .. } = self.limits;
        // Names of what is gone would add up otherwise.
        self.names().prune();
        let watch_s = watch_s + (f64::from(watch_s) / 4.0 * spread()) as u32;
        let query = format!(
            "{}?watch=true&allowWatchBookmarks=true&timeoutSeconds={watch_s}&resourceVersion={}{}",
            self.path(),
            encoded(&position.text),
            self.resource.selectors()
        );
        let mut lines = Lines::new(self.ask("watch").open(&query).await?);
        let start = Instant::now();
        let end = start + Duration::from_secs(watch_s.into()) + grace;
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

    /// A server that ends watches at once is asked less and less; one that is about to end does it once.
    async fn ended_at_once(&mut self) -> Result<(), Stop> {
        self.short_watches += 1;
        if self.short_watches > SHORT_WATCHES_MAX {
            return Err(self.ask("watch").fault(Cause::Connection, "each watch ends at once").into());
        }
        Ok(self.pause(None).await?)
    }

    /// What a line of a watch says, if it is about an object.
    fn change(&self, ask: &Ask<'_>, line: &[u8], position: &mut Position) -> Result<Option<Said>, Stop> {
        let garbage = |why: &str| Stop::Fault(ask.fault(Cause::Content, why));
        let change: Change<'_> = serde_json::from_slice(line)
            .map_err(|error| garbage(&format!("a change is no JSON: {error}")))?;
        let Change { kind, object } = change;
        if kind == "ERROR" {
            let code = object.get("code").and_then(Value::as_u64).and_then(|code| u16::try_from(code).ok());
            let message = object.get("message").and_then(Value::as_str).unwrap_or_default();
            let fault = Fault::status(ask.verb, ask.resource, code.unwrap_or(500), message);
            // Whatever it is, nobody knows what was missed.
            let cause = if fault.is(410) { fault.cause } else { Cause::Content };
            return Err(Fault { cause, ..fault }.into());
        }
        let number = version(&object);
        if number.is_some_and(|number| number < position.number) {
            return Err(garbage("an older change came after a newer one"));
        }
        let said = match &*kind {
            "BOOKMARK" => None,
            "ADDED" | "MODIFIED" => Some(Said::Changed(self.object(&object))),
            "DELETED" => Some(Said::Gone(self.object(&object).key)),
            other => return Err(garbage(&format!("a change of the unknown type {other}"))),
        };
        if let Some(number) = number {
            *position = Position { text: number.to_string(), number };
        }
        Ok(said)
    }

    fn object(&self, value: &Value) -> Object {
        Object::new(self.resource.kind, value, &mut self.names())
    }

    fn names(&self) -> MutexGuard<'_, Names> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
