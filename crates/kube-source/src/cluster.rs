//! A Kubernetes API server, watched: all that a consumer needs of it, and then every change.
//!
//! ```text
//! resource ─ follow (list, then watch; one task each) ─► object (JSON to core types) ─► collector ─► events
//! ```
//! Nothing of an object is kept but what it became, its key and its version. What a server can do wrong is `follow`'s
//! to survive; what is to be told is `collector`'s to decide. What must not go in here: what an object means.

mod answer;
mod client;
mod collector;
mod decoder;
mod fault;
mod follow;
mod head;
mod items;
mod metadata_watch;
mod object;
mod object_meta;
mod probe;
mod refusals;
mod resource;
mod retry;
mod said;
mod table;
mod trouble;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::mpsc::{Sender, channel};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

pub use client::{ClientError, client};
pub use metadata_watch::{MetadataEvent, MetadataSelection, watch_metadata};
pub use object::ObjectKey;
pub use object_meta::{ObjectMeta, OwnerReference};
pub use probe::{ProbeError, probe};
pub use resource::WatchScope;

use crate::cluster::collector::Collector;
use crate::cluster::follow::Follower;
use crate::event::Event;
use crate::objects::metadata::Names;

/// How many objects wait to be told at most; whoever does not take them slows the server down.
const QUEUE_LEN_MAX: usize = 256;

/// How long things may take with an API server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchOptions {
    /// How long the server is asked to keep a watch; up to a quarter more, so that not all nodes come at once.
    pub watch_timeout_s: u32,
    /// How much longer it may take to end one, before the connection counts as dead.
    pub watch_grace: Duration,
    /// How long it may take to begin an answer, or to go on with a list.
    pub response_timeout: Duration,
    /// How long a watch must go well to be trusted again after trouble.
    pub stable_after: Duration,
    /// The pause after a first failure; it doubles with each further one.
    pub backoff_min: Duration,
    /// The longest pause.
    pub backoff_max: Duration,
    /// How long the start waits for service ranges, which a server need not have.
    pub service_cidrs_timeout: Duration,
}

impl Default for WatchOptions {
    fn default() -> Self {
        Self {
            watch_timeout_s: 240,
            watch_grace: Duration::from_secs(15),
            response_timeout: Duration::from_secs(30),
            stable_after: Duration::from_secs(2),
            backoff_min: Duration::from_millis(200),
            backoff_max: Duration::from_secs(30),
            service_cidrs_timeout: Duration::from_secs(2),
        }
    }
}

/// Tells what an API server has, and every change, until the receiver or the future is dropped.
pub async fn watch_cluster(client: kube::Client, watched: WatchScope, tell: Sender<Event>) {
    watch_cluster_with(client, watched, WatchOptions::default(), tell).await;
}

/// The same with other limits.
pub async fn watch_cluster_with(
    client: kube::Client,
    watched: WatchScope,
    limits: WatchOptions,
    tell: Sender<Event>,
) {
    let resources = watched.resources();
    let mut collector = Collector::new(&resources);
    let names = Arc::new(Mutex::new(Names::default()));
    let (say, mut heard) = channel(QUEUE_LEN_MAX);
    // The tasks end with the set.
    let mut tasks = JoinSet::new();
    for (source, resource) in resources.into_iter().enumerate() {
        let (client, limits, names, say) = (client.clone(), limits.clone(), names.clone(), say.clone());
        tasks.spawn(Follower::new(client, resource, source, limits, names, say).run());
    }
    drop(say);
    let mut said = Vec::new();
    let mut ranges_until = None;
    loop {
        let ready = tokio::select! {
            ready = heard.recv_many(&mut said, QUEUE_LEN_MAX) => Some(ready),
            () = until(ranges_until) => None,
            () = tell.closed() => return,
        };
        if ready == Some(0) {
            return;
        }
        for (source, said) in said.drain(..) {
            collector.step(source, said);
        }
        if collector.waits_for_ranges() {
            let until = *ranges_until.get_or_insert_with(|| Instant::now() + limits.service_cidrs_timeout);
            if ready.is_none() && Instant::now() >= until {
                collector.do_without_ranges();
            }
        } else {
            ranges_until = None;
        }
        for event in collector.events() {
            if tell.send(event).await.is_err() {
                return;
            }
        }
    }
}

/// Waits until then; for ever, if it is not said when.
async fn until(time: Option<Instant>) {
    match time {
        Some(time) => {
            let _ = timeout_at(time, std::future::pending::<()>()).await;
        }
        None => std::future::pending().await,
    }
}
