//! `Command`: what the handle asks a worker thread to do, and the sender that wakes the thread.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{Sender, SyncSender};

use dns::{Client, ClientCounters, ExchangeCounters, Name, QueryLogBatch, RecordType, ResolverUsage, Zone};
use netns_nft::NetnsId;

use crate::asked::Asked;
use crate::handover::SharedPod;
use crate::report::DnsPodReport;
use crate::served_pod::ServedPod;

/// A command.
#[derive(Debug)]
pub(crate) enum Command {
    /// Answer with this zone from now on.
    SetZone(Zone),
    /// Serve a pod. The redirect is armed once there is a zone.
    Open(Box<ServedPod>),
    /// Replace what is known about a pod.
    SetClient(NetnsId, Arc<Client>),
    /// Stop serving a pod.
    Close(NetnsId),
    /// Renew the redirects of pods that a predecessor served.
    TakeOwnership,
    /// Send duplicates of all sockets.
    Share(SyncSender<Vec<SharedPod>>),
    /// End the redirects, and answer the queries that are on their way.
    Disarm,
    /// Accept no more queries: another process has the same sockets.
    StopAccepting,
    /// Send the state.
    Report(SyncSender<WorkerReport>),
    /// Answer a query as if a pod had sent it.
    Ask(NetnsId, Name, RecordType, SyncSender<Asked>),
    /// Send the queries of a pod since the last command, and record them from now on.
    TakeQueries(NetnsId, SyncSender<QueryLogBatch>),
}

/// The state of one worker.
#[derive(Debug, Default)]
pub(crate) struct WorkerReport {
    pub(crate) pods: Vec<DnsPodReport>,
    pub(crate) totals: ClientCounters,
    pub(crate) connections: usize,
    pub(crate) exchange_counters: ExchangeCounters,
    pub(crate) usage: ResolverUsage,
    /// The number of queries without a response.
    pub(crate) pending: usize,
}

/// Sends commands to one worker.
#[derive(Debug, Clone)]
pub(crate) struct CommandSender {
    commands: Sender<Command>,
    wake: Arc<OwnedFd>,
}

impl CommandSender {
    pub(crate) fn new(commands: Sender<Command>, wake: Arc<OwnedFd>) -> Self {
        Self { commands, wake }
    }

    /// Sends a command. Returns whether the thread is running.
    pub(crate) fn send(&self, command: Command) -> bool {
        let is_sent = self.commands.send(command).is_ok();
        // The counter of the event is full only if the thread is going to wake anyway.
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
        is_sent
    }
}
