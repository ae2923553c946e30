//! `Consumer`: receives the events of a watched API server, and holds the resulting state.

use std::path::Path;
use std::time::Duration;

use kube_source::{Event, RejectedObjects, WatchOptions, WatchScope, client, watch_cluster_with};
use proxy_core::node::Node;
use proxy_core::service::{Service, ServiceKey};
use proxy_core::snapshot::{Change, Snapshot};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc::{Receiver, channel};
use tokio::task::JoinHandle;

use test_support::apiserver::ApiServer;

/// The timeout of each wait, generous for a busy machine.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Short limits, so that tests need not wait. The server ends each watch after a few seconds.
pub(crate) fn limits() -> WatchOptions {
    WatchOptions {
        watch_timeout_s: 4,
        watch_grace: Duration::from_secs(20),
        response_timeout: Duration::from_secs(20),
        stable_after: Duration::from_millis(50),
        backoff_min: Duration::from_millis(10),
        backoff_max: Duration::from_millis(200),
        service_cidrs_timeout: Duration::from_secs(1),
    }
}

/// The state that results from the events.
pub(crate) struct ObservedCluster {
    pub(crate) snapshot: Snapshot,
    pub(crate) node: Option<Node>,
    pub(crate) is_synced: bool,
    pub(crate) outages: Vec<String>,
    pub(crate) recoveries: usize,
    /// The number of rejected objects, and the reported reasons.
    pub(crate) rejected: usize,
    pub(crate) reasons: Vec<String>,
    /// The services that were deleted.
    pub(crate) removed: Vec<String>,
    events: Receiver<Event>,
    watch: JoinHandle<()>,
    runtime: Runtime,
}

impl ObservedCluster {
    /// A proxy of the node `n`.
    pub(crate) fn proxy(api: &ApiServer) -> Self {
        Self::new(
            api.kubeconfig(),
            WatchScope::Proxy { node: Some("n".to_owned()), has_names: false },
            limits(),
        )
    }

    /// A proxy without a node, after its initial sync.
    pub(crate) fn synced(api: &ApiServer) -> Self {
        let mut cluster =
            Self::new(api.kubeconfig(), WatchScope::Proxy { node: None, has_names: false }, limits());
        cluster.until(|cluster| cluster.is_synced);
        cluster
    }

    pub(crate) fn new(kubeconfig: &Path, watched: WatchScope, limits: WatchOptions) -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let client = runtime.block_on(client(Some(kubeconfig))).expect("a client");
        let (sender, events) = channel(16);
        let watch = runtime.spawn(watch_cluster_with(client, watched, limits, sender));
        Self {
            snapshot: Snapshot::new(),
            node: None,
            is_synced: false,
            outages: Vec::new(),
            recoveries: 0,
            rejected: 0,
            reasons: Vec::new(),
            removed: Vec::new(),
            events,
            watch,
            runtime,
        }
    }

    pub(crate) fn next(&mut self) {
        let received = async { tokio::time::timeout(TIMEOUT, self.events.recv()).await };
        let event = self.runtime.block_on(received);
        let event =
            event.unwrap_or_else(|_| panic!("timed out without an event; outages: {:?}", self.outages));
        match event.expect("the watch continues") {
            Event::Changes(changes) => {
                assert!(!changes.is_empty());
                for change in changes {
                    if let Change::ServiceDeleted(key) = &change {
                        self.removed.push(key.name.to_string());
                    }
                    self.snapshot.apply(change);
                }
            }
            Event::Node(node) => self.node = Some(node),
            Event::Synced => {
                assert!(!self.is_synced, "synced is sent once");
                self.is_synced = true;
            }
            Event::Outage(text) => {
                assert_eq!(text.lines().count(), 1, "{text}");
                self.outages.push(text);
            }
            Event::Recovered => self.recoveries += 1,
            Event::Rejected(RejectedObjects { count, reason }) => {
                self.rejected = count;
                assert!(reason.as_ref().is_none_or(|text| text.lines().count() == 1), "{reason:?}");
                self.reasons.extend(reason);
            }
        }
    }

    /// Receives events until a condition is true.
    pub(crate) fn until(&mut self, is_so: impl Fn(&Self) -> bool) {
        while !is_so(self) {
            self.next();
        }
    }

    pub(crate) fn service(&self, name: &str) -> Option<&Service> {
        self.snapshot.service(&ServiceKey::new("default", name)).map(|service| &**service)
    }

    /// The port of a service, if the service exists.
    pub(crate) fn port(&self, name: &str) -> Option<u16> {
        Some(self.service(name)?.ports.first()?.port)
    }

    pub(crate) fn endpoints(&self, name: &str) -> usize {
        let key = ServiceKey::new("default", name);
        self.snapshot.slices_of(&key).map(|slice| slice.endpoints.len()).sum()
    }

    /// Drops the receiver and waits for the end of the watch.
    pub(crate) fn end(self) {
        let Self { events, watch, runtime, .. } = self;
        drop(events);
        let end = async { tokio::time::timeout(TIMEOUT, watch).await };
        runtime.block_on(end).expect("the watch ends").expect("the watch does not panic");
    }
}
