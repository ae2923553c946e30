//! `State`: the connections and requests, their charges, and the order in which they are closed.
//!
//! Everything that waits for its client can be closed: a connection without a request that is being answered (see
//! `ConnectionTable`), an incomplete request, a response that the client does not read. The peer with the most of
//! them is first, and among its own the oldest one. Large requests take turns, so that some of many concurrent ones
//! complete. Pure: no waiting, sockets or clocks.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use daemon::{ConnectionLimits, ConnectionTable};
use tokio::sync::Notify;

/// A request with more bytes is large. Smaller ones always have room: the maximum number of them takes 16 MiB.
const SMALL_BYTES_MAX: usize = 32 << 10;
/// A large request ends its turn for others after `TURN_MAX`, or after `TURN_MIN` if it arrives below the rate.
const TURN_MAX: Duration = Duration::from_secs(2);
const RATE_BYTES_PER_S: u128 = 1 << 20;
const TURN_MIN: Duration = Duration::from_millis(500);
/// The minimum interval between searches for slow requests, however many requests wait for a turn.
const SEARCH_INTERVAL: Duration = Duration::from_millis(50);

/// The limits of a server.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Connections in total, and of one peer.
    pub(crate) connections: ConnectionLimits,
    /// Requests in total.
    pub(crate) requests: usize,
    /// Bytes of requests and responses; small requests can exceed it.
    pub(crate) bytes: usize,
    /// Large requests with a turn at the same time.
    pub(crate) large: usize,
}

/// The progress of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// The client is sending it.
    Arriving,
    /// It is being answered.
    Answering,
    /// The client is reading the response.
    Sending,
}

#[derive(Debug)]
struct Request {
    connection: u64,
    peer: IpAddr,
    bytes: usize,
    stage: Stage,
    /// The start of its turn as a large request, and its size then.
    turn: Option<(Instant, usize)>,
    is_evicted: bool,
    evict: Arc<Notify>,
}

impl Request {
    fn is_large(&self) -> bool {
        self.turn.is_some()
    }

    /// Whether its turn is over, or its client too slow.
    fn is_slow(&self, now: Instant) -> bool {
        self.turn.is_some_and(|(since, bytes)| {
            let took = now.duration_since(since);
            let came = (self.bytes - bytes) as u128;
            took > TURN_MAX || took > TURN_MIN && came * 1_000 < RATE_BYTES_PER_S * took.as_millis()
        })
    }
}

/// All connections and requests.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) connections: ConnectionTable,
    /// The number of requests so far.
    begun: u64,
    requests: BTreeMap<u64, Request>,
    bytes: usize,
    /// What evicted requests will release.
    evicted_bytes: usize,
    evicted_requests: usize,
    /// The time of the last search for slow requests.
    searched_at: Option<Instant>,
}

impl State {
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds a request on a connection, and evicts another one if needed; `None` if none can be evicted.
    pub(super) fn begin(&mut self, limits: &Limits, connection: u64) -> Option<(u64, Arc<Notify>)> {
        let peer = self.connections.peer(connection)?;
        if self.requests.len() - self.evicted_requests >= limits.requests {
            let sizes = self.sizes(|_| 1);
            self.evict_one(&sizes, |_| true)?;
        }
        self.begun += 1;
        let (id, evict) = (self.begun, Arc::new(Notify::new()));
        let (stage, evict_too) = (Stage::Arriving, Arc::clone(&evict));
        self.requests.insert(
            id,
            Request { connection, peer, bytes: 0, stage, turn: None, is_evicted: false, evict: evict_too },
        );
        Some((id, evict))
    }

    /// Whether a request can grow by this many bytes now: small ones can, large ones take turns. If no turn is free, a
    /// slow request is evicted.
    pub(super) fn has_turn(&mut self, limits: &Limits, now: Instant, id: u64, bytes: usize) -> bool {
        // An evicted request ends soon.
        let Some(request) = self.requests.get(&id).filter(|request| !request.is_evicted) else {
            return true;
        };
        if request.is_large() || request.bytes + bytes <= SMALL_BYTES_MAX {
            return true;
        }
        let large = self.requests.values().filter(|request| request.is_large()).count();
        if large < limits.large {
            if let Some(request) = self.requests.get_mut(&id) {
                request.turn = Some((now, request.bytes));
            }
            return true;
        }
        if self.searched_at.is_none_or(|searched_at| now.duration_since(searched_at) >= SEARCH_INTERVAL) {
            self.searched_at = Some(now);
            let sizes = self.sizes(|request| usize::from(request.is_large()));
            self.evict_one(&sizes, |request| request.is_slow(now));
        }
        false
    }

    /// Charges more bytes to a request; returns false if there is no room yet, after evicting others.
    pub(super) fn grow(&mut self, limits: &Limits, id: u64, bytes: usize) -> bool {
        let Some(request) = self.requests.get(&id).filter(|request| !request.is_evicted) else {
            return true;
        };
        let is_small = !request.is_large();
        self.take(limits, id, bytes, is_small)
    }

    fn take(&mut self, limits: &Limits, id: u64, bytes: usize, always: bool) -> bool {
        let has_room = self.bytes + bytes <= limits.bytes;
        if !has_room {
            self.make_room(limits, bytes);
        }
        if has_room || always {
            self.bytes += bytes;
            if let Some(request) = self.requests.get_mut(&id) {
                request.bytes += bytes;
            }
        }
        has_room || always
    }

    fn make_room(&mut self, limits: &Limits, bytes: usize) {
        if (self.bytes - self.evicted_bytes) + bytes <= limits.bytes {
            return;
        }
        let sizes = self.sizes(|request| request.bytes);
        while (self.bytes - self.evicted_bytes) + bytes > limits.bytes {
            if self.evict_one(&sizes, |request| request.bytes > 0).is_none() {
                return;
            }
        }
    }

    /// Returns the sum of a size for each peer.
    fn sizes(&self, size: impl Fn(&Request) -> usize) -> HashMap<IpAddr, usize> {
        let mut sizes = HashMap::new();
        for request in self.requests.values().filter(|request| !request.is_evicted) {
            *sizes.entry(request.peer).or_default() += size(request);
        }
        sizes
    }

    fn evict_one(
        &mut self,
        sizes: &HashMap<IpAddr, usize>,
        is_candidate: impl Fn(&Request) -> bool,
    ) -> Option<()> {
        let can_go = |request: &Request| {
            request.stage != Stage::Answering && !request.is_evicted && is_candidate(request)
        };
        let candidates = self.requests.iter_mut().filter(|(_, request)| can_go(request));
        let (_, request) = candidates.min_by_key(|(id, request)| {
            let size = sizes.get(&request.peer).copied().unwrap_or_default();
            (usize::MAX - size, **id)
        })?;
        request.is_evicted = true;
        self.evicted_bytes += request.bytes;
        self.evicted_requests += 1;
        request.evict.notify_one();
        // A response that the client does not read ends with its connection.
        if request.stage == Stage::Sending {
            self.connections.close(request.connection);
        }
        Some(())
    }

    /// Records that a request is complete; returns false if it was evicted.
    pub(super) fn arrived(&mut self, id: u64) -> bool {
        let Some(request) = self.requests.get_mut(&id).filter(|request| !request.is_evicted) else {
            return false;
        };
        request.stage = Stage::Answering;
        self.connections.begin_answer(request.connection);
        true
    }

    /// Releases a request whose response is ready; returns whether that ends a turn.
    pub(super) fn answered(&mut self, id: u64) -> bool {
        let Some(request) = self.requests.get_mut(&id) else { return false };
        self.connections.touch(request.connection);
        self.bytes -= request.bytes;
        if request.is_evicted {
            // The client may not read the response with the error, either.
            request.is_evicted = false;
            self.evicted_bytes -= request.bytes;
            self.evicted_requests -= 1;
        }
        request.bytes = 0;
        request.turn.take().is_some()
    }

    /// Charges the response of a request; returns false if there is no room yet.
    pub(super) fn send(&mut self, limits: &Limits, id: u64, bytes: usize) -> bool {
        if !self.take(limits, id, bytes, false) {
            return false;
        }
        let Some(request) = self.requests.get_mut(&id) else { return true };
        if request.stage == Stage::Answering {
            self.connections.end_answer(request.connection);
        }
        request.stage = Stage::Sending;
        true
    }

    /// Whether a connection has requests.
    pub(super) fn is_in_use(&self, connection: u64) -> bool {
        self.requests.values().any(|request| request.connection == connection)
    }

    /// Removes a request; returns whether that ends a turn.
    pub(super) fn end(&mut self, id: u64) -> bool {
        let Some(request) = self.requests.remove(&id) else { return false };
        self.bytes -= request.bytes;
        if request.is_evicted {
            self.evicted_bytes -= request.bytes;
            self.evicted_requests -= 1;
        }
        if request.stage == Stage::Answering {
            self.connections.end_answer(request.connection);
        }
        request.is_large()
    }
}

#[cfg(test)]
mod tests;
