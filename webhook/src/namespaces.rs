//! The annotations of namespaces: what their pods want where they do not say it themselves.
//!
//! Only our own annotations are kept. A namespace that is not known yet is asked for: its first pod may come as soon as
//! itself. What must not go in here: what an annotation means.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use cluster_watch::{
    FileWatch, FilesError, Limits, MetadataEvent, MetadataSelection, ReadOptions, Refused, Source, read,
    watch_metadata, watch_paths,
};
use proxy_core::annotation::PREFIX;
use serde_json::Value;
use tokio::sync::mpsc::{Receiver, channel};

use crate::api::{Api, ApiError};

const COLLECTION: &str = "/api/v1/namespaces";
/// How many events wait at most.
const QUEUE_LEN_MAX: usize = 64;

/// Annotations of a namespace.
pub(crate) type Annotations = Arc<BTreeMap<String, String>>;

/// The annotations of all namespaces. Whoever has a clone has the same.
#[derive(Clone, Default)]
pub(crate) struct Namespaces {
    /// None: there is no API server.
    api: Option<Api>,
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
        tokio::spawn(watch_metadata(api.0.clone(), selection, Limits::default(), tell));
        let namespaces = Self { api: Some(api), ..Self::default() };
        tokio::spawn(namespaces.clone().follow(events));
        namespaces
    }

    /// How many namespaces cannot be used; what was known of them stays in force.
    pub(crate) fn refused(&self) -> usize {
        self.refused.load(Ordering::Relaxed)
    }

    /// The annotations of a namespace.
    pub(crate) async fn annotations(&self, namespace: &str) -> Result<Annotations, ApiError> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner).get(namespace).cloned();
        match (known, &self.api) {
            (Some(known), _) => Ok(known),
            (None, None) => Ok(Annotations::default()),
            (None, Some(api)) => {
                let (found, _) = api.find(COLLECTION, namespace).await?;
                Ok(found.as_ref().map(annotations).unwrap_or_default())
            }
        }
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

    async fn follow(self, mut events: Receiver<MetadataEvent>) {
        while let Some(event) = events.recv().await {
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
                MetadataEvent::Trouble(why) => {
                    tracing::error!(why, "failed to read namespaces; what was known stays in force");
                }
                MetadataEvent::Recovered => tracing::info!("namespaces can be read again"),
                MetadataEvent::Refused(Refused { count, reason }) => {
                    self.refused.store(count, Ordering::Relaxed);
                    if let Some(reason) = reason {
                        tracing::warn!(reason, "a namespace cannot be used");
                    }
                }
            }
        }
    }
}

fn annotations(namespace: &Value) -> Annotations {
    let all = namespace["metadata"]["annotations"].as_object().into_iter().flatten();
    let ours = all.filter(|(name, _)| name.starts_with(PREFIX));
    let texts = ours.filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())));
    Arc::new(texts.collect())
}
