//! The queries of clients: datagrams and connections, and the responses that upstreams delayed.

use std::net::{IpAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use dns::{AnswerSource, Client, Handling, Origin, Resolver, Transport};
use netns_nft::NetnsId;
use nix::sys::socket::{MsgFlags, SockaddrStorage, sendto};
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::net::{SocketFlags, accept_with};

use super::{PendingReply, Source, Worker};
use crate::datagram_batch::{DatagramBatch, PeerAddress};
use crate::pod_sockets::AddressSockets;
use crate::served_pod::ServedPod;
use crate::slab::{Key, Slab};
use crate::tcp_connection::{Interest, TcpConnection};

/// The maximum number of connections of one pod. Beyond it, the connection that was idle for longest is closed.
const CONNECTIONS_POD_MAX: usize = 64;
/// The maximum number of connections of a thread.
const CONNECTIONS_MAX: usize = 1_024;
/// The number of connections that are accepted at a time.
const ACCEPTS: usize = 16;
/// The time after which an idle connection is closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);

/// What a batch of datagrams needs of the worker.
struct DatagramContext<'a> {
    resolver: &'a mut Resolver,
    pending: &'a mut Slab<PendingReply>,
    pod: &'a ServedPod,
    address: usize,
    now: Instant,
}

impl DatagramContext<'_> {
    fn serve<S: PeerAddress>(mut self, batch: &mut DatagramBatch<S>, sockets: &AddressSockets) {
        let serve = |query: &[u8], peer: S, response: &mut Vec<u8>| {
            self.pod.probe.respond(query, response) || self.answer(query, &peer, sockets.server, response)
        };
        // The socket has no error that a retry would not meet again.
        let _ = batch.serve(sockets.datagram.as_fd(), serve);
    }

    fn answer(
        &mut self,
        query: &[u8],
        peer: &impl PeerAddress,
        server: IpAddr,
        response: &mut Vec<u8>,
    ) -> bool {
        let reply = PendingReply::Datagram { netns: self.pod.id, address: self.address, peer: peer.to_std() };
        let key = self.pending.insert(reply);
        let origin = Origin(key.number());
        let Self { resolver, pod, now, .. } = self;
        let handling = resolver.query(*now, &pod.client, server, Transport::Udp, origin, query, response);
        if handling != Handling::Pending {
            self.pending.remove(key);
        }
        matches!(handling, Handling::Respond(_))
    }
}

impl Worker {
    pub(super) fn serve_datagrams(&mut self, netns: NetnsId, address: usize, now: Instant) {
        let Self { resolver, pending, pods, v4, v6, .. } = self;
        let Some(pod) = pods.get(&netns) else { return };
        let Some(sockets) = pod.addresses.get(address) else { return };
        let context = DatagramContext { resolver, pending, pod, address, now };
        match sockets.server {
            IpAddr::V4(_) => context.serve(v4, sockets),
            IpAddr::V6(_) => context.serve(v6, sockets),
        }
    }

    pub(super) fn accept(&mut self, netns: NetnsId, address: usize, now: Instant) {
        for _ in 0..ACCEPTS {
            let Some(sockets) = self.pods.get(&netns).and_then(|pod| pod.addresses.get(address)) else {
                return;
            };
            let server = sockets.server;
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let Ok(socket) = accept_with(&sockets.listener, flags) else { return };
            self.make_room(netns);
            let connection = TcpConnection::new(TcpStream::from(socket), netns, server, now);
            if self.watch(Source::Connection(connection), EventFlags::IN).is_ok()
                && let Some(pod) = self.pods.get_mut(&netns)
            {
                pod.connections += 1;
            }
        }
    }

    /// Closes the connection that was idle for longest, if the pod or the thread has too many.
    fn make_room(&mut self, netns: NetnsId) {
        let of_pod = self.pods.get(&netns).map_or(0, |pod| pod.connections);
        let of_all: usize = self.pods.values().map(|pod| pod.connections).sum();
        if of_pod < CONNECTIONS_POD_MAX && of_all < CONNECTIONS_MAX {
            return;
        }
        // If the thread has too many, the pod with the most connections closes one.
        let largest = self.pods.values().max_by_key(|pod| pod.connections).map(|pod| pod.id);
        let from = if of_pod >= CONNECTIONS_POD_MAX { Some(netns) } else { largest };
        let connections = self.sources.iter().filter_map(|(key, source)| match source {
            Source::Connection(connection) if Some(connection.netns) == from => {
                Some((connection.active_at, key))
            }
            _ => None,
        });
        if let Some((_, key)) = connections.min() {
            self.close_connection(key);
        }
    }

    pub(super) fn close_idle_connections(&mut self, now: Instant) {
        let is_idle = |connection: &TcpConnection| {
            connection.pending == 0 && now.duration_since(connection.active_at) >= IDLE_TIMEOUT
        };
        let idle: Vec<Key> = self
            .sources
            .iter()
            .filter(|(_, source)| matches!(source, Source::Connection(connection) if is_idle(connection)))
            .map(|(key, _)| key)
            .collect();
        idle.into_iter().for_each(|key| self.close_connection(key));
    }

    fn close_connection(&mut self, key: Key) {
        if let Some(Source::Connection(connection)) = self.sources.remove(key)
            && let Some(pod) = self.pods.get_mut(&connection.netns)
        {
            pod.connections = pod.connections.saturating_sub(1);
        }
    }

    /// Reads queries from a connection, answers them, and writes responses.
    pub(super) fn advance_connection(&mut self, key: Key, now: Instant) {
        let Some(Source::Connection(connection)) = self.sources.get_mut(key) else { return };
        if connection.write().and_then(|()| connection.read(now)).is_err() {
            return self.close_connection(key);
        }
        self.answer_connection(key, now);
    }

    /// Answers the complete queries of a connection.
    fn answer_connection(&mut self, key: Key, now: Instant) {
        let Self { resolver, pending, pods, sources, response, .. } = self;
        let Some(Source::Connection(connection)) = sources.get_mut(key) else { return };
        let Some(client) = pods.get(&connection.netns).map(|pod| Arc::clone(&pod.client)) else { return };
        while let Some(query) = connection.next_message() {
            answer_message(resolver, pending, connection, (key, &client), &query, response, now);
        }
        if connection.write().is_err() {
            return self.close_connection(key);
        }
        self.update_interest(key);
    }

    fn update_interest(&mut self, key: Key) {
        let Some(Source::Connection(connection)) = self.sources.get_mut(key) else { return };
        let flags = match connection.interest() {
            Interest::Read => EventFlags::IN,
            Interest::Write => EventFlags::OUT,
            Interest::Nothing => EventFlags::empty(),
            Interest::Close => return self.close_connection(key),
        };
        let _ = epoll::modify(&self.epoll, connection.as_fd(), EventData::new_u64(key.number()), flags);
    }

    /// Sends the response of a query that waited for an upstream. The client may be gone.
    pub(super) fn respond(&mut self, origin: Origin, message: &[u8], source: AnswerSource, now: Instant) {
        match self.pending.remove(Key::from_number(origin.0)) {
            Some(PendingReply::Datagram { netns, address, peer }) => {
                let Some(sockets) = self.pods.get(&netns).and_then(|pod| pod.addresses.get(address)) else {
                    return;
                };
                let (fd, peer) = (sockets.datagram.as_raw_fd(), SockaddrStorage::from(peer));
                let _ = sendto(fd, message, &peer, MsgFlags::MSG_DONTWAIT);
            }
            Some(PendingReply::Connection(key)) => {
                if let Some(Source::Connection(connection)) = self.sources.get_mut(key) {
                    connection.pending = connection.pending.saturating_sub(1);
                    connection.respond(message, now);
                    self.answer_connection(key, now);
                }
            }
            Some(PendingReply::Command(query)) => query.respond(message, source),
            None => {}
        }
    }
}

fn answer_message(
    resolver: &mut Resolver,
    pending: &mut Slab<PendingReply>,
    connection: &mut TcpConnection,
    (key, client): (Key, &Arc<Client>),
    query: &[u8],
    response: &mut Vec<u8>,
    now: Instant,
) {
    let reply = pending.insert(PendingReply::Connection(key));
    let origin = Origin(reply.number());
    match resolver.query(now, client, connection.server, Transport::Tcp, origin, query, response) {
        Handling::Respond(_) => {
            pending.remove(reply);
            connection.respond(response, now);
        }
        Handling::Drop => drop(pending.remove(reply)),
        Handling::Pending => connection.pending += 1,
    }
}
