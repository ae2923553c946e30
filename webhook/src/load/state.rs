//! `State`: the connections and requests, their charges, and the order in which they are closed.
//!
//! Everything that waits for its client can be closed: a connection without a request that is being answered, an
//! incomplete request, a response that the client does not read. The peer with the most is first, and of its own the
//! oldest. Large requests take turns, so that of many at once some complete. Pure: no waiting, sockets or clocks.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

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
    pub(crate) connections: usize,
    pub(crate) connections_of_a_peer: usize,
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
struct Connection {
    peer: IpAddr,
    /// The number of its last event: the smaller, the longer it has been idle.
    last_used: u64,
    answering: usize,
    is_closing: bool,
    close: Arc<Notify>,
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
    events: u64,
    connections: BTreeMap<u64, Connection>,
    requests: BTreeMap<u64, Request>,
    bytes: usize,
    /// What closing connections and evicted requests will release.
    closing: usize,
    evicted_bytes: usize,
    evicted_requests: usize,
    /// The time of the last search for slow requests.
    searched_at: Option<Instant>,
}

impl State {
    fn event(&mut self) -> u64 {
        self.events += 1;
        self.events
    }

    pub(super) fn connections(&self) -> usize {
        self.connections.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds a connection of a peer, and closes another one if needed; `None` if none can be closed.
    pub(super) fn connect(&mut self, limits: &Limits, peer: IpAddr) -> Option<(u64, Arc<Notify>)> {
        let peer = peer_of(peer);
        let counts = self.counts();
        let own = counts.get(&peer).copied().unwrap_or_default();
        if own >= limits.connections_of_a_peer {
            self.close_one_of(Some(peer), &counts)?;
        } else if self.connections.len() - self.closing >= limits.connections {
            self.close_one_of(None, &counts)?;
        }
        let (id, close) = (self.event(), Arc::new(Notify::new()));
        let connection =
            Connection { peer, last_used: id, answering: 0, is_closing: false, close: Arc::clone(&close) };
        self.connections.insert(id, connection);
        Some((id, close))
    }

    /// Closes the first connection in order; returns false if none can be closed.
    pub(super) fn close_one(&mut self) -> bool {
        let counts = self.counts();
        self.close_one_of(None, &counts).is_some()
    }

    /// Returns the number of connections of each peer, without closing ones.
    fn counts(&self) -> HashMap<IpAddr, usize> {
        let mut counts = HashMap::new();
        for connection in self.connections.values().filter(|connection| !connection.is_closing) {
            *counts.entry(connection.peer).or_default() += 1;
        }
        counts
    }

    fn close_one_of(&mut self, peer: Option<IpAddr>, counts: &HashMap<IpAddr, usize>) -> Option<()> {
        let can_close = |connection: &Connection| {
            connection.answering == 0
                && !connection.is_closing
                && peer.is_none_or(|peer| peer == connection.peer)
        };
        let candidates = self.connections.values_mut().filter(|connection| can_close(connection));
        let first = candidates.min_by_key(|connection| {
            let count = counts.get(&connection.peer).copied().unwrap_or_default();
            (usize::MAX - count, connection.last_used)
        })?;
        close(first, &mut self.closing);
        Some(())
    }

    pub(super) fn disconnect(&mut self, id: u64) {
        if let Some(connection) = self.connections.remove(&id) {
            self.closing -= usize::from(connection.is_closing);
        }
    }

    /// Adds a request on a connection, and evicts another one if needed; `None` if none can be evicted.
    pub(super) fn begin(&mut self, limits: &Limits, connection: u64) -> Option<(u64, Arc<Notify>)> {
        let peer = self.connections.get(&connection)?.peer;
        if self.requests.len() - self.evicted_requests >= limits.requests {
            let sizes = self.sizes(|_| 1);
            self.evict_one(&sizes, |_| true)?;
        }
        let (id, evict) = (self.event(), Arc::new(Notify::new()));
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
        if request.stage == Stage::Sending
            && let Some(connection) = self.connections.get_mut(&request.connection)
        {
            close(connection, &mut self.closing);
        }
        Some(())
    }

    /// Records that a request is complete; returns false if it was evicted.
    pub(super) fn arrived(&mut self, id: u64) -> bool {
        let Some(request) = self.requests.get_mut(&id).filter(|request| !request.is_evicted) else {
            return false;
        };
        request.stage = Stage::Answering;
        if let Some(connection) = self.connections.get_mut(&request.connection) {
            connection.answering += 1;
        }
        true
    }

    /// Releases a request whose response is ready; returns whether that ends a turn.
    pub(super) fn answered(&mut self, id: u64) -> bool {
        let event = self.event();
        let Some(request) = self.requests.get_mut(&id) else { return false };
        if let Some(connection) = self.connections.get_mut(&request.connection) {
            connection.last_used = event;
        }
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
        if let Some(connection) = self.connections.get_mut(&request.connection) {
            connection.answering -= usize::from(request.stage == Stage::Answering);
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
        if request.stage == Stage::Answering
            && let Some(connection) = self.connections.get_mut(&request.connection)
        {
            connection.answering -= 1;
        }
        request.is_large()
    }
}

fn close(connection: &mut Connection, closing: &mut usize) {
    if !connection.is_closing {
        connection.is_closing = true;
        *closing += 1;
        connection.close.notify_one();
    }
}

/// Returns the address that identifies a peer: for IPv6 its /64, since a node has that many addresses.
fn peer_of(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
    }
}

#[cfg(test)]
mod tests;
