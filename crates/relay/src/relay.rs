//! `Relay`: the interface of the crate, and the owner of the worker threads.
//!
//! A caller passes the portals of each view in, opens and closes network namespaces, and receives reports.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use netns_nft::{Netns, NetnsId, Socket};
use proxy_core::portal::{PortalKey, Portals, ServiceFilter};
use support::lock;
use thiserror::Error;
use tokio::sync::mpsc::Sender;
use tokio::sync::watch;

use crate::limits::Limits;
use crate::listener_sockets::{ListenerSockets, open_listeners};
use crate::load_balancer::{BackendState, LoadBalancer};
use crate::netns_socket_factory::NetnsSocketFactory;
use crate::pipe::{PIPE_BYTES, PIPES_MAX};
use crate::pod_relay::PodRelay;
use crate::report::{BackendReport, NetnsReport, PortalReport, RelayReport, TrafficTotals};
use crate::served_netns::{PodNetns, ServedNetns};
use crate::socket_pool::SocketPool;
use crate::worker::{Worker, WorkerCommand};

mod node;

/// The settings of the relay.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// The number of worker threads.
    pub workers: usize,
    /// The port on which the relay listens in each network namespace.
    pub port: u16,
    /// The maximum number of open connections and flows. One pod can have a quarter of them.
    pub connections_max: usize,
    /// The maximum number of bytes in the socket buffers of stalled connections. Beyond it, connections of the pod that
    /// holds the most are reset.
    pub buffer_bytes_max: usize,
}

/// A connection arrived that the kernel could have served or rejected itself: to a portal that is not in relay mode,
/// or to an unused port of a service's address. Uses of one address are reported at most every 100 ms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortalUse {
    /// The network namespace of the client.
    pub netns: NetnsId,
    /// The original destination.
    pub key: PortalKey,
}

/// The reason why the relay cannot start, or cannot listen in a network namespace.
#[derive(Debug, Error)]
pub enum Error {
    /// A thread could not be started.
    #[error("failed to start relay threads")]
    Start(#[source] io::Error),
    /// The network namespace could not be entered.
    #[error("failed to enter netns for relay listener")]
    Enter(#[source] netns_nft::Error),
    /// The port is in use at a loopback address of the node, or sockets are exhausted.
    #[error("failed to listen on port {port} at the loopback addresses of the node")]
    ListenOnNode {
        /// The port.
        port: u16,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The port is in use, or sockets are exhausted.
    #[error("failed to listen on relay port {port} in pod netns")]
    Listen {
        /// The port.
        port: u16,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

/// The relay.
#[derive(Debug)]
pub struct Relay {
    options: Options,
    factory: NetnsSocketFactory,
    workers: Vec<Worker>,
    limits: Arc<Limits>,
    views: Mutex<BTreeMap<ServiceFilter, watch::Sender<Portals>>>,
    pods: Mutex<HashMap<NetnsId, Arc<PodRelay>>>,
    /// The portals of the node.
    node_portals: watch::Sender<Portals>,
    /// The traffic of portals and network namespaces that were removed.
    removed_totals: Mutex<TrafficTotals>,
}

impl Relay {
    /// Starts the worker threads. `uses` receives the portals that are used on demand.
    ///
    /// # Errors
    /// If a thread cannot be started.
    pub fn start(options: Options, uses: &Sender<PortalUse>) -> Result<Self, Error> {
        let limits = Arc::new(Limits::new(&options));
        let pipes_max = options.buffer_bytes_max / PIPE_BYTES / options.workers.max(1);
        let pipes_max = pipes_max.clamp(1, PIPES_MAX);
        let worker = |number| Worker::start(number, Arc::clone(&limits), pipes_max, uses.clone());
        let workers = (0..options.workers.max(1)).map(worker).collect::<io::Result<_>>();
        let factory = NetnsSocketFactory::start().map_err(Error::Start)?;
        let workers = workers.map_err(Error::Start)?;
        Ok(Self {
            options,
            factory,
            workers,
            limits,
            views: Mutex::default(),
            node_portals: watch::Sender::default(),
            pods: Mutex::default(),
            removed_totals: Mutex::default(),
        })
    }

    /// Replaces the portals of a view.
    pub fn set_portals(&self, filter: &ServiceFilter, portals: Portals) {
        let mut views = lock(&self.views);
        match views.get(filter) {
            Some(sender) => drop(sender.send_replace(portals)),
            None => drop(views.insert(filter.clone(), watch::channel(portals).0)),
        }
    }

    /// Removes a view that no pod has any more.
    pub fn remove_view(&self, filter: &ServiceFilter) {
        lock(&self.views).remove(filter);
    }

    /// Listens in a network namespace for its pod, and for guests of the pod if it has any. Has no effect if the relay
    /// listens there already with the same view and guests.
    ///
    /// # Errors
    /// If the network namespace cannot be entered, or its port is in use.
    pub fn open_netns(&self, netns: &Netns, filter: &ServiceFilter, has_guests: bool) -> Result<(), Error> {
        // The lock is released before `close_netns` acquires it.
        let is_open = lock(&self.pods).get(&netns.id()).map(|pod| pod.netns.is_pod(filter, has_guests));
        match is_open {
            Some(true) => return Ok(()),
            Some(false) => self.close_netns(netns.id()),
            None => {}
        }
        let (port, count) = (self.options.port, self.workers.len());
        // All sockets are opened in one visit, since entering is the expensive part.
        let opened = netns.within(|| (open_listeners(port, count), Socket::open())).map_err(Error::Enter)?;
        let listeners = opened.0.map_err(|source| Error::Listen { port, source })?;
        let conntrack = Mutex::new(opened.1.map_err(Error::Enter)?);
        let file = netns.as_fd().try_clone_to_owned().map_err(|source| Error::Listen { port, source })?;
        let sockets = SocketPool::new(file, self.factory.clone());
        let portals = {
            let mut views = lock(&self.views);
            let sender = views.entry(filter.clone()).or_insert_with(|| watch::channel(Portals::default()).0);
            sender.subscribe()
        };
        let served = ServedNetns::Pod(PodNetns { filter: filter.clone(), has_guests, sockets, conntrack });
        self.listen(PodRelay::new(netns.id(), served, port, portals), listeners);
        Ok(())
    }

    /// Passes the listeners of a network namespace to the workers.
    fn listen(&self, pod: PodRelay, listeners: Vec<ListenerSockets>) {
        let mut pods = lock(&self.pods);
        // If another thread was faster, these sockets are closed, and the kernel moves their pending connections to
        // the sockets of the other.
        let Entry::Vacant(vacant) = pods.entry(pod.id) else { return };
        let pod = Arc::clone(vacant.insert(Arc::new(pod)));
        for (worker, sockets) in self.workers.iter().zip(listeners) {
            worker.send(WorkerCommand::OpenNetns(Arc::clone(&pod), sockets));
        }
    }

    /// Closes the listeners and all connections of a network namespace, since its sockets keep it alive.
    pub fn close_netns(&self, netns: NetnsId) {
        let mut pods = lock(&self.pods);
        if let Some(pod) = pods.remove(&netns) {
            *lock(&self.removed_totals) += pod.totals();
            self.workers.iter().for_each(|worker| worker.send(WorkerCommand::CloseNetns(netns)));
        }
    }

    /// Removes expired state, and evicts stalled connections beyond the limit. Call it regularly.
    pub fn gc(&self, now: Instant) {
        self.limits.stalls.enforce_limit(now);
        for pod in lock(&self.pods).values() {
            *lock(&self.removed_totals) += pod.gc(now);
        }
    }

    /// Closes all listeners, and waits for connections to end. Resets those that are left after the grace period.
    pub async fn shut_down(&self, grace_period: Duration) {
        self.workers.iter().for_each(|worker| worker.send(WorkerCommand::ShutDown));
        if tokio::time::timeout(grace_period, self.join_workers()).await.is_err() {
            self.workers.iter().for_each(|worker| worker.send(WorkerCommand::Abort));
            self.join_workers().await;
        }
        // The state holds file descriptors, which would keep network namespaces of deleted pods alive.
        lock(&self.pods).clear();
    }

    async fn join_workers(&self) {
        for worker in &self.workers {
            worker.join().await;
        }
    }

    /// Returns the current state and counters.
    pub fn report(&self, now: Instant) -> RelayReport {
        let pods = lock(&self.pods);
        let mut totals = *lock(&self.removed_totals);
        pods.values().for_each(|pod| totals += pod.totals());
        let mut namespaces: Vec<NetnsReport> = pods.values().map(|pod| netns_report(pod, now)).collect();
        namespaces.retain(|netns| !netns.portals.is_empty() || netns.pending > 0);
        namespaces.sort_by_key(|netns| netns.netns);
        RelayReport {
            connections: self.limits.connections(),
            over_limit: self.limits.refused().total(),
            refused: self.limits.refused(),
            evicted: self.limits.stalls.evicted(),
            unmatched: self.limits.unmatched(),
            totals,
            namespaces,
        }
    }
}

fn netns_report(pod: &PodRelay, now: Instant) -> NetnsReport {
    let portals = pod.portals.borrow().clone();
    let mut reports: Vec<(PortalKey, PortalReport)> = pod
        .load_balancers()
        .iter()
        .map(|(key, balancer)| (*key, portal_report(*key, balancer, &portals, now)))
        .collect();
    reports.sort_by_key(|(key, _)| *key);
    NetnsReport {
        netns: pod.id.inode,
        pending: pod.pending.load(Ordering::Relaxed),
        portals: reports.into_iter().map(|(_, report)| report).collect(),
    }
}

fn portal_report(key: PortalKey, balancer: &LoadBalancer, portals: &Portals, now: Instant) -> PortalReport {
    let mut backends: Vec<BackendReport> =
        balancer.backends().map(|(backend, state)| backend_report(*backend, state, now)).collect();
    backends.sort_by_key(|report| report.backend);
    PortalReport {
        portal: key.to_string(),
        service: portals.get(key).map(|portal| portal.service.to_string()),
        active: balancer.counters.active.load(Ordering::Relaxed),
        totals: balancer.counters.totals(),
        backends,
    }
}

fn backend_report(backend: SocketAddr, state: &BackendState, now: Instant) -> BackendReport {
    BackendReport {
        backend,
        active: state.load.connections,
        connections: state.connections,
        failures: state.failures,
        is_ejected: state.is_ejected(now),
        via_node: state.via_node,
        delay_us: state.load.delay_us,
    }
}
