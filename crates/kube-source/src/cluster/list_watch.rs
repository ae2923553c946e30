//! `ListWatch`: lists one resource of an API server and then watches it, until the receiver is dropped.
//!
//! ```text
//! initial events of a watch ─┐
//!                            ├─► watch ─► watch ... ─ 410, 404 or invalid response ─► start again
//! list in pages ─────────────┘     each from the last resource version
//! ```
//! The objects come as the initial events of a watch (`initial_events`), or as a list in pages (`list`) if the API
//! server does not support that. A watch that ends is continued from its last resource version (`watch`). If events may
//! have been missed, everything is listed again. What the consumer knew before does not matter here.

mod initial_events;
mod list;
mod page_size;
mod state;
mod watch;

use std::time::Duration;

pub(super) use state::ListWatch;

use crate::cluster::decoder::Decoder;
use crate::cluster::list_watch::initial_events::InitialList;
use crate::cluster::list_watch::state::{ReceiverClosed, ResourceVersion, Stop};
use crate::cluster::list_watch::watch::OpenWatch;
use crate::cluster::message::WatchMessage;
use crate::cluster::watch_error::{ErrorKind, WatchError};

/// The retry interval for a resource that the API server does not have. An upgrade can add it.
const UNSUPPORTED_RETRY: Duration = Duration::from_secs(300);
/// The retry interval for an optional resource to which access is denied.
const DENIED_RETRY: Duration = Duration::from_secs(60);

impl<D: Decoder> ListWatch<D> {
    /// Lists and watches until the receiver is dropped.
    pub(super) async fn run(mut self) {
        while self.list_and_watch().await.is_ok() {}
    }

    /// Sends all objects, and then watches until everything must be listed again.
    async fn list_and_watch(&mut self) -> Result<(), ReceiverClosed> {
        let listed = match self.list_by_watch().await {
            Ok(InitialList::Complete(version, watch)) => return self.watch_all(version, Some(watch)).await,
            Ok(InitialList::Unsupported) => self.list_pages().await,
            Err(stop) => Err(stop),
        };
        match listed {
            Ok(version) => self.watch_all(version, None).await,
            Err(Stop::ReceiverClosed) => Err(ReceiverClosed),
            Err(Stop::Expired) => self.back_off(None).await,
            Err(Stop::Failed(error)) => self.list_failed(error).await,
        }
    }

    /// Watches from a resource version, one watch after the other. The first may be open already.
    async fn watch_all(
        &mut self,
        mut version: ResourceVersion,
        mut open: Option<OpenWatch>,
    ) -> Result<(), ReceiverClosed> {
        loop {
            let ended = match open.take() {
                Some(open) => self.read_watch(open, &mut version).await,
                None => self.watch(&mut version).await,
            };
            match ended {
                Ok(()) => {}
                Err(Stop::ReceiverClosed) => return Err(ReceiverClosed),
                // Usual after a long outage. The back-off protects an API server that always responds like this.
                Err(Stop::Expired) => return self.back_off(None).await,
                Err(Stop::Failed(error)) => {
                    let may_miss_events = error.kind == ErrorKind::InvalidResponse || error.is_status(404);
                    self.failed(error).await?;
                    if may_miss_events {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Handles a failed list: falls back to the next API version, or waits.
    async fn list_failed(&mut self, error: WatchError) -> Result<(), ReceiverClosed> {
        if self.resource.is_optional && error.is_status(404) {
            self.path_index += 1;
            if self.path_index < self.resource.paths.len() {
                return Ok(());
            }
            self.path_index = 0;
            self.send(WatchMessage::Unsupported).await?;
            return self.sleep(UNSUPPORTED_RETRY).await;
        }
        if self.resource.is_optional && error.is_status(403) {
            self.send(WatchMessage::Denied(error.text)).await?;
            return self.sleep(DENIED_RETRY).await;
        }
        self.failed(error).await
    }

    /// Reports an error, and waits before the next attempt.
    async fn failed(&mut self, error: WatchError) -> Result<(), ReceiverClosed> {
        let retry_after = error.retry_after;
        self.send(WatchMessage::Failed(error)).await?;
        self.back_off(retry_after).await
    }
}
