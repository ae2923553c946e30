//! The controller of managed ConfigMaps: made as soon as a pod refers to them, fresh while services change, collected
//! after the last pod.
//!
//! Admission writes nothing: it records on a pod what the pod needs. Every replica runs this controller and acts at
//! once, without an election: what another replica has made already is as good. Of pods and ConfigMaps it reads metadata
//! alone. What must not go in here: what is decided (`state`), and what is written (`work`).

mod event_recorder;
mod group;
mod lookup;
mod object;
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
use tokio::sync::mpsc::{Receiver, channel};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep_until, timeout};

use crate::api::{Api, ApiError};
use crate::controller::event_recorder::EventRecorder;
use crate::controller::group::Outcome;
use crate::controller::lookup::labelled;
use crate::controller::object::MANAGED_BY;
pub(crate) use crate::controller::quota::Usage;
use crate::controller::quota::{Exceeded, Quotas};
use crate::controller::state::{GroupKey, Job, State};
use crate::controller::work::{ALIVE, Worker};
use crate::log::chain;
use crate::services::{ChangedNamespaces, ServiceState};
use crate::tally::Tallied;

/// How far the watches may be ahead.
const AHEAD: usize = 256;
/// How many events are taken before work goes on.
const EVENTS_AT_ONCE: usize = 256;
/// Changes of services are brought into ConfigMaps at most so often.
const REFRESH_INTERVAL: Duration = Duration::from_secs(1);
/// No job takes longer: each request has its own limit, and a job makes few.
const JOB_MAX: Duration = Duration::from_secs(120);

/// What the operator sets.
#[derive(Debug, Clone)]
pub(crate) struct ControllerOptions {
    /// How long a ConfigMap is kept that nobody refers to.
    pub(crate) grace: Duration,
    /// What each namespace may have.
    pub(crate) quota: Usage,
    /// Namespaces that are left alone.
    pub(crate) excepted: BTreeSet<String>,
}

/// What a job has come to.
enum Done {
    Group(GroupKey, Outcome),
    OldReferences(Arc<str>, Vec<Arc<str>>, Result<HashSet<Arc<str>>, ApiError>),
    Recall(Arc<str>, Result<(Vec<ObjectMeta>, bool), ApiError>),
}

/// Makes, refreshes and collects managed ConfigMaps.
pub(crate) struct ConfigMapController {
    state: State,
    worker: Arc<Worker>,
    notices: EventRecorder,
    tallied: Tallied,
    known: watch::Receiver<ServiceState>,
    touched: ChangedNamespaces,
    jobs: JoinSet<Done>,
    /// Which of the watches have told all.
    are_synced: [bool; 2],
}

impl ConfigMapController {
    pub(crate) fn new(
        api: Api,
        options: ControllerOptions,
        known: watch::Receiver<ServiceState>,
        touched: ChangedNamespaces,
        tallied: Tallied,
    ) -> Self {
        let ControllerOptions { grace, quota, excepted } = options;
        let quotas = Quotas::new(quota);
        Self {
            state: State::new(grace, quotas.clone(), excepted),
            notices: EventRecorder::start(api.clone(), tallied.clone()),
            worker: Arc::new(Worker::new(api, known.clone(), quotas, tallied.clone())),
            tallied,
            known,
            touched,
            jobs: JoinSet::new(),
            are_synced: [false; 2],
        }
    }

    /// Runs until the program ends.
    pub(crate) async fn run(mut self) {
        let (mut pods, mut maps) = (self.watch(pods()), self.watch(config_maps()));
        // Before all services are known, what is there is better than what would be made.
        if self.known.wait_for(|known| known.is_synced).await.is_err() {
            return;
        }
        let (mut seen_pods, mut seen_maps) = (Vec::new(), Vec::new());
        let mut refresh_at = Instant::now();
        loop {
            self.start_jobs();
            let next_due = self.state.next_due().filter(|_| self.is_synced());
            tokio::select! {
                count = pods.recv_many(&mut seen_pods, EVENTS_AT_ONCE) => {
                    if count == 0 { return }
                    for event in seen_pods.drain(..) { self.pod(event) }
                }
                count = maps.recv_many(&mut seen_maps, EVENTS_AT_ONCE) => {
                    if count == 0 { return }
                    for event in seen_maps.drain(..) { self.config_map(event) }
                }
                Some(done) = self.jobs.join_next() => match done {
                    Ok(done) => self.done(done),
                    Err(error) => tracing::error!(%error, "a job of the controller ended badly"),
                },
                changed = services_changed(&mut self.known, refresh_at) => {
                    if changed.is_err() { return }
                    refresh_at = Instant::now() + REFRESH_INTERVAL;
                    self.services();
                }
                () = until(next_due) => {}
            }
        }
    }

    fn watch(&self, selection: MetadataSelection) -> Receiver<MetadataEvent> {
        let (tell, told) = channel(AHEAD);
        let client = self.worker.api.0.clone();
        tokio::spawn(watch_metadata(client, selection, WatchOptions::default(), tell));
        told
    }

    fn is_synced(&self) -> bool {
        self.are_synced == [true; 2]
    }

    fn pod(&mut self, event: MetadataEvent) {
        let now = Instant::now();
        match event {
            MetadataEvent::Applied(meta) => self.pod_applied(&meta, now),
            MetadataEvent::Deleted(key) => self.state.pod_gone(&key, now),
            MetadataEvent::Synced => self.are_synced[0] = true,
            event => said("pods", event),
        }
    }

    fn pod_applied(&mut self, meta: &ObjectMeta, now: Instant) {
        if let Err(why) = self.state.pod(meta, now) {
            let (namespace, pod) = (&*meta.key.namespace, &*meta.key.name);
            tracing::debug!(namespace, pod, %why, "a pod's record is of no use");
            self.tallied.refused("record");
        }
        if !self.state.is_excepted(&meta.key.namespace) {
            self.notices.warnings(meta);
        }
    }

    fn config_map(&mut self, event: MetadataEvent) {
        let now = Instant::now();
        match event {
            MetadataEvent::Applied(meta) => {
                if !self.state.config_map(&meta, now) {
                    let (namespace, name) = (&*meta.key.namespace, &*meta.key.name);
                    tracing::debug!(
                        namespace,
                        name,
                        "a ConfigMap with the label is not named after its selection"
                    );
                }
            }
            MetadataEvent::Deleted(key) => self.state.config_map_gone(&key, now),
            MetadataEvent::Synced => self.are_synced[1] = true,
            event => said("ConfigMaps", event),
        }
    }

    fn services(&mut self) {
        let (touched, all) = {
            let _known = self.known.borrow_and_update();
            self.touched.take()
        };
        if all || !touched.is_empty() {
            self.state.services_changed(&touched, all, Instant::now());
        }
    }

    fn start_jobs(&mut self) {
        if !self.is_synced() {
            return;
        }
        for job in self.state.jobs(Instant::now()) {
            let worker = Arc::clone(&self.worker);
            match job {
                Job::Group(key, work) => self.jobs.spawn(async move {
                    let outcome = timeout(JOB_MAX, worker.group(&key, work)).await;
                    Done::Group(key, outcome.unwrap_or(Outcome::Failed))
                }),
                Job::OldReferences(namespace, names) => self.jobs.spawn(async move {
                    let found = worker.old_references(&namespace, &names).await;
                    Done::OldReferences(namespace, names, found)
                }),
                Job::Recall(namespace, known) => self.jobs.spawn(async move {
                    let pods = labelled(&worker.api, &namespace, &known).await;
                    Done::Recall(namespace, pods)
                }),
            };
        }
    }

    fn done(&mut self, done: Done) {
        let now = Instant::now();
        match done {
            Done::Group(key, outcome) => {
                let exists = outcome == Outcome::Exists;
                if let Some(why) = self.state.done(&key, outcome, now) {
                    self.refused(&key, &why);
                } else if exists && self.state.is_foreign(&key) {
                    self.foreign(&key);
                }
            }
            Done::OldReferences(namespace, asked, Ok(found)) => {
                self.state.old_references(&namespace, &asked, &found, now);
            }
            Done::Recall(namespace, Ok((pods, are_more))) => {
                for meta in pods {
                    self.pod_applied(&meta, now);
                }
                if are_more {
                    self.state.recall_later(&namespace, now);
                }
            }
            Done::OldReferences(namespace, _, Err(error)) | Done::Recall(namespace, Err(error)) => {
                self.state.recall_later(&namespace, now);
                let namespace = &*namespace;
                tracing::warn!(namespace, error = chain(error), "failed to list pods; it is tried again");
            }
        }
    }

    fn refused(&self, key: &GroupKey, why: &Exceeded) {
        let (namespace, name) = (&*key.0, &*key.1);
        tracing::warn!(namespace, name, %why, "a ConfigMap is refused; it is made once there is room");
        self.tell(key, format!("ConfigMap {name} is not made: {why}"));
    }

    fn foreign(&self, key: &GroupKey) {
        let (namespace, name) = (&*key.0, &*key.1);
        tracing::warn!(namespace, name, "a ConfigMap that is not managed has this name and stays as it is");
        self.tallied.refused("foreign");
        self.tell(key, format!("a ConfigMap {name} exists that Portico does not manage; it stays as it is"));
    }

    fn tell(&self, key: &GroupKey, why: String) {
        let Some(name) = self.state.a_pod_of(key) else { return };
        let (namespace, worker, notices) =
            (Arc::clone(&key.0), Arc::clone(&self.worker), self.notices.clone());
        // The owner of the pod is not kept, since it is seldom needed.
        tokio::spawn(async move {
            match lookup::pod(&worker.api, &namespace, &name).await {
                Ok(pod) => pod.iter().for_each(|pod| notices.refusal(pod, &why)),
                Err(error) => {
                    tracing::debug!(namespace = &*namespace, error = chain(error), "failed to look up a pod");
                }
            }
        });
    }
}

/// What a watch says besides objects.
fn said(what: &str, event: MetadataEvent) {
    match event {
        MetadataEvent::Outage(why) => {
            tracing::error!(what, why, "failed to watch; what was known stays in force");
        }
        MetadataEvent::Recovered => tracing::info!(what, "the watch goes on"),
        MetadataEvent::Rejected(RejectedObjects { count, reason }) => {
            tracing::warn!(what, count, reason, "metadata that cannot be used is passed over");
        }
        MetadataEvent::Applied(_) | MetadataEvent::Deleted(_) | MetadataEvent::Synced => {}
    }
}

/// Waits until services have changed, and not before that time.
async fn services_changed(known: &mut watch::Receiver<ServiceState>, not_before: Instant) -> Result<(), ()> {
    sleep_until(not_before.into()).await;
    known.changed().await.map_err(drop)
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

/// Pods that admission has marked and that have not ended.
fn pods() -> MetadataSelection {
    MetadataSelection {
        path: "/api/v1/pods".to_owned(),
        label_selector: Some(VARIABLES.key.to_owned()),
        field_selector: Some(ALIVE.to_owned()),
        labels: vec![VARIABLES.key.to_owned()],
        annotations: [SELECTION, PARTS, WARNINGS].map(|annotation| annotation.key.to_owned()).to_vec(),
    }
}

/// ConfigMaps that say they are managed.
fn config_maps() -> MetadataSelection {
    MetadataSelection {
        path: "/api/v1/configmaps".to_owned(),
        label_selector: Some(format!("{}={}", MANAGED_BY.0, MANAGED_BY.1)),
        field_selector: None,
        labels: Vec::new(),
        annotations: [SELECTION, CONTENT].map(|annotation| annotation.key.to_owned()).to_vec(),
    }
}
