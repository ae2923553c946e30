//! Watches an API server: sends all objects that a consumer needs, and then each change.
//!
//! ```text
//! resource ─ list_watch (one task each) ─► WatchMessage ─ event_aggregator ─► Event
//!                   │ decoder: JSON to core types
//! ```
//! Of each object only its key, its version and a hash of its content are kept. `list_watch` survives every failure of
//! the API server; `event_aggregator` decides which events are sent.

mod backoff;
mod client;
mod content;
mod decoder;
mod event_aggregator;
mod json_lines;
mod list_reader;
mod list_watch;
mod message;
mod metadata_watch;
mod object;
mod object_client;
mod object_head;
mod object_index;
mod object_meta;
mod outage_tracker;
mod probe;
mod rejections;
mod request;
mod resource;
mod watch_error;
mod watch_options;

use std::sync::{Arc, Mutex};

use tokio::sync::mpsc::{Sender, channel};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

pub use client::{ClientError, client};
pub use metadata_watch::{MetadataEvent, MetadataSelection, watch_metadata};
pub use object::ObjectKey;
pub use object_client::{ObjectClient, ObjectError};
pub use object_meta::{ObjectMeta, OwnerReference};
pub use probe::{ProbeError, probe};
pub use resource::WatchScope;
pub use watch_options::WatchOptions;

use crate::cluster::event_aggregator::EventAggregator;
use crate::cluster::list_watch::ListWatch;
use crate::cluster::watch_options::QUEUE_LEN_MAX;
use crate::event::Event;
use crate::objects::metadata::Names;

/// Sends the objects of an API server, and then each change, until the receiver or the future is dropped.
pub async fn watch_cluster(client: kube::Client, scope: WatchScope, events: Sender<Event>) {
    watch_cluster_with(client, scope, WatchOptions::default(), events).await;
}

/// Like [`watch_cluster`], with other options.
pub async fn watch_cluster_with(
    client: kube::Client,
    scope: WatchScope,
    options: WatchOptions,
    events: Sender<Event>,
) {
    let resources = scope.resources();
    let mut aggregator = EventAggregator::new(&resources);
    let names = Arc::new(Mutex::new(Names::default()));
    let (sender, mut receiver) = channel(QUEUE_LEN_MAX);
    // Dropping the set aborts the tasks.
    let mut tasks = JoinSet::new();
    for (index, resource) in resources.into_iter().enumerate() {
        let (client, options, names, sender) =
            (client.clone(), options.clone(), names.clone(), sender.clone());
        tasks.spawn(ListWatch::new(client, resource, index, options, names, sender).run());
    }
    drop(sender);
    let mut messages = Vec::new();
    let mut service_cidrs_deadline = None;
    loop {
        let received = tokio::select! {
            received = receiver.recv_many(&mut messages, QUEUE_LEN_MAX) => Some(received),
            () = sleep_until(service_cidrs_deadline) => None,
            () = events.closed() => return,
        };
        if received == Some(0) {
            return;
        }
        for (index, message) in messages.drain(..) {
            aggregator.apply(index, message);
        }
        if aggregator.awaits_service_cidrs() {
            let deadline =
                *service_cidrs_deadline.get_or_insert_with(|| Instant::now() + options.service_cidrs_timeout);
            if received.is_none() && Instant::now() >= deadline {
                aggregator.proceed_without_service_cidrs();
            }
        } else {
            service_cidrs_deadline = None;
        }
        for event in aggregator.take_events() {
            if events.send(event).await.is_err() {
                return;
            }
        }
    }
}

/// Sleeps until the deadline, or forever without a deadline.
async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => {
            let _ = timeout_at(deadline, std::future::pending::<()>()).await;
        }
        None => std::future::pending().await,
    }
}
