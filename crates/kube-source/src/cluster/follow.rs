//! `Follower`: one resource of an API server, listed and then watched, for ever.
//!
//! All that there is comes as the initial events of a watch, or else as a list in pages; a watch goes on from where it
//! stood, and one that the server can no longer go on with begins with all that there is. Anything that an API server would not say leads to a new list as well, since nobody knows
//! what was missed. What must not go in here: what was told before.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc::Sender;
use tokio::time::{Instant, sleep};

use crate::cluster::WatchOptions;
use crate::cluster::answer::Ask;
use crate::cluster::decoder::Decoder;
use crate::cluster::fault::{Cause, Fault};
use crate::cluster::follow::list::Page;
use crate::cluster::follow::stream::Streamed;
use crate::cluster::follow::watch::Opened;
use crate::cluster::items::OBJECT_BYTES_MAX;
use crate::cluster::resource::Resource;
use crate::cluster::retry::Retry;
use crate::cluster::said::Said;
use crate::objects::metadata::Names;

mod list;
mod stream;
mod watch;

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

/// Lists and watches one resource.
pub(super) struct Follower<D: Decoder> {
    decoder: D,
    client: kube::Client,
    resource: Resource,
    source: usize,
    limits: WatchOptions,
    names: Arc<Mutex<Names>>,
    say: Sender<(usize, Said<D::Content>)>,
    retry: Retry,
    /// How much of a list is asked for at once.
    page: Page,
    /// The server does not send initial events; until then it is not asked.
    no_stream_until: Option<Instant>,
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

impl<D: Decoder> Follower<D> {
    /// A follower that says what it finds with the number of its source.
    pub(super) fn new(
        client: kube::Client,
        (decoder, resource): (D, Resource),
        source: usize,
        limits: WatchOptions,
        names: Arc<Mutex<Names>>,
        say: Sender<(usize, Said<D::Content>)>,
    ) -> Self {
        let retry = Retry::new(limits.backoff_min, limits.backoff_max);
        let (page, no_stream_until, short_watches, path) = (Page::default(), None, 0, 0);
        Self {
            decoder,
            client,
            resource,
            source,
            limits,
            names,
            say,
            retry,
            page,
            no_stream_until,
            short_watches,
            path,
        }
    }

    /// Until nobody listens any more.
    pub(super) async fn run(mut self) {
        while self.follow().await.is_ok() {}
    }

    /// All that there is, and watches from there on as long as they go well.
    async fn follow(&mut self) -> Result<(), Deaf> {
        let listed = match self.stream().await {
            Ok(Streamed::All(position, opened)) => return self.watches(position, Some(opened)).await,
            Ok(Streamed::Refused) => self.list().await,
            Err(stop) => Err(stop),
        };
        match listed {
            Ok(position) => self.watches(position, None).await,
            Err(Stop::Deaf) => Err(Deaf),
            Err(Stop::Expired) => self.pause(None).await,
            Err(Stop::Fault(fault)) => self.failed_list(fault).await,
        }
    }

    /// Watches from a position on, as long as they go well; the first may be open already.
    async fn watches(&mut self, mut position: Position, mut opened: Option<Opened>) -> Result<(), Deaf> {
        loop {
            let watched = match opened.take() {
                Some(opened) => self.go_on(opened, &mut position).await,
                None => self.watch(&mut position).await,
            };
            match watched {
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
        let paths = self.resource.paths.len();
        if self.resource.is_optional && fault.is(404) {
            self.path += 1;
            if self.path < paths {
                return Ok(());
            }
            self.path = 0;
            self.say(Said::Absent).await?;
            return self.wait(ABSENT_PAUSE).await;
        }
        if self.resource.is_optional && fault.is(403) {
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

    async fn say(&self, said: Said<D::Content>) -> Result<(), Deaf> {
        self.say.send((self.source, said)).await.map_err(|_| Deaf)
    }

    /// Says that all is well, once it has gone well for a while.
    async fn settle(&mut self) -> Result<(), Deaf> {
        self.retry.reset();
        self.short_watches = 0;
        self.say(Said::Found).await
    }

    fn ask(&self, verb: &'static str) -> Ask<'_> {
        let (list, watch) = self.decoder.accept();
        let accept = if verb == "list" { list } else { watch };
        Ask {
            client: &self.client,
            resource: &self.resource,
            verb,
            accept,
            patience: self.limits.response_timeout,
        }
    }

    fn path(&self) -> &str {
        let paths = &self.resource.paths;
        paths.get(self.path).or(paths.first()).map_or("", |path| path)
    }

    fn names(&self) -> MutexGuard<'_, Names> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why an object is refused that is over the limit.
fn too_large() -> String {
    format!("it is longer than {OBJECT_BYTES_MAX} bytes, which is the most that is read")
}
