//! `Namespaces`: the annotations of namespaces, which are the defaults of their pods.
//!
//! Only Portico's annotations are stored. Admission waits a short time for an unknown namespace, because its first pod
//! may be created right after it, before the watch delivers it.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use kube_source::{
    FileWatch, FilesError, MetadataEvent, MetadataSelection, ReadOptions, RejectedObjects, Source,
    WatchOptions, read, watch_metadata, watch_paths,
};
use proxy_core::annotation::PREFIX;
use tokio::sync::mpsc::{Receiver, channel};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::api::Api;

const COLLECTION: &str = "/api/v1/namespaces";
/// The time that a request waits for an unknown namespace.
const UNKNOWN_TIMEOUT: Duration = Duration::from_millis(200);
/// The length of the queue of the watch.
const QUEUE_LEN_MAX: usize = 64;

/// The annotations of a namespace.
pub(crate) type Annotations = Arc<BTreeMap<String, String>>;

/// The annotations of all namespaces. Clones share them.
#[derive(Clone, Default)]
pub(crate) struct Namespaces {
    /// The number of watch events since the initial sync; none without an API server.
    updates: Option<watch::Receiver<u64>>,
    known: Arc<RwLock<HashMap<String, Annotations>>>,
    /// The number of rejected objects.
    refused: Arc<AtomicUsize>,
}

impl Namespaces {
    /// Watches the namespaces of an API server.
    pub(crate) fn start(api: Api) -> Self {
        let selection = MetadataSelection {
            path: COLLECTION.to_owned(),
            annotations: vec![PREFIX.to_owned()],
            ..MetadataSelection::default()
        };
        let (sender, events) = channel(QUEUE_LEN_MAX);
        tokio::spawn(watch_metadata(api.0, selection, WatchOptions::default(), sender));
        let (count, updates) = watch::channel(0);
        let namespaces = Self { updates: Some(updates), ..Self::default() };
        tokio::spawn(namespaces.clone().follow(events, count));
        namespaces
    }

    /// The number of rejected namespaces; the last known state of each is kept.
    pub(crate) fn refused(&self) -> usize {
        self.refused.load(Ordering::Relaxed)
    }

    /// Returns the annotations of a namespace. This never causes a request to the API server, because a client that is
    /// not authenticated can name any namespace.
    pub(crate) async fn annotations(&self, namespace: &str) -> Annotations {
        let (Some(updates), None) = (&self.updates, self.known(namespace)) else {
            return self.known(namespace).unwrap_or_default();
        };
        let mut updates = updates.clone();
        // Before the initial sync a request waits until its own timeout.
        let _ = updates.wait_for(|count| *count > 0).await;
        let known = timeout(UNKNOWN_TIMEOUT, updates.wait_for(|_| self.known(namespace).is_some()));
        // A namespace that does not exist has no annotations.
        let _ = known.await;
        self.known(namespace).unwrap_or_default()
    }

    fn known(&self, namespace: &str) -> Option<Annotations> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).get(namespace).cloned()
    }

    /// Reads namespaces from files and directories, again after each change until the returned watch is dropped.
    pub(crate) fn watch(paths: Vec<PathBuf>) -> Result<(Self, FileWatch), FilesError> {
        let namespaces = Self::default();
        let (wake, mut wakes) = channel(1);
        let watch = watch_paths(paths.clone(), wake)?;
        let known = Arc::clone(&namespaces.known);
        std::thread::spawn(move || {
            while wakes.blocking_recv().is_some() {
                let sources: Vec<Source> = paths.iter().cloned().map(Source::Path).collect();
                let (objects, report) = read(&sources, &ReadOptions { portal_nets: Vec::new() });
                // An incomplete file removes nothing.
                if !report.has_errors() {
                    let all = objects.namespaces.into_iter();
                    let all = all.map(|(name, annotations)| (name.to_string(), Arc::new(annotations)));
                    *known.write().unwrap_or_else(PoisonError::into_inner) = all.collect();
                }
            }
        });
        Ok((namespaces, watch))
    }

    async fn follow(self, mut events: Receiver<MetadataEvent>, count: watch::Sender<u64>) {
        let mut is_synced = false;
        while let Some(event) = events.recv().await {
            is_synced |= event == MetadataEvent::Synced;
            match event {
                MetadataEvent::Applied(meta) => {
                    let texts = meta.annotations.into_iter();
                    let texts = texts.map(|(key, value)| (key.into_string(), value.into_string())).collect();
                    let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
                    known.insert(meta.key.name.to_string(), Arc::new(texts));
                }
                MetadataEvent::Deleted(key) => {
                    self.known.write().unwrap_or_else(PoisonError::into_inner).remove(&*key.name);
                }
                MetadataEvent::Synced => {}
                MetadataEvent::Outage(error) => {
                    tracing::error!(error, "namespace watch failed; keeping last known state");
                }
                MetadataEvent::Recovered => tracing::info!("namespace watch recovered"),
                MetadataEvent::Rejected(RejectedObjects { count, reason }) => {
                    self.refused.store(count, Ordering::Relaxed);
                    if let Some(reason) = reason {
                        tracing::warn!(reason, "rejected a namespace");
                    }
                }
            }
            count.send_modify(|count| *count += u64::from(is_synced));
        }
    }
}
