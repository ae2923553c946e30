//! The commands of the handle: pods that come and go, a new zone, a handover, and the report.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Instant;

use dns::{Client, Zone};
use netns_nft::NetnsId;
use rustix::event::epoll::{self, EventData, EventFlags};

use super::{PendingReply, Source, Worker};
use crate::command::{Command, WorkerReport};
use crate::handover::SharedPod;
use crate::report::DnsPodReport;
use crate::served_pod::ServedPod;
use crate::slab::Key;

impl Worker {
    pub(super) fn execute_command(&mut self, command: Command, now: Instant) {
        // A receiver of a reply may have timed out, so errors of `send` are ignored.
        match command {
            Command::SetZone(zone) => self.set_zone(zone, now),
            Command::Open(pod) => self.open_pod(*pod, now),
            Command::SetClient(netns, client) => self.set_client(netns, client),
            Command::Close(netns) => self.close_pod(netns),
            Command::TakeOwnership => self.take_ownership(now),
            Command::Share(reply) => {
                let _ = reply.send(self.pods.values().filter_map(|pod| SharedPod::of(pod).ok()).collect());
            }
            Command::Disarm => self.disarm(now),
            Command::StopAccepting => self.stop_accepting(),
            Command::Report(reply) => drop(reply.send(self.report(now))),
            Command::Ask(netns, name, kind, reply) => self.ask(netns, &name, kind, reply),
            Command::TakeQueries(netns, reply) => drop(reply.send(self.take_queries(netns, now))),
        }
    }

    fn set_zone(&mut self, zone: Zone, now: Instant) {
        self.resolver.set_zone(zone);
        if !std::mem::replace(&mut self.has_zone, true) {
            let pods: Vec<NetnsId> = self.pods.keys().copied().collect();
            pods.into_iter().for_each(|netns| self.start_pod(netns, now));
        }
    }

    fn open_pod(&mut self, pod: ServedPod, now: Instant) {
        let netns = pod.id;
        self.close_pod(netns);
        self.clients.insert(pod.client.id, netns);
        self.pods.insert(netns, pod);
        if self.has_zone {
            self.start_pod(netns, now);
        }
    }

    /// Accepts the queries of a pod, and arms its redirect. Until then nothing leads to the sockets, or a predecessor
    /// reads from them.
    fn start_pod(&mut self, netns: NetnsId, now: Instant) {
        if let Err(error) = self.watch_pod(netns) {
            tracing::warn!(netns = netns.inode, %error, "failed to wait for DNS sockets of pod");
            return self.close_pod(netns);
        }
        // The redirect of an adopted pod is armed, and its predecessor still renews it.
        if self.is_owner || self.pods.get(&netns).is_some_and(|pod| !pod.is_adopted) {
            self.arm_pod(netns, now);
        }
    }

    fn arm_pod(&mut self, netns: NetnsId, now: Instant) {
        let Some(pod) = self.pods.get_mut(&netns) else { return };
        let before = pod.arming.deadline();
        let after = if pod.is_adopted {
            pod.arming.adopt(now);
            pod.arming.deadline()
        } else {
            let steps = pod.arming.start(now);
            pod.execute(steps, now)
        };
        self.set_timer(netns, before, after);
    }

    fn watch_pod(&mut self, netns: NetnsId) -> rustix::io::Result<()> {
        let Self { pods, sources, epoll, .. } = self;
        let Some(pod) = pods.get_mut(&netns) else { return Ok(()) };
        let mut add = |source: Source, socket: &dyn AsFd| {
            let key = sources.insert(source);
            pod.sources.push(key);
            epoll::add(&*epoll, socket, EventData::new_u64(key.number()), EventFlags::IN)
        };
        for (index, address) in pod.addresses.iter().enumerate() {
            add(Source::Datagram(netns, index), &address.datagram)?;
            add(Source::Listener(netns, index), &address.listener)?;
        }
        add(Source::Probe(netns), &pod.probe)
    }

    /// Stops waiting for a pod's sockets. Another process can have them open, so closing them is not sufficient.
    fn unwatch_pod(&mut self, netns: NetnsId) {
        let Some(pod) = self.pods.get_mut(&netns) else { return };
        for address in &pod.addresses {
            let _ = epoll::delete(&self.epoll, &address.datagram);
            let _ = epoll::delete(&self.epoll, &address.listener);
        }
        let _ = epoll::delete(&self.epoll, &pod.probe);
        for key in std::mem::take(&mut pod.sources) {
            self.sources.remove(key);
        }
        if let Some(at) = pod.arming.deadline() {
            self.timers.remove(&(at, netns));
        }
    }

    fn set_client(&mut self, netns: NetnsId, client: Arc<Client>) {
        if let Some(pod) = self.pods.get_mut(&netns) {
            pod.client = client;
        }
    }

    fn close_pod(&mut self, netns: NetnsId) {
        self.unwatch_pod(netns);
        let Some(pod) = self.pods.remove(&netns) else { return };
        self.clients.remove(&pod.client.id);
        self.resolver.remove_client(pod.client.id);
        let is_waiting = |reply: &PendingReply| match reply {
            PendingReply::Datagram { netns: of, .. } => *of == netns,
            PendingReply::Connection(key) => {
                matches!(self.sources.get(*key), Some(Source::Connection(c)) if c.netns == netns)
            }
            PendingReply::Command(query) => query.netns == netns,
        };
        // The resolver does not respond to queries of a client that was removed.
        let waiting: Vec<Key> =
            self.pending.iter().filter(|(_, reply)| is_waiting(reply)).map(|(key, _)| key).collect();
        waiting.into_iter().for_each(|key| drop(self.pending.remove(key)));
        let is_of_pod = |source: &Source| matches!(source, Source::Connection(c) if c.netns == netns);
        let connections: Vec<Key> =
            self.sources.iter().filter(|(_, source)| is_of_pod(source)).map(|(key, _)| key).collect();
        connections.into_iter().for_each(|key| drop(self.sources.remove(key)));
    }

    fn take_ownership(&mut self, now: Instant) {
        if !std::mem::replace(&mut self.is_owner, true) && self.has_zone {
            let pods: Vec<NetnsId> = self.pods.keys().copied().collect();
            for netns in pods {
                if self.pods.get(&netns).is_some_and(|pod| pod.is_adopted) {
                    self.arm_pod(netns, now);
                }
            }
        }
    }

    /// Ends the redirects; queries that are on their way are still answered.
    fn disarm(&mut self, now: Instant) {
        for (netns, pod) in &mut self.pods {
            if let Some(at) = pod.arming.deadline() {
                self.timers.remove(&(at, *netns));
            }
            let steps = pod.arming.stop();
            pod.execute(steps, now);
        }
    }

    /// Leaves new queries to another process, which has the same sockets.
    fn stop_accepting(&mut self) {
        let pods: Vec<NetnsId> = self.pods.keys().copied().collect();
        pods.into_iter().for_each(|netns| self.unwatch_pod(netns));
    }

    fn report(&self, now: Instant) -> WorkerReport {
        let pods = self.pods.values().map(|pod| DnsPodReport {
            netns_inode: pod.id.inode,
            servers: pod.addresses.iter().map(|address| address.server).collect(),
            armed: pod.arming.is_armed(now),
            error: pod.error.clone(),
            counters: self.resolver.counters(pod.client.id),
        });
        WorkerReport {
            pods: pods.collect(),
            totals: self.resolver.totals(),
            connections: self.pods.values().map(|pod| pod.connections).sum(),
            exchange_counters: self.resolver.exchange_counters(),
            usage: self.resolver.usage(),
            pending: self.pending.len(),
        }
    }
}
