//! The exchanges with upstreams: executes the actions of the resolver, and passes messages to it.

use std::io;
use std::os::fd::AsFd;
use std::time::Instant;

use dns::{Action, ExchangeId, Source as ExchangeSource, Transport};
use rustix::event::epoll::{self, EventData, EventFlags};

use super::{Source, Worker};
use crate::slab::Key;
use crate::upstream_socket::{UpstreamSocket, open_in};

/// The number of rounds of actions at a time: an exchange that fails at once can cause another one.
const ROUNDS: usize = 64;

impl Worker {
    /// Executes the actions of the resolver.
    ///
    /// # Errors
    /// If the thread cannot return to its own network namespace.
    pub(super) fn execute_actions(&mut self, now: Instant) -> io::Result<()> {
        for _ in 0..ROUNDS {
            let actions: Vec<Action> = self.resolver.take_actions().collect();
            if actions.is_empty() {
                break;
            }
            for action in actions {
                match action {
                    Action::Respond { origin, message, source } => {
                        self.respond(origin, &message, source, now);
                    }
                    Action::Close { exchange } => self.close_exchange(exchange),
                    Action::Send { exchange, .. } => {
                        if self.send(action)?.is_err() {
                            self.resolver.fail(now, exchange);
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Opens the socket of an exchange, and sends the query. The outer error is that of `open_in`.
    fn send(&mut self, action: Action) -> io::Result<io::Result<()>> {
        let Action::Send { exchange, from, upstream, transport, message } = action else { return Ok(Ok(())) };
        let netns = match from {
            ExchangeSource::Node => None,
            ExchangeSource::Client(id) => {
                let pod = self.clients.get(&id).and_then(|netns| self.pods.get(netns));
                let Some(pod) = pod else { return Ok(Err(io::ErrorKind::NotFound.into())) };
                Some(pod.netns.as_fd())
            }
        };
        let opened = open_in(netns, self.home.as_fd(), upstream, transport)?;
        let started = opened.and_then(|socket| UpstreamSocket::start(exchange, socket, transport, &message));
        Ok(started.and_then(|upstream| {
            let flags = if transport == Transport::Tcp { EventFlags::OUT } else { EventFlags::IN };
            let key = self.watch(Source::Upstream(upstream), flags)?;
            self.exchanges.insert(exchange, key);
            Ok(())
        }))
    }

    /// Closes the socket of an exchange.
    pub(super) fn close_exchange(&mut self, exchange: ExchangeId) {
        if let Some(key) = self.exchanges.remove(&exchange) {
            self.sources.remove(key);
        }
    }

    /// Continues an exchange whose socket is ready.
    pub(super) fn advance_upstream(&mut self, key: Key, now: Instant) {
        let Self { sources, received, resolver, epoll, .. } = self;
        let Some(Source::Upstream(upstream)) = sources.get_mut(key) else { return };
        let (exchange, wrote) = (upstream.exchange, upstream.must_write());
        match upstream.advance(received) {
            Ok(Some(message)) => resolver.receive(now, exchange, message),
            Ok(None) if wrote && !upstream.must_write() => {
                let data = EventData::new_u64(key.number());
                let _ = epoll::modify(&*epoll, upstream.as_fd(), data, EventFlags::IN);
            }
            Ok(None) => {}
            Err(_) => {
                resolver.fail(now, exchange);
                self.close_exchange(exchange);
            }
        }
    }
}
