//! `ServiceState`: the services as their source has told them, for whoever answers a request.
//!
//! What must not go in here: where they come from.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use kube_source::{Event, RejectedObjects};
use proxy_core::snapshot::{Change, Snapshot};
use tokio::sync::{mpsc, watch};

/// What is known of services.
#[derive(Debug, Clone, Default)]
pub(crate) struct ServiceState {
    pub(crate) snapshot: Snapshot,
    /// All that there was at first is known.
    pub(crate) is_synced: bool,
    /// Why the source cannot be read.
    pub(crate) outage: Option<String>,
    /// How many services cannot be used.
    pub(crate) rejected: usize,
}

/// The namespaces whose services have changed since somebody took them. Clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct ChangedNamespaces(Arc<Mutex<(HashSet<Arc<str>>, bool)>>);

impl ChangedNamespaces {
    /// What has changed; the second says that the API server's own service has, which every pod has variables of.
    pub(crate) fn take(&self) -> (HashSet<Arc<str>>, bool) {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn note(&self, change: &Change) {
        let key = match change {
            Change::Service(service) => &service.key,
            Change::ServiceDeleted(key) => key,
            _ => return,
        };
        let mut touched = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        touched.1 |= (&*key.namespace, &*key.name) == ("default", "kubernetes");
        touched.0.insert(Arc::clone(&key.namespace));
    }
}

/// Takes what a source tells until it ends.
pub(crate) async fn follow(
    mut source: mpsc::Receiver<Event>,
    known: watch::Sender<ServiceState>,
    touched: ChangedNamespaces,
) {
    while let Some(event) = source.recv().await {
        match event {
            Event::Changes(changes) => known.send_modify(|known| {
                for change in changes {
                    // Under the same lock, so that whoever takes it sees the services, too.
                    touched.note(&change);
                    known.snapshot.apply(change);
                }
            }),
            Event::Node(_) => {}
            Event::Synced => {
                known.send_modify(|known| known.is_synced = true);
                tracing::info!(services = known.borrow().snapshot.service_count(), "services are known");
            }
            Event::Outage(why) => {
                tracing::error!(why, "the source of services cannot be read; what was known stays in force");
                known.send_modify(|known| known.outage = Some(why));
            }
            Event::Recovered => {
                tracing::info!("the source of services can be read again");
                known.send_modify(|known| known.outage = None);
            }
            Event::Rejected(RejectedObjects { count, reason }) => {
                if let Some(reason) = reason {
                    tracing::warn!(
                        reason,
                        objects_refused = count,
                        "a service cannot be used; what was known of it stays in force"
                    );
                }
                known.send_modify(|known| known.rejected = count);
            }
        }
    }
}
