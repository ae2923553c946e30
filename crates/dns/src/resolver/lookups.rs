//! `Lookups`: the cache, the lookups in progress and the queries that wait for them.
//!
//! Identical questions of one scope wait for one lookup. A query with EDNS options has its own lookup, because the
//! response to them belongs to it; a query with an option that changes the answer also bypasses the cache.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use crate::action::Source;
use crate::cache::{Cache, SWEEP_INTERVAL};
use crate::forwarder::{Finished, Forwarder, LOOKUP_TIME, LookupId, LookupRequest};
use crate::message::{Rcode, Transport};
use crate::relay::{AnswerKind, Freshness, Relay, relay_stored};
use crate::request::{OptionsKind, Request};

/// The TTL of an expired response (RFC 8767, 4).
const STALE_TTL: u32 = 30;

/// A query that waits for a lookup.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waiter {
    pub(super) pending: u64,
    /// The question of the query that the lookup answers, if it has several.
    pub(super) slot: usize,
}

/// A question for upstreams.
#[derive(Debug)]
pub(super) struct Ask<'a> {
    pub(super) client: u64,
    pub(super) source: Source,
    /// The server that the client asked.
    pub(super) server: IpAddr,
    pub(super) request: &'a Request,
    pub(super) transport: Transport,
    /// The response must not be truncated.
    pub(super) must_be_complete: bool,
}

/// The answer to a question.
#[derive(Debug)]
pub(super) enum Reply {
    /// The response of an upstream.
    Fresh(Relay, SocketAddr),
    /// A response from the cache.
    Stored { message: Vec<u8>, kind: AnswerKind, freshness: Freshness },
    /// No upstream responded.
    Failed,
}

/// The lookup of a question, and the queries that wait for it.
#[derive(Debug)]
struct Flight {
    source: Source,
    /// The client that caused the lookup.
    owner: u64,
    cache_key: Option<Vec<u8>>,
    join_key: Option<Vec<u8>>,
    waiters: Vec<Waiter>,
}

/// A lookup that has ended.
#[derive(Debug)]
pub(super) struct Landed {
    /// The client that caused the lookup.
    pub(super) owner: u64,
    pub(super) waiters: Vec<Waiter>,
    pub(super) reply: Reply,
    pub(super) latency: Duration,
}

/// The lookups of one thread.
#[derive(Debug)]
pub(super) struct Lookups {
    pub(super) forwarder: Forwarder,
    pub(super) cache: Cache,
    flights: HashMap<LookupId, Flight>,
    joinable: HashMap<Vec<u8>, LookupId>,
    sweep_at: Option<Instant>,
}

impl Reply {
    /// Returns what the answer states. None: no upstream responded.
    pub(super) fn kind(&self) -> Option<AnswerKind> {
        match self {
            Self::Fresh(relay, _) if relay.is_truncated() => None,
            Self::Fresh(relay, _) => Some(relay.kind),
            Self::Stored { kind, .. } => Some(*kind),
            Self::Failed => None,
        }
    }

    /// Returns the response to a query of Portico itself.
    pub(super) fn to_message(&self, request: &Request) -> Vec<u8> {
        let mut message = Vec::new();
        self.write(request, &mut message);
        message
    }

    /// Writes the response to a client's query.
    pub(super) fn write(&self, request: &Request, out: &mut Vec<u8>) {
        match self {
            Self::Fresh(relay, _) => relay.relay(request, out),
            Self::Stored { message, freshness, .. } => relay_stored(request, message, *freshness, out),
            Self::Failed => request.write_empty(Rcode::ServFail, out),
        }
    }
}

impl Lookups {
    pub(super) fn new(cache_bytes_max: usize, rng: fastrand::Rng) -> Self {
        Self {
            forwarder: Forwarder::new(rng),
            cache: Cache::new(cache_bytes_max),
            flights: HashMap::new(),
            joinable: HashMap::new(),
            sweep_at: None,
        }
    }

    /// Returns the answer from the cache. `upstreams` matters only if the answer has expired.
    pub(super) fn cached(
        &mut self,
        now: Instant,
        ask: &Ask<'_>,
        upstreams: impl FnOnce() -> Vec<SocketAddr>,
    ) -> Option<Reply> {
        let key = cache_key(ask)?;
        if let Some(found) = self.cache.get(now, &key) {
            let freshness = Freshness::Cached(found.age);
            return Some(Reply::Stored { message: found.message.to_vec(), kind: found.kind, freshness });
        }
        let are_out = self.cache.has_stale(now, &key)
            && (self.cache.has_failed(now, &key)
                || self.forwarder.are_all_out(now, ask.source, &upstreams()));
        if are_out { self.stale(now, &key) } else { None }
    }

    /// Starts a lookup, or joins one.
    pub(super) fn start(
        &mut self,
        now: Instant,
        ask: &Ask<'_>,
        upstreams: impl FnOnce() -> Vec<SocketAddr>,
        waiter: Waiter,
    ) {
        let cache_key = cache_key(ask);
        let join_key = cache_key.as_ref().filter(|_| ask.request.options() == OptionsKind::None).map(|key| {
            let mut key = key.clone();
            key.push(u8::from(ask.transport == Transport::Tcp) | u8::from(ask.must_be_complete) << 1);
            key
        });
        if let Some(flight) =
            join_key.as_ref().and_then(|key| self.joinable.get(key)).and_then(|id| self.flights.get_mut(id))
        {
            flight.waiters.push(waiter);
            return;
        }
        let has_fallback = cache_key.as_ref().is_some_and(|key| self.cache.has_stale(now, key));
        let id = self.forwarder.start(
            now,
            LookupRequest {
                request: ask.request.clone(),
                source: ask.source,
                upstreams: upstreams(),
                transport: ask.transport,
                must_be_complete: ask.must_be_complete,
                has_fallback,
                deadline: now + LOOKUP_TIME,
            },
        );
        if let Some(key) = &join_key {
            self.joinable.insert(key.clone(), id);
        }
        let waiters = vec![waiter];
        let flight = Flight { source: ask.source, owner: ask.client, cache_key, join_key, waiters };
        self.flights.insert(id, flight);
    }

    /// Returns the lookups that have ended, and stores their responses.
    pub(super) fn take_landed(&mut self, now: Instant) -> Vec<Landed> {
        let finished = self.forwarder.take_finished();
        finished.into_iter().filter_map(|finished| self.land(now, finished)).collect()
    }

    fn land(&mut self, now: Instant, finished: Finished) -> Option<Landed> {
        let flight = self.remove(finished.lookup)?;
        let stale = |lookups: &mut Self| flight.cache_key.as_ref().and_then(|key| lookups.stale(now, key));
        let reply = match finished.response {
            None => stale(self).unwrap_or(Reply::Failed),
            Some((relay, server)) => {
                let replacement = if relay.is_server_failure() { stale(self) } else { None };
                replacement.unwrap_or_else(|| {
                    self.store(now, &flight, &relay);
                    Reply::Fresh(relay, server)
                })
            }
        };
        Some(Landed { owner: flight.owner, waiters: flight.waiters, reply, latency: finished.latency })
    }

    fn store(&mut self, now: Instant, flight: &Flight, relay: &Relay) {
        let (Some(key), Some(ttl)) = (&flight.cache_key, relay.lifetime) else { return };
        if let Some(message) = relay.without_opt() {
            self.cache.insert(now, flight.owner, key, relay.kind, &message, ttl);
        }
    }

    fn stale(&mut self, now: Instant, key: &[u8]) -> Option<Reply> {
        let found = self.cache.stale(now, key)?;
        let freshness = Freshness::Stale(STALE_TTL);
        Some(Reply::Stored { message: found.message.to_vec(), kind: found.kind, freshness })
    }

    fn remove(&mut self, id: LookupId) -> Option<Flight> {
        let flight = self.flights.remove(&id)?;
        if let Some(key) = &flight.join_key {
            self.joinable.remove(key);
        }
        Some(flight)
    }

    /// Ends the lookups from a client's network namespace, and removes what is stored for it.
    pub(super) fn remove_client(&mut self, client: u64) {
        let source = Source::Client(client);
        let ids: Vec<LookupId> =
            self.flights.iter().filter(|(_, flight)| flight.source == source).map(|(id, _)| *id).collect();
        for id in ids {
            self.remove(id);
            self.forwarder.cancel(id);
        }
        self.forwarder.remove_source(source);
    }

    /// Removes expired responses and unused states of servers from time to time.
    pub(super) fn sweep(&mut self, now: Instant) {
        if self.sweep_at.is_none_or(|at| now >= at) {
            self.sweep_at = Some(now + SWEEP_INTERVAL);
            self.cache.sweep(now);
            self.forwarder.sweep(now);
        }
    }
}

/// Returns the key of a question in the cache. None: the response must not be shared.
fn cache_key(ask: &Ask<'_>) -> Option<Vec<u8>> {
    let is_shared = ask.request.options() != OptionsKind::Significant && ask.request.is_recursion_desired();
    is_shared.then(|| {
        let mut key = Vec::with_capacity(32 + ask.request.question.len());
        if let Source::Client(client) = ask.source {
            key.extend_from_slice(&client.to_be_bytes());
            match ask.server {
                IpAddr::V4(address) => key.extend_from_slice(&address.octets()),
                IpAddr::V6(address) => key.extend_from_slice(&address.octets()),
            }
        }
        ask.request.append_identity(&mut key);
        key
    })
}
