//! `ObjectWatch`: wakes the reconciler of one object after each change of it.
//!
//! It is a watch of metadata like any other, so that its bounds, its back-off and `Retry-After` are those of
//! `watch_metadata`. The reconciler reads the object itself.

use std::future::pending;
use std::time::Duration;

use kube_source::{MetadataEvent, MetadataSelection, WatchOptions, watch_metadata};
use tokio::sync::mpsc::{Receiver, channel};
use tokio::time::{sleep, timeout};

use crate::api::Api;

/// The length of the queue of events.
const EVENT_QUEUE_LEN: usize = 16;
/// The time after which the reconciler reads the object even without a change.
const RECHECK_INTERVAL: Duration = Duration::from_secs(60);
/// The delay after a change, so that changes in quick succession are read together.
const DEBOUNCE: Duration = Duration::from_millis(50);

/// A watch of one object, which ends when it is dropped.
pub(crate) struct ObjectWatch {
    name: String,
    events: Receiver<MetadataEvent>,
}

impl ObjectWatch {
    /// Watches the object of this name in a collection.
    pub(crate) fn start(api: &Api, collection: &str, name: &str) -> Self {
        let selection = MetadataSelection {
            path: collection.to_owned(),
            field_selector: Some(format!("metadata.name={name}")),
            ..MetadataSelection::default()
        };
        let (sender, events) = channel(EVENT_QUEUE_LEN);
        tokio::spawn(watch_metadata(api.0.clone(), selection, WatchOptions::default(), sender));
        Self { name: name.to_owned(), events }
    }

    /// Waits until the object may have changed since the last call. If the future is dropped, a change can be lost, so
    /// the caller must then read the object.
    pub(crate) async fn changed(&mut self) {
        let _ = timeout(RECHECK_INTERVAL, self.next_change()).await;
        sleep(DEBOUNCE).await;
        // The caller reads the result of these as well.
        while let Ok(event) = self.events.try_recv() {
            self.is_change(event);
        }
    }

    async fn next_change(&mut self) {
        while let Some(event) = self.events.recv().await {
            if self.is_change(event) {
                return;
            }
        }
        pending::<()>().await;
    }

    /// Whether the object changed; logs outages of the watch.
    fn is_change(&self, event: MetadataEvent) -> bool {
        let name = &self.name;
        match event {
            MetadataEvent::Applied(_) | MetadataEvent::Deleted(_) => return true,
            MetadataEvent::Outage(error) => tracing::warn!(name, error, "watch of object failed; will retry"),
            MetadataEvent::Recovered => tracing::info!(name, "watch of object recovered"),
            MetadataEvent::Synced | MetadataEvent::Rejected(_) => {}
        }
        false
    }
}
