//! `ListWatch`: the state of one resource between requests, and what lists and watches have in common.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use support::Backoff;
use tokio::sync::mpsc::Sender;
use tokio::time::{Instant, sleep};

use crate::cluster::backoff::next_delay;
use crate::cluster::decoder::Decoder;
use crate::cluster::list_reader::OBJECT_BYTES_MAX;
use crate::cluster::list_watch::page_size::PageSize;
use crate::cluster::message::WatchMessage;
use crate::cluster::request::ApiRequest;
use crate::cluster::resource::Resource;
use crate::cluster::watch_error::WatchError;
use crate::cluster::watch_options::WatchOptions;
use crate::objects::metadata::Names;

/// The receiver of the messages was dropped.
pub(super) struct ReceiverClosed;

/// Why a list or a watch stopped.
pub(super) enum Stop {
    ReceiverClosed,
    Failed(WatchError),
    /// The API server no longer has the resource version or the continue token (410 Gone).
    Expired,
}

impl From<ReceiverClosed> for Stop {
    fn from(ReceiverClosed: ReceiverClosed) -> Self {
        Self::ReceiverClosed
    }
}

impl From<WatchError> for Stop {
    fn from(error: WatchError) -> Self {
        if error.is_status(410) { Self::Expired } else { Self::Failed(error) }
    }
}

/// The resource version up to which the events of a watch were received.
pub(super) struct ResourceVersion {
    pub(super) text: String,
    /// The same as a number; 0 if it is not a number.
    pub(super) number: u64,
}

impl ResourceVersion {
    /// Returns a version before all others.
    pub(super) fn start() -> Self {
        Self { text: String::new(), number: 0 }
    }

    pub(super) fn from_text(text: String) -> Self {
        Self { number: text.parse().unwrap_or(0), text }
    }

    pub(super) fn from_number(number: u64) -> Self {
        Self { text: number.to_string(), number }
    }
}

/// Lists and watches one resource.
pub(in crate::cluster) struct ListWatch<D: Decoder> {
    pub(super) decoder: D,
    client: kube::Client,
    pub(super) resource: Resource,
    /// The index of the resource, which is sent with each message.
    index: usize,
    pub(super) options: WatchOptions,
    names: Arc<Mutex<Names>>,
    messages: Sender<(usize, WatchMessage<D::Content>)>,
    backoff: Backoff,
    pub(super) page_size: PageSize,
    /// Until this time the API server is not asked for initial events, because it did not support them.
    pub(super) skip_initial_events_until: Option<Instant>,
    /// The number of consecutive watches that ended early.
    pub(super) short_watches: u32,
    /// The path of the resource that the API server supports, as an index.
    pub(super) path_index: usize,
}

impl<D: Decoder> ListWatch<D> {
    /// Creates a list-watch that sends messages with the index of its resource.
    pub(in crate::cluster) fn new(
        client: kube::Client,
        (decoder, resource): (D, Resource),
        index: usize,
        options: WatchOptions,
        names: Arc<Mutex<Names>>,
        messages: Sender<(usize, WatchMessage<D::Content>)>,
    ) -> Self {
        Self {
            decoder,
            client,
            resource,
            index,
            backoff: Backoff::new(options.backoff_min, options.backoff_max),
            options,
            names,
            messages,
            page_size: PageSize::default(),
            skip_initial_events_until: None,
            short_watches: 0,
            path_index: 0,
        }
    }

    /// Records a failure, and waits before the next attempt.
    pub(super) async fn back_off(&mut self, retry_after: Option<Duration>) -> Result<(), ReceiverClosed> {
        let delay = next_delay(&mut self.backoff, retry_after);
        self.sleep(delay).await
    }

    pub(super) async fn sleep(&self, delay: Duration) -> Result<(), ReceiverClosed> {
        tokio::select! {
            () = sleep(delay) => Ok(()),
            () = self.messages.closed() => Err(ReceiverClosed),
        }
    }

    pub(super) async fn send(&self, message: WatchMessage<D::Content>) -> Result<(), ReceiverClosed> {
        self.messages.send((self.index, message)).await.map_err(|_| ReceiverClosed)
    }

    /// Resets the back-off, and reports that the resource can be read.
    pub(super) async fn mark_healthy(&mut self) -> Result<(), ReceiverClosed> {
        self.backoff.reset();
        self.short_watches = 0;
        self.send(WatchMessage::Healthy).await
    }

    pub(super) fn list_request(&self) -> ApiRequest<'_> {
        self.request("list", self.decoder.accept().0)
    }

    pub(super) fn watch_request(&self) -> ApiRequest<'_> {
        self.request("watch", self.decoder.accept().1)
    }

    fn request(&self, verb: &'static str, accept: &'static str) -> ApiRequest<'_> {
        let (client, resource, timeout) = (&self.client, &self.resource, self.options.response_timeout);
        ApiRequest { client, resource, verb, accept, timeout }
    }

    /// Returns the path of the resource.
    pub(super) fn path(&self) -> &str {
        let paths = &self.resource.paths;
        paths.get(self.path_index).or(paths.first()).map_or("", |path| path)
    }

    pub(super) fn names(&self) -> MutexGuard<'_, Names> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the reason for rejecting an object that is too large.
pub(super) fn too_large() -> String {
    format!("longer than {OBJECT_BYTES_MAX} bytes")
}
