//! The controller of managed ConfigMaps and Events.
//!
//! It creates a ConfigMap as soon as a pod refers to it, updates it while services change, and deletes it after the
//! last pod. Admission writes nothing: it records on a pod what the pod needs. Every replica runs the controller, without
//! leader election: an object that another replica created first is as good. It reads only the metadata of pods and
//! ConfigMaps. `state` decides, and `work` executes.

mod check_pacer;
mod conflict_checker;
mod event_recorder;
mod group;
mod limit_checker;
mod lookup;
mod object;
mod plan;
mod quota;
mod state;
mod work;

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kube_source::{
    MetadataEvent, MetadataSelection, ObjectMeta, RejectedObjects, WatchOptions, watch_metadata,
};
use proxy_core::annotation::{CONTENT, PARTS, SELECTION, VARIABLES, WARNINGS};
use support::with_causes;
use tokio::sync::mpsc::{Receiver, channel};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep_until, timeout};

use crate::api::{Api, ApiError};
use crate::controller::conflict_checker::{ConflictChecker, FoundConflicts};
use crate::controller::event_recorder::EventRecorder;
use crate::controller::group::Outcome;
pub(crate) use crate::controller::limit_checker::LimitOptions;
use crate::controller::limit_checker::{Checked, LimitChecker, Refusal};
use crate::controller::lookup::labelled;
use crate::controller::object::MANAGED_BY;
pub(crate) use crate::controller::quota::Usage;
use crate::controller::quota::{Exceeded, Quotas};
use crate::controller::state::{GroupKey, Job, State};
use crate::controller::work::{ALIVE, Worker};
use crate::counters::Counters;
use crate::services::{ChangedNamespaces, ServiceState};

/// The length of the queue of a watch.
const QUEUE_LEN_MAX: usize = 256;
/// The number of events that are applied before jobs are started.
const EVENT_BATCH_MAX: usize = 256;
/// The minimum interval between updates because of changed services.
const REFRESH_INTERVAL: Duration = Duration::from_secs(1);
/// The timeout of a job: each of its few requests has a timeout, too.
const JOB_TIMEOUT: Duration = Duration::from_secs(120);

/// The settings of the controller.
#[derive(Debug, Clone)]
pub(crate) struct ControllerOptions {
    /// The time for which an unused ConfigMap is kept.
    pub(crate) grace: Duration,
    /// The limit of each namespace.
    pub(crate) quota: Usage,
    /// The namespaces whose pods the webhook ignores.
    pub(crate) excepted: BTreeSet<String>,
    /// The limits of portals that the agents apply.
    pub(crate) limits: LimitOptions,
}

/// The result of a job.
enum Done {
    Group(GroupKey, Outcome),
    OldReferences(Arc<str>, Vec<Arc<str>>, Result<HashSet<Arc<str>>, ApiError>),
    Relist(Arc<str>, Result<(Vec<ObjectMeta>, bool), ApiError>),
    Limits(Arc<str>, Option<Checked>),
    Conflicts(Option<FoundConflicts>),
}

/// Creates, updates and deletes managed ConfigMaps, and writes Events.
pub(crate) struct ConfigMapController {
    state: State,
    limits: LimitChecker,
    conflicts: ConflictChecker,
    worker: Arc<Worker>,
    events: EventRecorder,
    counters: Counters,
    services: watch::Receiver<ServiceState>,
    changed: ChangedNamespaces,
    jobs: JoinSet<Done>,
    /// Whether the watches of pods and of ConfigMaps have finished their initial sync.
    are_synced: [bool; 2],
}

impl ConfigMapController {
    pub(crate) fn new(
        api: Api,
        options: ControllerOptions,
        services: watch::Receiver<ServiceState>,
        changed: ChangedNamespaces,
        counters: Counters,
    ) -> Self {
        let ControllerOptions { grace, quota, excepted, limits } = options;
        let quotas = Quotas::new(quota);
        Self {
            state: State::new(grace, quotas.clone(), excepted),
            limits: LimitChecker::new(limits.clone()),
            conflicts: ConflictChecker::new(limits),
            events: EventRecorder::start(api.clone(), counters.clone()),
            worker: Arc::new(Worker::new(api, services.clone(), quotas, counters.clone())),
            counters,
            services,
            changed,
            jobs: JoinSet::new(),
            are_synced: [false; 2],
        }
    }

    /// Runs until the program ends.
    pub(crate) async fn run(mut self) {
        let (mut pods, mut maps) = (self.watch(pods()), self.watch(config_maps()));
        // Until all services are known, the existing ConfigMaps are better than what would be rendered.
        if self.services.wait_for(|services| services.is_synced).await.is_err() {
            return;
        }
        self.on_services_changed();
        let (mut pod_events, mut map_events) = (Vec::new(), Vec::new());
        let mut refresh_at = Instant::now();
        loop {
            self.start_jobs();
            let due = self.next_due(Instant::now()).filter(|_| self.is_synced());
            tokio::select! {
                count = pods.recv_many(&mut pod_events, EVENT_BATCH_MAX) => {
                    if count == 0 { return }
                    for event in pod_events.drain(..) { self.on_pod(event) }
                }
                count = maps.recv_many(&mut map_events, EVENT_BATCH_MAX) => {
                    if count == 0 { return }
                    for event in map_events.drain(..) { self.on_config_map(event) }
                }
                Some(done) = self.jobs.join_next() => match done {
                    Ok(done) => self.on_done(done),
                    Err(error) => tracing::error!(%error, "a job of the controller panicked"),
                },
                changed = services_changed(&mut self.services, refresh_at) => {
                    if changed.is_err() { return }
                    refresh_at = Instant::now() + REFRESH_INTERVAL;
                    self.on_services_changed();
                }
                () = until(due) => {}
            }
        }
    }

    fn watch(&self, selection: MetadataSelection) -> Receiver<MetadataEvent> {
        let (sender, events) = channel(QUEUE_LEN_MAX);
        let client = self.worker.api.0.clone();
        tokio::spawn(watch_metadata(client, selection, WatchOptions::default(), sender));
        events
    }

    fn next_due(&self, now: Instant) -> Option<Instant> {
        let due = [self.state.next_due(), self.limits.next_due(now), self.conflicts.next_due(now)];
        due.into_iter().flatten().min()
    }

    fn is_synced(&self) -> bool {
        self.are_synced == [true; 2]
    }

    fn on_pod(&mut self, event: MetadataEvent) {
        let now = Instant::now();
        match event {
            MetadataEvent::Applied(meta) => self.on_pod_applied(&meta, now),
            MetadataEvent::Deleted(key) => self.state.pod_deleted(&key, now),
            MetadataEvent::Synced => self.are_synced[0] = true,
            event => log_watch("pods", event),
        }
    }

    fn on_pod_applied(&mut self, meta: &ObjectMeta, now: Instant) {
        if let Err(error) = self.state.pod(meta, now) {
            let (namespace, pod) = (&*meta.key.namespace, &*meta.key.name);
            tracing::debug!(namespace, pod, %error, "invalid record on a pod");
            self.counters.refused("record");
        }
        if !self.state.is_excepted(&meta.key.namespace) {
            self.events.warnings(meta);
        }
    }

    fn on_config_map(&mut self, event: MetadataEvent) {
        let now = Instant::now();
        match event {
            MetadataEvent::Applied(meta) => {
                if !self.state.config_map(&meta, now) {
                    let (namespace, name) = (&*meta.key.namespace, &*meta.key.name);
                    tracing::debug!(
                        namespace,
                        name,
                        "ignoring a ConfigMap with the label that is not managed"
                    );
                }
            }
            MetadataEvent::Deleted(key) => self.state.config_map_deleted(&key, now),
            MetadataEvent::Synced => self.are_synced[1] = true,
            event => log_watch("ConfigMaps", event),
        }
    }

    fn on_services_changed(&mut self) {
        let (namespaces, all) = {
            let _services = self.services.borrow_and_update();
            self.changed.take()
        };
        self.limits.services_changed(&namespaces);
        if all || !namespaces.is_empty() {
            self.conflicts.services_changed();
            self.state.services_changed(&namespaces, all, Instant::now());
        }
    }

    fn start_jobs(&mut self) {
        if !self.is_synced() {
            return;
        }
        if let Some((namespace, check)) = self.limits.start(Instant::now()) {
            let snapshot = self.services.borrow().snapshot.clone();
            self.jobs.spawn(async move {
                let checked = tokio::task::spawn_blocking(move || check(&snapshot)).await;
                let checked = checked.inspect_err(|error| tracing::error!(%error, "failed to check limits"));
                Done::Limits(namespace, checked.ok())
            });
        }
        if let Some(check) = self.conflicts.start(Instant::now()) {
            let snapshot = self.services.borrow().snapshot.clone();
            self.jobs.spawn(async move {
                let found = tokio::task::spawn_blocking(move || check(&snapshot)).await;
                let found = found.inspect_err(|error| tracing::error!(%error, "failed to check conflicts"));
                Done::Conflicts(found.ok())
            });
        }
        for job in self.state.jobs(Instant::now()) {
            let worker = Arc::clone(&self.worker);
            match job {
                Job::Group(key, work) => self.jobs.spawn(async move {
                    let outcome = timeout(JOB_TIMEOUT, worker.group(&key, work)).await;
                    Done::Group(key, outcome.unwrap_or(Outcome::Failed))
                }),
                Job::OldReferences(namespace, names) => self.jobs.spawn(async move {
                    let referenced = worker.old_references(&namespace, &names).await;
                    Done::OldReferences(namespace, names, referenced)
                }),
                Job::Relist(namespace, known) => self.jobs.spawn(async move {
                    let pods = labelled(&worker.api, &namespace, &known).await;
                    Done::Relist(namespace, pods)
                }),
            };
        }
    }

    fn on_done(&mut self, done: Done) {
        let now = Instant::now();
        match done {
            Done::Group(key, outcome) => {
                let exists = outcome == Outcome::Exists;
                if let Some(exceeded) = self.state.finish(&key, outcome, now) {
                    self.report_refused(&key, exceeded);
                } else if exists && self.state.is_foreign(&key) {
                    self.report_foreign(&key);
                }
            }
            Done::OldReferences(namespace, asked, Ok(referenced)) => {
                self.state.old_references(&namespace, &asked, &referenced, now);
            }
            Done::Relist(namespace, Ok((pods, has_more))) => {
                for meta in pods {
                    self.on_pod_applied(&meta, now);
                }
                if has_more {
                    self.state.relist_later(&namespace, now);
                }
            }
            Done::OldReferences(namespace, _, Err(error)) | Done::Relist(namespace, Err(error)) => {
                self.state.relist_later(&namespace, now);
                let namespace = &*namespace;
                tracing::warn!(namespace, error = with_causes(&error), "failed to list pods; will retry");
            }
            Done::Limits(namespace, checked) => {
                for refusal in self.limits.finish(&namespace, checked, now) {
                    let Refusal { service, created, reason, count } = refusal;
                    tracing::debug!(%service, %reason, count, "portals refused");
                    self.events.refused_portals(&service, created, reason, count);
                }
            }
            Done::Conflicts(found) => {
                for (service, conflict) in self.conflicts.finish(found, now) {
                    tracing::debug!(%service, %conflict, "portal conflict");
                    self.events.portal_conflict(&service, &conflict);
                }
            }
        }
    }

    fn report_refused(&self, key: &GroupKey, exceeded: Exceeded) {
        let (namespace, name) = (&*key.0, &*key.1);
        tracing::warn!(namespace, name, %exceeded, "ConfigMap refused; it is created once there is room");
        self.report(key, format!("ConfigMap {name} is not created: {exceeded}"));
    }

    fn report_foreign(&self, key: &GroupKey) {
        let (namespace, name) = (&*key.0, &*key.1);
        tracing::warn!(namespace, name, "a ConfigMap with this name is not managed; leaving it alone");
        self.counters.refused("foreign");
        self.report(key, format!("ConfigMap {name} exists and is not managed by Portico; leaving it alone"));
    }

    /// Writes an Event on the controller of a pod that refers to a group.
    fn report(&self, key: &GroupKey, message: String) {
        let Some(name) = self.state.any_pod_of(key) else { return };
        let (namespace, worker, events) = (Arc::clone(&key.0), Arc::clone(&self.worker), self.events.clone());
        // The controller does not store the owners of pods, since it seldom needs them.
        tokio::spawn(async move {
            match lookup::pod(&worker.api, &namespace, &name).await {
                Ok(pod) => pod.iter().for_each(|pod| events.refused_config_map(pod, &message)),
                Err(error) => {
                    tracing::debug!(
                        namespace = &*namespace,
                        error = with_causes(&error),
                        "failed to look up a pod"
                    );
                }
            }
        });
    }
}

/// Logs the state of a watch.
fn log_watch(resource: &str, event: MetadataEvent) {
    match event {
        MetadataEvent::Outage(error) => {
            tracing::error!(resource, error, "watch failed; keeping last known state");
        }
        MetadataEvent::Recovered => tracing::info!(resource, "watch recovered"),
        MetadataEvent::Rejected(RejectedObjects { count, reason }) => {
            tracing::warn!(resource, count, reason, "ignoring objects with unusable metadata");
        }
        MetadataEvent::Applied(_) | MetadataEvent::Deleted(_) | MetadataEvent::Synced => {}
    }
}

/// Waits for a change of services, and not less than until a time.
async fn services_changed(
    services: &mut watch::Receiver<ServiceState>,
    not_before: Instant,
) -> Result<(), ()> {
    sleep_until(not_before.into()).await;
    services.changed().await.map_err(drop)
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

/// Selects pods that admission has labelled and that have not terminated.
fn pods() -> MetadataSelection {
    MetadataSelection {
        path: "/api/v1/pods".to_owned(),
        label_selector: Some(VARIABLES.key.to_owned()),
        field_selector: Some(ALIVE.to_owned()),
        labels: vec![VARIABLES.key.to_owned()],
        annotations: [SELECTION, PARTS, WARNINGS].map(|annotation| annotation.key.to_owned()).to_vec(),
    }
}

/// Selects ConfigMaps with the label of managed ones.
fn config_maps() -> MetadataSelection {
    MetadataSelection {
        path: "/api/v1/configmaps".to_owned(),
        label_selector: Some(format!("{}={}", MANAGED_BY.0, MANAGED_BY.1)),
        field_selector: None,
        labels: Vec::new(),
        annotations: [SELECTION, CONTENT].map(|annotation| annotation.key.to_owned()).to_vec(),
    }
}
