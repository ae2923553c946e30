//! The annotations of namespaces: what their pods want where they do not say it themselves.
//!
//! Only our own annotations are kept. A namespace that is not known yet is waited for, for a moment: its first pod
//! may come as soon as itself. What must not go in here: what an annotation means.

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
/// How long a namespace is waited for that is not known: its first pod may come as soon as itself.
const UNKNOWN_MAX: Duration = Duration::from_millis(200);
/// How many events wait at most.
const QUEUE_LEN_MAX: usize = 64;

/// Annotations of a namespace.
pub(crate) type Annotations = Arc<BTreeMap<String, String>>;

/// The annotations of all namespaces. Whoever has a clone has the same.
#[derive(Clone, Default)]
pub(crate) struct Namespaces {
    /// Counts what a watch tells once it has told all; none: there is no API server.
    told: Option<watch::Receiver<u64>>,
    known: Arc<RwLock<HashMap<String, Annotations>>>,
    /// How many cannot be used.
    refused: Arc<AtomicUsize>,
}

impl Namespaces {
    /// Those of an API server, kept from now on.
    pub(crate) fn start(api: Api) -> Self {
        let selection = MetadataSelection {
            path: COLLECTION.to_owned(),
            annotations: vec![PREFIX.to_owned()],
            ..MetadataSelection::default()
        };
        let (tell, events) = channel(QUEUE_LEN_MAX);
        tokio::spawn(watch_metadata(api.0, selection, WatchOptions::default(), tell));
        let (count, told) = watch::channel(0);
        let namespaces = Self { told: Some(told), ..Self::default() };
        tokio::spawn(namespaces.clone().follow(events, count));
        namespaces
    }

    /// How many namespaces cannot be used; what was known of them stays in force.
    pub(crate) fn refused(&self) -> usize {
        self.refused.load(Ordering::Relaxed)
    }

    /// The annotations of a namespace. Nothing is asked of the API server for it, since anybody may name any namespace.
    pub(crate) async fn annotations(&self, namespace: &str) -> Annotations {
        let (Some(told), None) = (&self.told, self.known(namespace)) else {
            return self.known(namespace).unwrap_or_default();
        };
        let mut told = told.clone();
        // At the start whoever asks waits for as long as it may.
        let _ = told.wait_for(|count| *count > 0).await;
        let known = timeout(UNKNOWN_MAX, told.wait_for(|_| self.known(namespace).is_some()));
        // A namespace that is not there has no annotations.
        let _ = known.await;
        self.known(namespace).unwrap_or_default()
    }

    fn known(&self, namespace: &str) -> Option<Annotations> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).get(namespace).cloned()
    }

    /// Those in files and folders, read again whenever these change; the answer ends that.
    pub(crate) fn watch(paths: Vec<PathBuf>) -> Result<(Self, FileWatch), FilesError> {
        let namespaces = Self::default();
        let (wake, mut woken) = channel(1);
        let watch = watch_paths(paths.clone(), wake)?;
        let known = Arc::clone(&namespaces.known);
        std::thread::spawn(move || {
            while woken.blocking_recv().is_some() {
                let sources: Vec<Source> = paths.iter().cloned().map(Source::Path).collect();
                let (objects, report) = read(&sources, &ReadOptions { portal_nets: Vec::new() });
                // Half of a file takes nothing away.
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
                MetadataEvent::Outage(why) => {
                    tracing::error!(why, "failed to read namespaces; what was known stays in force");
                }
                MetadataEvent::Recovered => tracing::info!("namespaces can be read again"),
                MetadataEvent::Rejected(RejectedObjects { count, reason }) => {
                    self.refused.store(count, Ordering::Relaxed);
                    if let Some(reason) = reason {
                        tracing::warn!(reason, "a namespace cannot be used");
                    }
                }
            }
            count.send_modify(|count| *count += u64::from(is_synced));
        }
    }
}
