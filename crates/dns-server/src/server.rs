//! `DnsServer`: the interface of the crate, and the owner of the worker threads.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use dns::{Client, Explanation, Name, QueryLogBatch, RecordType, ResolverOptions, Zone};
use netns_nft::{DNS_ARMED_TIME, GenerationRuns, Netns, NetnsId};
use support::lock;

use crate::arming::Arming;
use crate::asked::Asked;
use crate::command::{Command, CommandSender, WorkerReport};
use crate::handover::{ADDRESSES_MAX, SharedPod};
use crate::pod_sockets::{OpenError, PodSockets};
use crate::probe::Probe;
use crate::report::DnsReport;
use crate::served_pod::ServedPod;
use crate::worker;

/// The time in which a worker must reply.
const REPLY_TIMEOUT: Duration = Duration::from_secs(1);
/// The time in which a query has an answer: a lookup at upstreams takes at most 4.5 s.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(6);
/// The interval at which the end of pending queries is checked.
const DRAIN_INTERVAL: Duration = Duration::from_millis(20);

/// The settings of the server.
#[derive(Debug, Clone)]
pub struct Options {
    /// The number of worker threads. Each pod is served by one of them.
    pub workers: usize,
    /// The priority of Portico's NAT chain in pods: TCP is redirected before it.
    pub nat_priority: i32,
    /// The settings of the resolver of each thread.
    pub resolver: ResolverOptions,
    /// Whether another process serves pods until `take_ownership`.
    pub has_predecessor: bool,
}

/// A pod to serve.
#[derive(Debug, Clone)]
pub struct DnsPod {
    /// The pod as a client of the resolver.
    pub client: Arc<Client>,
    /// The DNS addresses whose queries are redirected to the server.
    pub servers: Vec<IpAddr>,
    /// The changes of the nf_tables generation by the server.
    pub generations: Arc<GenerationRuns>,
}

/// Where a pod is served.
#[derive(Debug)]
struct Placement {
    worker: usize,
    servers: Vec<IpAddr>,
    client: Arc<Client>,
}

/// The server.
#[derive(Debug)]
pub struct DnsServer {
    nat_priority: i32,
    workers: Vec<CommandSender>,
    placements: Mutex<HashMap<NetnsId, Placement>>,
    /// The names of the cluster, after the initial sync.
    zone: Mutex<Option<Zone>>,
    /// Sockets of a predecessor that no pod has taken yet.
    inherited: Mutex<HashMap<NetnsId, SharedPod>>,
}

impl DnsServer {
    /// Starts the worker threads.
    ///
    /// # Errors
    /// If a thread or its event queue cannot be created.
    pub fn start(options: &Options) -> io::Result<Self> {
        let is_owner = !options.has_predecessor;
        let start = |number| worker::start(number, options.resolver.clone(), is_owner);
        Ok(Self {
            nat_priority: options.nat_priority,
            workers: (0..options.workers.max(1)).map(start).collect::<io::Result<_>>()?,
            placements: Mutex::default(),
            zone: Mutex::default(),
            inherited: Mutex::default(),
        })
    }

    /// Replaces the names of the cluster. Pods are served from the first call on.
    pub fn set_zone(&self, zone: &Zone) {
        *lock(&self.zone) = Some(zone.clone());
        for worker in &self.workers {
            worker.send(Command::SetZone(zone.clone()));
        }
    }

    /// Serves a pod, or replaces what is known about it.
    ///
    /// # Errors
    /// If the sockets or the table cannot be created.
    pub fn open_pod(&self, netns: &Netns, mut pod: DnsPod) -> Result<(), OpenError> {
        let id = netns.id();
        pod.servers.truncate(ADDRESSES_MAX);
        {
            let mut placements = lock(&self.placements);
            if let Some(placement) = placements.get_mut(&id) {
                if placement.servers == pod.servers {
                    placement.client = Arc::clone(&pod.client);
                    self.send(placement.worker, Command::SetClient(id, pod.client))?;
                    return Ok(());
                }
                self.send(placement.worker, Command::Close(id))?;
                placements.remove(&id);
            }
        }
        let inherited = lock(&self.inherited).remove(&id).filter(|shared| shared.servers == pod.servers);
        let inherited = inherited.and_then(SharedPod::into_sockets);
        let is_adopted = inherited.is_some();
        let sockets = match inherited {
            Some(sockets) => sockets,
            None => PodSockets::open(netns, &pod.servers, self.nat_priority)?,
        };
        let (servers, client) = (pod.servers.clone(), Arc::clone(&pod.client));
        let served = served_pod(netns, pod, sockets, is_adopted).map_err(OpenError::Sockets)?;
        let worker = self.place(id, servers, client);
        self.send(worker, Command::Open(Box::new(served)))
    }

    /// Stops serving a pod. The portal of the cluster's DNS serves it from then on.
    pub fn close_pod(&self, netns: NetnsId) {
        lock(&self.inherited).remove(&netns);
        if let Some(placement) = lock(&self.placements).remove(&netns) {
            let _ = self.send(placement.worker, Command::Close(netns));
        }
    }

    /// Places a pod on the worker with the fewest pods.
    fn place(&self, netns: NetnsId, servers: Vec<IpAddr>, client: Arc<Client>) -> usize {
        let mut placements = lock(&self.placements);
        let pods_of = |worker: usize| placements.values().filter(|placed| placed.worker == worker).count();
        let worker = (0..self.workers.len()).min_by_key(|worker| pods_of(*worker)).unwrap_or_default();
        placements.insert(netns, Placement { worker, servers, client });
        worker
    }

    fn send(&self, worker: usize, command: Command) -> Result<(), OpenError> {
        let is_sent = self.workers.get(worker).is_some_and(|worker| worker.send(command));
        if is_sent { Ok(()) } else { Err(OpenError::Stopped) }
    }

    /// Returns the state. A thread that does not reply in time is omitted.
    pub fn report(&self) -> DnsReport {
        let mut report = DnsReport::default();
        for WorkerReport { pods, totals, connections, exchange_counters, usage, pending: _ } in
            self.worker_reports()
        {
            report.pods.extend(pods);
            report.totals.add(&totals);
            report.connections += connections;
            report.exchange_counters.add(&exchange_counters);
            report.exchanges += usage.exchanges;
            report.pending += usage.pending;
            report.cache_entries += usage.cache_entries;
            report.cache_bytes += usage.cache_bytes;
        }
        report.pods.sort_by_key(|pod| pod.netns_inode);
        report
    }

    fn worker_reports(&self) -> Vec<WorkerReport> {
        let request = |worker: &CommandSender| {
            let (reply, report) = sync_channel(1);
            worker.send(Command::Report(reply));
            report
        };
        let reports: Vec<_> = self.workers.iter().map(request).collect();
        reports.into_iter().filter_map(|report| report.recv_timeout(REPLY_TIMEOUT).ok()).collect()
    }

    /// Returns the identity of a network namespace that the server serves, by its inode.
    #[must_use]
    pub fn netns_of(&self, inode: u64) -> Option<NetnsId> {
        lock(&self.placements).keys().copied().find(|netns| netns.inode == inode)
    }

    /// Explains the answer of the zone to a question of a pod; without a pod, of one that sees all services. None: the
    /// initial sync is not complete.
    #[must_use]
    pub fn explain(&self, netns: Option<NetnsId>, name: &Name, kind: RecordType) -> Option<Explanation> {
        let client_of =
            |netns| lock(&self.placements).get(&netns).map(|placement| Arc::clone(&placement.client));
        let client = netns.and_then(client_of).unwrap_or_default();
        let zone = lock(&self.zone).clone()?;
        Some(zone.explain(&client, name, kind))
    }

    /// Answers a query as if a pod had sent it. It counts as a query of the pod. None: the pod is not served, or the
    /// thread does not answer.
    #[must_use]
    pub fn ask(&self, netns: NetnsId, name: &Name, kind: RecordType) -> Option<Asked> {
        let (reply, asked) = sync_channel(1);
        self.send(self.worker_of(netns)?, Command::Ask(netns, name.clone(), kind, reply)).ok()?;
        asked.recv_timeout(ANSWER_TIMEOUT).ok()
    }

    /// Returns the queries of a pod since the last call, and records them from now on; recording ends if this is not
    /// called for 5 s. None: the pod is not served, or the thread does not reply.
    #[must_use]
    pub fn take_queries(&self, netns: NetnsId) -> Option<QueryLogBatch> {
        let (reply, batch) = sync_channel(1);
        self.send(self.worker_of(netns)?, Command::TakeQueries(netns, reply)).ok()?;
        batch.recv_timeout(REPLY_TIMEOUT).ok()
    }

    fn worker_of(&self, netns: NetnsId) -> Option<usize> {
        lock(&self.placements).get(&netns).map(|placement| placement.worker)
    }

    /// Sends duplicates of all sockets to another process, over a socket pair of type SOCK_SEQPACKET.
    ///
    /// # Errors
    /// If the other process does not receive them.
    pub fn share(&self, socket: BorrowedFd<'_>) -> io::Result<()> {
        for worker in &self.workers {
            let (reply, pods) = sync_channel(1);
            worker.send(Command::Share(reply));
            for pod in pods.recv_timeout(REPLY_TIMEOUT).unwrap_or_default() {
                pod.send(socket)?;
            }
        }
        Ok(())
    }

    /// Receives the sockets of another process, until that closes its end. Pods that are opened later take them.
    ///
    /// # Errors
    /// If a message is malformed. The pods that were received before are kept.
    pub fn inherit(&self, socket: BorrowedFd<'_>) -> io::Result<()> {
        while let Some(pod) = SharedPod::receive(socket)? {
            lock(&self.inherited).insert(pod.netns, pod);
        }
        Ok(())
    }

    /// Renews the redirects from now on, since the predecessor has stopped. Sockets that no pod has taken are closed.
    pub fn take_ownership(&self) {
        lock(&self.inherited).clear();
        for worker in &self.workers {
            worker.send(Command::TakeOwnership);
        }
    }

    /// Receives no more queries, and waits until those that are pending are answered, at most for the grace period. If
    /// this process is the last one, the portal of the cluster's DNS serves pods from the start of this; otherwise a
    /// successor with the same sockets does.
    pub fn drain(&self, is_last: bool, grace_period: Duration) {
        let end = Instant::now() + grace_period;
        for worker in &self.workers {
            worker.send(if is_last { Command::Disarm } else { Command::StopAccepting });
        }
        loop {
            thread::sleep(DRAIN_INTERVAL);
            if Instant::now() >= end || self.worker_reports().iter().all(|report| report.pending == 0) {
                break;
            }
        }
        // A table exists as long as any process has its socket open.
        for (netns, placement) in lock(&self.placements).drain() {
            let _ = self.send(placement.worker, Command::Close(netns));
        }
        let _ = self.worker_reports();
    }
}

fn served_pod(netns: &Netns, pod: DnsPod, sockets: PodSockets, is_adopted: bool) -> io::Result<ServedPod> {
    let DnsPod { client, servers: _, generations } = pod;
    let PodSockets { addresses, probe, table, creation } = sockets;
    if let Some(span) = creation {
        generations.record(span);
    }
    let file: OwnedFd = netns.as_fd().try_clone_to_owned()?;
    Ok(ServedPod {
        id: netns.id(),
        netns: file,
        client,
        arming: Arming::new(addresses.len(), DNS_ARMED_TIME),
        addresses,
        probe: Probe::new(probe, fastrand::u128(..))?,
        table,
        is_adopted,
        error: None,
        generations,
        sources: Vec::new(),
        connections: 0,
    })
}
