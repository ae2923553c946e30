//! `Lookups`: the cache, the lookups in progress and the queries that wait for them.
//!
//! Identical questions of one scope wait for one lookup. A query with EDNS options has its own lookup, because the
//! response to them belongs to it; a query with an option that changes the answer also bypasses the cache.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use crate::action::Source;
use crate::cache::{Cache, CachedAnswer, SWEEP_INTERVAL, Storable};
use crate::forwarder::{Finished, Forwarder, LOOKUP_TIME, LookupId, LookupRequest};
use crate::message::{Rcode, Transport};
use crate::relay::{AnswerKind, Freshness, Relay, relay_stored};
use crate::request::{OptionsKind, Request};

/// The TTL of an expired response (RFC 8767, 4).
const STALE_TTL: u32 = 30;

/// The number of lookups for one question that cannot be joined. Many of them are a loop: an upstream that asks the agent.
const IDENTICAL_MAX: usize = 64;
/// The number of lookups above which no popular answer is looked up before it expires.
const PREFETCH_LOOKUPS_MAX: usize = 256;

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
struct ActiveLookup {
    source: Source,
    /// The client that caused the lookup.
    owner: u64,
    keys: Keys,
    waiters: Vec<Waiter>,
}

/// The keys of a question.
#[derive(Debug)]
struct Keys {
    /// The key in the cache. None: the response must not be shared.
    cache: Option<Vec<u8>>,
    /// The identity of the question among the lookups.
    question: Vec<u8>,
    /// Whether identical questions wait for one lookup.
    can_join: bool,
}

/// A lookup that has ended.
#[derive(Debug)]
pub(super) struct CompletedLookup {
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
    active: HashMap<LookupId, ActiveLookup>,
    /// The lookups for each question; several only if they cannot be joined.
    questions: HashMap<Vec<u8>, Vec<LookupId>>,
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
            active: HashMap::new(),
            questions: HashMap::new(),
            sweep_at: None,
        }
    }

    /// Returns the answer from the cache. A popular answer that expires soon is looked up again meanwhile.
    pub(super) fn cached(
        &mut self,
        now: Instant,
        ask: &Ask<'_>,
        upstreams: impl FnOnce() -> Vec<SocketAddr>,
    ) -> Option<Reply> {
        let keys = Keys::of(ask);
        let key = keys.cache.as_ref()?;
        if let Some(found) = self.cache.get(now, key) {
            let (kind, freshness) = (found.kind, Freshness::Cached(found.age));
            let (message, is_due) = (found.message.to_vec(), found.is_due);
            if is_due && self.active.len() < PREFETCH_LOOKUPS_MAX {
                self.begin(now, ask, keys, upstreams, None);
            }
            return Some(Reply::Stored { message, kind, freshness });
        }
        let are_out = self.cache.has_stale(now, key)
            && (self.cache.has_failed(now, key) || self.forwarder.are_all_out(now, ask.source, &upstreams()));
        if are_out { self.stale(now, key) } else { None }
    }

    /// Describes the answer in the cache.
    pub(super) fn describe(&self, now: Instant, ask: &Ask<'_>) -> Option<CachedAnswer> {
        self.cache.describe(now, Keys::of(ask).cache.as_deref()?)
    }

    /// Starts a lookup, or joins one.
    pub(super) fn start(
        &mut self,
        now: Instant,
        ask: &Ask<'_>,
        upstreams: impl FnOnce() -> Vec<SocketAddr>,
        waiter: Waiter,
    ) {
        self.begin(now, ask, Keys::of(ask), upstreams, Some(waiter));
    }

    fn begin(
        &mut self,
        now: Instant,
        ask: &Ask<'_>,
        keys: Keys,
        upstreams: impl FnOnce() -> Vec<SocketAddr>,
        waiter: Option<Waiter>,
    ) {
        let identical = self.questions.get(&keys.question).map_or(&[][..], Vec::as_slice);
        let joined = identical.first().filter(|_| keys.can_join);
        if let Some(lookup) = joined.and_then(|id| self.active.get_mut(id)) {
            lookup.waiters.extend(waiter);
            return;
        }
        // Without servers the lookup fails at once.
        let upstreams = if identical.len() < IDENTICAL_MAX { upstreams() } else { Vec::new() };
        let id = self.forwarder.start(
            now,
            LookupRequest {
                request: ask.request.clone(),
                source: ask.source,
                upstreams,
                transport: ask.transport,
                must_be_complete: ask.must_be_complete,
                has_fallback: keys.cache.as_ref().is_some_and(|key| self.cache.has_stale(now, key)),
                deadline: now + LOOKUP_TIME,
            },
        );
        self.questions.entry(keys.question.clone()).or_default().push(id);
        let waiters = waiter.into_iter().collect();
        let lookup = ActiveLookup { source: ask.source, owner: ask.client, keys, waiters };
        self.active.insert(id, lookup);
    }

    /// Returns the lookups that have ended, and stores their responses.
    pub(super) fn take_completed(&mut self, now: Instant) -> Vec<CompletedLookup> {
        let finished = self.forwarder.take_finished();
        finished.into_iter().filter_map(|finished| self.complete(now, finished)).collect()
    }

    fn complete(&mut self, now: Instant, finished: Finished) -> Option<CompletedLookup> {
        let lookup = self.remove(finished.lookup)?;
        let stale = |lookups: &mut Self| lookup.keys.cache.as_ref().and_then(|key| lookups.stale(now, key));
        let reply = match finished.response {
            None => stale(self).unwrap_or(Reply::Failed),
            Some((relay, server)) => {
                let replacement = if relay.is_server_failure() { stale(self) } else { None };
                replacement.unwrap_or_else(|| {
                    self.store(now, &lookup, &relay, server);
                    Reply::Fresh(relay, server)
                })
            }
        };
        Some(CompletedLookup {
            owner: lookup.owner,
            waiters: lookup.waiters,
            reply,
            latency: finished.latency,
        })
    }

    fn store(&mut self, now: Instant, lookup: &ActiveLookup, relay: &Relay, upstream: SocketAddr) {
        let (Some(key), Some(ttl_s)) = (&lookup.keys.cache, relay.lifetime) else { return };
        if let Some(message) = relay.without_opt() {
            let response = Storable { upstream, kind: relay.kind, message: &message, ttl_s };
            self.cache.insert(now, lookup.owner, key, response);
        }
    }

    fn stale(&mut self, now: Instant, key: &[u8]) -> Option<Reply> {
        let found = self.cache.stale(now, key)?;
        let freshness = Freshness::Stale(STALE_TTL);
        Some(Reply::Stored { message: found.message.to_vec(), kind: found.kind, freshness })
    }

    fn remove(&mut self, id: LookupId) -> Option<ActiveLookup> {
        let lookup = self.active.remove(&id)?;
        if let Entry::Occupied(mut lookups) = self.questions.entry(lookup.keys.question.clone()) {
            lookups.get_mut().retain(|lookup| *lookup != id);
            if lookups.get().is_empty() {
                lookups.remove();
            }
        }
        Some(lookup)
    }

    /// Ends the lookups from a client's network namespace, and removes what is stored for it.
    pub(super) fn remove_client(&mut self, client: u64) {
        let source = Source::Client(client);
        let ids: Vec<LookupId> =
            self.active.iter().filter(|(_, lookup)| lookup.source == source).map(|(id, _)| *id).collect();
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

impl Keys {
    fn of(ask: &Ask<'_>) -> Self {
        let mut key = Vec::with_capacity(32 + ask.request.question.len());
        if let Source::Client(client) = ask.source {
            key.extend_from_slice(&client.to_be_bytes());
            match ask.server {
                IpAddr::V4(address) => key.extend_from_slice(&address.octets()),
                IpAddr::V6(address) => key.extend_from_slice(&address.octets()),
            }
        }
        ask.request.append_identity(&mut key);
        let options = ask.request.options();
        let is_shared = options != OptionsKind::Significant && ask.request.is_recursion_desired();
        let cache = is_shared.then(|| key.clone());
        let can_join = is_shared && options == OptionsKind::None;
        let variant = u8::from(ask.transport == Transport::Tcp) | u8::from(ask.must_be_complete) << 1;
        key.push(variant | u8::from(can_join) << 2);
        Self { cache, question: key, can_join }
    }
}
