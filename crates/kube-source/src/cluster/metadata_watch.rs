//! `watch_metadata`: sends the metadata of the objects of any resource, and then each change.
//!
//! It lists and watches like `watch_cluster`, with the same options, and keeps only the key, the version and a hash of
//! each object.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex};

use tokio::sync::mpsc::{Sender, channel};

use crate::cluster::list_watch::ListWatch;
use crate::cluster::message::WatchMessage;
use crate::cluster::object::{Object, ObjectKey};
use crate::cluster::object_index::{Delta, ObjectIndex};
use crate::cluster::object_meta::{MetaContent, MetaDecoder, ObjectMeta};
use crate::cluster::outage_tracker::OutageTracker;
use crate::cluster::rejections::Rejections;
use crate::cluster::resource::Resource;
use crate::cluster::watch_options::{QUEUE_LEN_MAX, WatchOptions};
use crate::event::RejectedObjects;
use crate::objects::metadata::Names;

/// The index of the only resource, and of its only selection.
const ONLY: usize = 0;

/// The objects to watch, and the metadata to keep.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MetadataSelection {
    /// The path of the resource, such as `/api/v1/pods` or `/apis/apps/v1/namespaces/shop/deployments`.
    pub path: String,
    /// The label selector, such as `app=x,!y`.
    pub label_selector: Option<String>,
    /// The field selector, such as `metadata.name=x`.
    pub field_selector: Option<String>,
    /// The labels to keep. A key that ends with `/` is a prefix.
    pub labels: Vec<String>,
    /// The annotations to keep. A key that ends with `/` is a prefix.
    pub annotations: Vec<String>,
}

/// An event of a metadata watch. Events are sent in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MetadataEvent {
    /// An object was added or modified.
    Applied(ObjectMeta),
    /// An object was deleted, or no longer matches the selectors.
    Deleted(ObjectKey),
    /// The initial sync is complete: all objects that existed at the start have been sent.
    Synced,
    /// The resource cannot be read; the metadata that was sent stays in force. The text is one line with the operation,
    /// the resource and the cause.
    Outage(String),
    /// The resource can be read again.
    Recovered,
    /// The number of rejected objects changed, or an object is rejected for the first time.
    Rejected(RejectedObjects),
}

/// Sends the metadata of the objects that an API server has, and then each change, until the receiver or the future is
/// dropped.
pub async fn watch_metadata(
    client: kube::Client,
    selection: MetadataSelection,
    options: WatchOptions,
    events: Sender<MetadataEvent>,
) {
    let MetadataSelection { path, label_selector, field_selector, labels, annotations } = selection;
    let resource = Resource {
        label_selector: label_selector.map(Into::into),
        field_selector: field_selector.map(Into::into),
        ..Resource::at_path(path)
    };
    let decoder = MetaDecoder { resource: resource.name.to_string(), labels, annotations };
    let names = Arc::new(Mutex::new(Names::default()));
    let (sender, mut messages) = channel(QUEUE_LEN_MAX);
    let list_watch = ListWatch::new(client, (decoder, resource), ONLY, options, names, sender).run();
    let send_events = async {
        let mut aggregator = MetadataAggregator::new();
        while let Some((_, message)) = messages.recv().await {
            aggregator.apply(message);
            for event in aggregator.events.drain(..) {
                if events.send(event).await.is_err() {
                    return;
                }
            }
        }
    };
    tokio::select! {
        () = list_watch => {}
        () = send_events => {}
        () = events.closed() => {}
    }
}

/// Turns messages into events.
#[derive(Debug)]
struct MetadataAggregator {
    index: ObjectIndex,
    outages: OutageTracker,
    rejections: Rejections<()>,
    is_synced: bool,
    events: Vec<MetadataEvent>,
}

impl MetadataAggregator {
    fn new() -> Self {
        Self {
            index: ObjectIndex::default(),
            outages: OutageTracker::default(),
            rejections: Rejections::new(),
            is_synced: false,
            events: Vec::new(),
        }
    }

    fn apply(&mut self, message: WatchMessage<MetaContent>) {
        match message {
            WatchMessage::ListStarted => self.index.begin_list(ONLY),
            WatchMessage::Listed(object) => self.apply_object(object, true),
            WatchMessage::Applied(object) => self.apply_object(object, false),
            WatchMessage::Deleted(key) => {
                if let Some(key) = key
                    && self.index.remove(ONLY, &key) == Some(true)
                {
                    self.events.push(MetadataEvent::Deleted(key));
                }
            }
            WatchMessage::ListDone => self.finish_list(),
            WatchMessage::Failed(error) => {
                let text = self.outages.source_failed(ONLY, error);
                self.events.extend(text.map(MetadataEvent::Outage));
            }
            WatchMessage::Denied(text) => {
                let text = self.outages.source_denied(ONLY, text);
                self.events.extend(text.map(MetadataEvent::Outage));
            }
            WatchMessage::Unsupported | WatchMessage::Healthy => {
                let is_recovered = self.outages.source_recovered(ONLY);
                self.events.extend(is_recovered.then_some(MetadataEvent::Recovered));
            }
        }
        self.report_rejections(None);
    }

    fn apply_object(&mut self, object: Object<MetaContent>, is_listed: bool) {
        let Object { key, version, content } = object;
        match (content, key) {
            (Ok(meta), Some(key)) => {
                let hash = Some(version_hash(&meta));
                if self.index.upsert(ONLY, &key, version, hash, is_listed) == Delta::Changed {
                    self.events.push(MetadataEvent::Applied(meta));
                }
            }
            (Ok(_), None) => {}
            (Err(reason), key) => {
                if self.index.reject(ONLY, key.as_ref()) {
                    let Self { index, rejections, .. } = self;
                    let reason = rejections.add(((), key), reason, |(), key| index.is_rejected(key));
                    self.report_rejections(reason);
                }
            }
        }
    }

    fn finish_list(&mut self) {
        let removed = self.index.finish_list(ONLY).into_iter().filter(|(_, was_reported)| *was_reported);
        self.events.extend(removed.map(|(key, _)| MetadataEvent::Deleted(key)));
        if !std::mem::replace(&mut self.is_synced, true) {
            self.events.push(MetadataEvent::Synced);
        }
    }

    fn report_rejections(&mut self, reason: Option<String>) {
        let report = self.rejections.report(self.index.rejected_count(), reason);
        self.events.extend(report.map(MetadataEvent::Rejected));
    }
}

/// Returns a hash that differs for each version of an object.
fn version_hash(meta: &ObjectMeta) -> u64 {
    let mut hasher = DefaultHasher::new();
    (&meta.uid, &meta.resource_version).hash(&mut hasher);
    hasher.finish()
}
