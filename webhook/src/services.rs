//! `ServiceState`: the services of the cluster as their source reports them.
//!
//! Admission reads the snapshot. The controller also reads which namespaces have changed since it looked last.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use kube_source::{Event, RejectedObjects};
use proxy_core::snapshot::{Change, Snapshot};
use tokio::sync::{mpsc, watch};

/// The services, and the state of their source.
#[derive(Debug, Clone, Default)]
pub(crate) struct ServiceState {
    pub(crate) snapshot: Snapshot,
    /// The initial sync is complete.
    pub(crate) is_synced: bool,
    /// The reason why the source cannot be read.
    pub(crate) outage: Option<String>,
    /// The number of rejected services.
    pub(crate) rejected: usize,
}

/// The namespaces whose services have changed since the last call of `take`. Clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct ChangedNamespaces(Arc<Mutex<(HashSet<Arc<str>>, bool)>>);

impl ChangedNamespaces {
    /// Returns and forgets the namespaces; true if the API server's own service has changed, which every selection
    /// contains.
    pub(crate) fn take(&self) -> (HashSet<Arc<str>>, bool) {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn record(&self, change: &Change) {
        let key = match change {
            Change::Service(service) => &service.key,
            Change::ServiceDeleted(key) => key,
            _ => return,
        };
        let mut changed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        changed.1 |= (&*key.namespace, &*key.name) == ("default", "kubernetes");
        changed.0.insert(Arc::clone(&key.namespace));
    }
}

/// Applies the events of a source until it ends.
pub(crate) async fn follow(
    mut source: mpsc::Receiver<Event>,
    state: watch::Sender<ServiceState>,
    changed: ChangedNamespaces,
) {
    while let Some(event) = source.recv().await {
        match event {
            Event::Changes(changes) => state.send_modify(|state| {
                for change in changes {
                    // Under the lock of the state, so that a reader of the set sees the services, too.
                    changed.record(&change);
                    state.snapshot.apply(change);
                }
            }),
            Event::Node(_) => {}
            Event::Synced => {
                state.send_modify(|state| state.is_synced = true);
                tracing::info!(services = state.borrow().snapshot.service_count(), "initial sync complete");
            }
            Event::Outage(error) => {
                tracing::error!(error, "service source unavailable; keeping last known state");
                state.send_modify(|state| state.outage = Some(error));
            }
            Event::Recovered => {
                tracing::info!("service source recovered");
                state.send_modify(|state| state.outage = None);
            }
            Event::Rejected(RejectedObjects { count, reason }) => {
                if let Some(reason) = reason {
                    tracing::warn!(
                        reason,
                        objects_rejected = count,
                        "rejected a service; keeping its last known state"
                    );
                }
                state.send_modify(|state| state.rejected = count);
            }
        }
    }
}
