//! The annotations of namespaces: what their pods want where they do not say it themselves.
//!
//! Only our own annotations are kept. A namespace that is not known yet is asked for: its first pod may come as soon as
//! itself. What must not go in here: what an annotation means.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use cluster_watch::{FileWatch, FilesError, ReadOptions, Source, read, watch_paths};
use proxy_core::annotation::PREFIX;
use serde_json::Value;
use tokio::sync::mpsc::channel;

use crate::api::{Api, ApiError};
use crate::log::chain;

const COLLECTION: &str = "/api/v1/namespaces";
/// The pause after a failure.
const RETRY: Duration = Duration::from_secs(2);

/// Annotations of a namespace.
pub(crate) type Annotations = Arc<BTreeMap<String, String>>;

/// The annotations of all namespaces. Whoever has a clone has the same.
#[derive(Clone, Default)]
pub(crate) struct Namespaces {
    /// None: there is no API server.
    api: Option<Api>,
    known: Arc<RwLock<HashMap<String, Annotations>>>,
}

impl Namespaces {
    /// Those of an API server, kept from now on.
    pub(crate) fn start(api: Api) -> Self {
        let namespaces = Self { api: Some(api.clone()), known: Arc::default() };
        tokio::spawn(namespaces.clone().keep(api));
        namespaces
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

    async fn keep(self, api: Api) {
        let named =
            |object: &Value| Some((object["metadata"]["name"].as_str()?.to_owned(), annotations(object)));
        loop {
            let kept = async {
                let (all, version) = api.list(COLLECTION, "", named).await?;
                *self.known.write().unwrap_or_else(PoisonError::into_inner) = all.into_iter().collect();
                api.changed(COLLECTION, "", &version).await
            };
            if let Err(error) = kept.await {
                tracing::error!(error = chain(error), "keep the annotations of namespaces");
                tokio::time::sleep(RETRY).await;
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
