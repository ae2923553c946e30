//! A worker thread: waits for the sockets of its pods, and answers.
//!
//! ```text
//! epoll ─► datagrams, connections ─► Resolver ─► response, or Action ─► upstream sockets ─► Resolver ─► response
//!      └─► probes, commands, timers
//! ```
//! A query for a name of the cluster needs no allocation for its task and no other thread. If the thread hangs, the
//! redirects of its pods expire.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::time::{Duration, Instant};

use dns::{ExchangeId, Resolver, ResolverOptions};
use netns_nft::NetnsId;
use nix::sys::socket::{SockaddrIn, SockaddrIn6};
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};
use rustix::io::Errno;

use crate::asked::AskedQuery;
use crate::command::{Command, CommandSender};
use crate::datagram_batch::DatagramBatch;
use crate::served_pod::ServedPod;
use crate::slab::{Key, Slab};
use crate::tcp_connection::TcpConnection;
use crate::upstream_socket::{DATAGRAM_BYTES, UpstreamSocket};

mod asks;
mod commands;
mod queries;
mod upstreams;

/// The number of events that are handled at a time.
const EVENTS: usize = 256;
/// The data of the event that wakes the thread for a command.
const WAKE: u64 = u64::MAX;
/// The longest wait, so that idle connections are closed.
const WAIT_MAX: Duration = Duration::from_secs(1);

/// A source of events.
#[derive(Debug)]
enum Source {
    /// The UDP socket of a pod's DNS address.
    Datagram(NetnsId, usize),
    /// The TCP listener of a pod's DNS address.
    Listener(NetnsId, usize),
    /// The client socket of a pod's probes.
    Probe(NetnsId),
    Connection(TcpConnection),
    Upstream(UpstreamSocket),
}

/// A query that waits for an upstream.
#[derive(Debug)]
enum PendingReply {
    Datagram {
        netns: NetnsId,
        address: usize,
        peer: SocketAddr,
    },
    Connection(Key),
    /// A query of the agent itself.
    Command(Box<AskedQuery>),
}

/// The state of the thread.
struct Worker {
    epoll: OwnedFd,
    /// The thread's own network namespace.
    home: File,
    commands: Receiver<Command>,
    wake: Arc<OwnedFd>,
    resolver: Resolver,
    has_zone: bool,
    /// Whether this process renews the redirects. A predecessor does it until the end of a handover.
    is_owner: bool,
    pods: HashMap<NetnsId, ServedPod>,
    /// The network namespace of a client, by its ID.
    clients: HashMap<u64, NetnsId>,
    sources: Slab<Source>,
    pending: Slab<PendingReply>,
    exchanges: HashMap<ExchangeId, Key>,
    /// When the query log of a client was read last.
    logged: HashMap<u64, Instant>,
    /// When the arming of a pod is due.
    timers: BTreeSet<(Instant, NetnsId)>,
    /// When idle connections are closed next.
    idle_at: Instant,
    v4: DatagramBatch<SockaddrIn>,
    v6: DatagramBatch<SockaddrIn6>,
    /// The response that is being written.
    response: Vec<u8>,
    /// A message of an upstream.
    received: Vec<u8>,
}

/// Starts a worker thread, which ends with the last sender of commands.
pub(crate) fn start(number: usize, options: ResolverOptions, is_owner: bool) -> io::Result<CommandSender> {
    let (sender, commands) = channel();
    let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(&epoll, &wake, EventData::new_u64(WAKE), EventFlags::IN)?;
    let command_sender = CommandSender::new(sender, Arc::clone(&wake));
    let run = move || match Worker::new(epoll, commands, wake, options, is_owner) {
        Ok(mut worker) => worker.run(),
        Err(error) => tracing::error!(%error, "failed to start DNS thread"),
    };
    std::thread::Builder::new().name(format!("dns-{number}")).spawn(run)?;
    Ok(command_sender)
}

impl Worker {
    fn new(
        epoll: OwnedFd,
        commands: Receiver<Command>,
        wake: Arc<OwnedFd>,
        options: ResolverOptions,
        is_owner: bool,
    ) -> io::Result<Self> {
        Ok(Self {
            epoll,
            home: File::open("/proc/thread-self/ns/net")?,
            commands,
            wake,
            resolver: Resolver::new(options, fastrand::u64(..)),
            has_zone: false,
            is_owner,
            pods: HashMap::new(),
            clients: HashMap::new(),
            sources: Slab::default(),
            pending: Slab::default(),
            exchanges: HashMap::new(),
            logged: HashMap::new(),
            timers: BTreeSet::new(),
            idle_at: Instant::now() + WAIT_MAX,
            v4: DatagramBatch::new(),
            v6: DatagramBatch::new(),
            response: Vec::new(),
            received: vec![0; DATAGRAM_BYTES],
        })
    }

    /// Runs until all handles are dropped, or the thread cannot return to its network namespace.
    fn run(&mut self) {
        let mut events = Vec::with_capacity(EVENTS);
        loop {
            let timeout = Timespec::try_from(self.wait_time(Instant::now())).ok();
            match epoll::wait(&self.epoll, spare_capacity(&mut events), timeout.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => {
                    return tracing::error!(%error, "DNS thread stopped: failed to wait for sockets");
                }
            }
            let now = Instant::now();
            // Without events, all handles may have been dropped.
            let mut has_commands = events.is_empty();
            for event in events.drain(..) {
                match event.data.u64() {
                    WAKE => has_commands = true,
                    number => self.handle_source(Key::from_number(number), now),
                }
            }
            if has_commands && !self.receive_commands(now) {
                return;
            }
            self.run_timers(now);
            self.log_limits();
            if let Err(error) = self.execute_actions(now) {
                return tracing::error!(%error, "DNS thread stopped: it cannot return to the node's netns");
            }
        }
    }

    /// Returns the time until something is due.
    fn wait_time(&self, now: Instant) -> Duration {
        let timer = self.timers.first().map(|(at, _)| *at);
        let due = [self.resolver.deadline(), timer].into_iter().flatten().min();
        due.map_or(WAIT_MAX, |at| at.saturating_duration_since(now)).min(WAIT_MAX)
    }

    fn handle_source(&mut self, key: Key, now: Instant) {
        match self.sources.get_mut(key) {
            Some(Source::Datagram(netns, address)) => {
                let (netns, address) = (*netns, *address);
                self.serve_datagrams(netns, address, now);
            }
            Some(Source::Listener(netns, address)) => {
                let (netns, address) = (*netns, *address);
                self.accept(netns, address, now);
            }
            Some(Source::Probe(netns)) => {
                let netns = *netns;
                self.confirm_probes(netns, now);
            }
            Some(Source::Connection(_)) => self.advance_connection(key, now),
            Some(Source::Upstream(_)) => self.advance_upstream(key, now),
            None => {}
        }
    }

    /// Adds a source with a socket of its own to the event queue.
    fn watch(&mut self, source: Source, flags: EventFlags) -> io::Result<Key> {
        let key = self.sources.insert(source);
        let socket = match self.sources.get(key) {
            Some(Source::Connection(connection)) => connection.as_fd(),
            Some(Source::Upstream(upstream)) => upstream.as_fd(),
            _ => return Err(io::ErrorKind::InvalidInput.into()),
        };
        if let Err(error) = epoll::add(&self.epoll, socket, EventData::new_u64(key.number()), flags) {
            self.sources.remove(key);
            return Err(error.into());
        }
        Ok(key)
    }

    /// Receives commands. Returns whether any handle is left.
    fn receive_commands(&mut self, now: Instant) -> bool {
        let _ = rustix::io::read(&self.wake, &mut [0; 8]);
        loop {
            match self.commands.try_recv() {
                Ok(command) => self.execute_command(command, now),
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    fn run_timers(&mut self, now: Instant) {
        while let Some((at, netns)) = self.timers.first().copied().filter(|(at, _)| *at <= now) {
            self.timers.remove(&(at, netns));
            if let Some(pod) = self.pods.get_mut(&netns) {
                let steps = pod.arming.due(now);
                let next = pod.execute(steps, now);
                self.timers.extend(next.map(|at| (at, netns)));
            }
        }
        if self.resolver.deadline().is_some_and(|at| at <= now) {
            self.resolver.tick(now);
        }
        if self.idle_at <= now {
            self.idle_at = now + WAIT_MAX;
            self.close_idle_connections(now);
            self.end_unread_logs(now);
        }
    }

    /// Logs the pods that exceed a limit, each at most once a minute.
    fn log_limits(&mut self) {
        for notice in self.resolver.take_log() {
            let netns = self.clients.get(&notice.client).map_or(0, |netns| netns.inode);
            tracing::warn!(netns, count = notice.count, limit = ?notice.limit, "answered SERVFAIL: pod exceeds limit");
        }
    }

    fn confirm_probes(&mut self, netns: NetnsId, now: Instant) {
        let Some(pod) = self.pods.get_mut(&netns) else { return };
        let before = pod.arming.deadline();
        while let Some(address) = pod.probe.receive() {
            let steps = pod.arming.confirm(address, now);
            pod.execute(steps, now);
        }
        let after = pod.arming.deadline();
        self.set_timer(netns, before, after);
    }

    fn set_timer(&mut self, netns: NetnsId, before: Option<Instant>, after: Option<Instant>) {
        if let Some(at) = before.filter(|_| before != after) {
            self.timers.remove(&(at, netns));
        }
        self.timers.extend(after.map(|at| (at, netns)));
    }
}
