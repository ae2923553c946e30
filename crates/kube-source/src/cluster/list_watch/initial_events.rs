//! Lists a resource by the initial events of a watch (`sendInitialEvents`).
//!
//! The API server serves them from its watch cache, which costs it less than a list, and no page has to be buffered. An
//! API server without support responds with a status or an error event, ends the watch, or sends nothing; in all cases
//! the resource is listed in pages.

use std::time::Duration;

use tokio::time::Instant;

use crate::cluster::decoder::Decoder;
use crate::cluster::list_watch::state::{ListWatch, ResourceVersion, Stop};
use crate::cluster::list_watch::watch::{InitialEvent, OpenWatch};
use crate::cluster::message::WatchMessage;
use crate::cluster::watch_error::{ErrorKind, WatchError};

const QUERY: &str = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan";
/// The interval after which an API server without support is asked again.
const UNSUPPORTED_RETRY: Duration = Duration::from_secs(600);

/// The result of an attempt.
pub(super) enum InitialList {
    /// All objects were sent. The watch continues from this resource version.
    Complete(ResourceVersion, OpenWatch),
    /// The API server does not support this.
    Unsupported,
}

impl<D: Decoder> ListWatch<D> {
    /// Sends all objects.
    pub(super) async fn list_by_watch(&mut self) -> Result<InitialList, Stop> {
        if self.skip_initial_events_until.is_some_and(|until| Instant::now() < until) {
            return Ok(InitialList::Unsupported);
        }
        let watch = match self.open_watch(QUERY).await {
            Ok(watch) => watch,
            Err(error) => return self.open_failed(error),
        };
        match self.read_initial_events(watch).await {
            Err(Stop::ReceiverClosed) => Err(Stop::ReceiverClosed),
            Ok(list) => Ok(list),
            // A list in pages may succeed.
            Err(Stop::Failed(_) | Stop::Expired) => Ok(self.unsupported()),
        }
    }

    async fn read_initial_events(&self, mut watch: OpenWatch) -> Result<InitialList, Stop> {
        self.send(WatchMessage::ListStarted).await?;
        loop {
            match self.next_initial_event(&mut watch).await? {
                InitialEvent::Message(message) => self.send(message).await?,
                InitialEvent::Ignored => {}
                InitialEvent::End(version) => {
                    self.send(WatchMessage::ListDone).await?;
                    return Ok(InitialList::Complete(version, watch));
                }
            }
        }
    }

    /// Decides whether a list in pages can succeed if the watch was refused.
    fn open_failed(&mut self, error: WatchError) -> Result<InitialList, Stop> {
        match error.kind {
            // An API server that cannot be reached, or is overloaded, would not respond to a list either.
            ErrorKind::Connection | ErrorKind::Timeout | ErrorKind::Status(429) => Err(error.into()),
            // Not necessarily because of the initial events: the list shows the reason.
            ErrorKind::Status(401 | 403 | 404 | 410 | 500..) => Ok(InitialList::Unsupported),
            ErrorKind::Status(_) | ErrorKind::InvalidResponse => Ok(self.unsupported()),
        }
    }

    fn unsupported(&mut self) -> InitialList {
        self.skip_initial_events_until = Some(Instant::now() + UNSUPPORTED_RETRY);
        InitialList::Unsupported
    }
}
