//! `Forwarder`: resolves questions at upstream servers. A state machine; time is an argument.
//!
//! ```text
//! start ──► try server 1 ──(hedge delay: p95, at most 300 ms)──► also try server 2 ──► first good response wins
//!              │ error, SERVFAIL, REFUSED, or 2 s without a response: the next server
//!              │ TC, and the response must be complete: the same server over TCP
//!              └ all servers failed: again after a back-off; 4.5 s after the query: failed;
//!                already after two rounds if all tries ended with an error of the socket (connection refused)
//! ```
//! Each try is an exchange with its own socket (a random port) and a random id. Only a message with that id and the
//! question is accepted; all others are counted and ignored, and an exchange that gets many of them is replaced. A
//! lookup has at most `TRIES_MAX` tries and two at a time, so its memory and packets are bounded.

mod lookup;
mod server_health;

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::action::{Action, ExchangeId, Source};
use crate::forwarder::lookup::{Lookup, Step};
use crate::forwarder::server_health::{FailureKind, ServerHealth};
use crate::message::Transport;
use crate::relay::Relay;
use crate::request::Request;

/// The time for all tries of a lookup: less than the 5 s after which glibc repeats a query.
pub(crate) const LOOKUP_TIME: Duration = Duration::from_millis(4_500);
/// The time for one try.
const TRY_TIME: Duration = Duration::from_secs(2);
/// The maximum number of tries of a lookup.
const TRIES_MAX: usize = 8;
/// The maximum number of servers that a lookup uses.
const SERVERS_MAX: usize = 8;
/// The states of servers without queries for this time are removed.
const HEALTH_TIME: Duration = Duration::from_secs(600);

/// A lookup in progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct LookupId(u64);

/// What is looked up, and where.
#[derive(Debug)]
pub(crate) struct LookupRequest {
    pub(crate) request: Request,
    pub(crate) source: Source,
    pub(crate) upstreams: Vec<SocketAddr>,
    pub(crate) transport: Transport,
    /// A truncated response is repeated over TCP.
    pub(crate) must_be_complete: bool,
    /// There is another answer if all servers fail, so a second round over them is not worth the wait.
    pub(crate) has_fallback: bool,
    pub(crate) deadline: Instant,
}

/// The end of a lookup.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) lookup: LookupId,
    /// None: no server responded.
    pub(crate) response: Option<(Relay, SocketAddr)>,
    pub(crate) latency: Duration,
}

/// Counts of messages from upstreams that were ignored, and of tries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExchangeCounters {
    /// Queries that were sent to upstreams.
    pub sent: u64,
    /// Messages with another id or question.
    pub mismatched: u64,
    /// Messages with the id and the question that are malformed after it.
    pub malformed: u64,
    /// Messages for an exchange that is closed.
    pub late: u64,
    /// Queries to a second server, because the first was slow.
    pub hedged: u64,
    /// Queries without a response in time.
    pub timeouts: u64,
    /// Queries whose socket reported an error.
    pub errors: u64,
    /// Queries over TCP, because the UDP response was truncated.
    pub tcp_retries: u64,
}

impl ExchangeCounters {
    /// Adds the counters of another resolver.
    pub fn add(&mut self, other: &Self) {
        self.sent += other.sent;
        self.mismatched += other.mismatched;
        self.malformed += other.malformed;
        self.late += other.late;
        self.hedged += other.hedged;
        self.timeouts += other.timeouts;
        self.errors += other.errors;
        self.tcp_retries += other.tcp_retries;
    }
}

/// All lookups of one thread.
#[derive(Debug)]
pub(crate) struct Forwarder {
    rng: fastrand::Rng,
    next_id: u64,
    lookups: HashMap<LookupId, Lookup>,
    exchanges: HashMap<ExchangeId, LookupId>,
    /// The time of the next step of each lookup.
    timers: BTreeSet<(Instant, LookupId)>,
    servers: HashMap<(Source, SocketAddr), ServerHealth>,
    pub(crate) actions: Vec<Action>,
    finished: Vec<Finished>,
    pub(crate) counters: ExchangeCounters,
}

impl Forwarder {
    pub(crate) fn new(rng: fastrand::Rng) -> Self {
        Self {
            rng,
            next_id: 0,
            lookups: HashMap::new(),
            exchanges: HashMap::new(),
            timers: BTreeSet::new(),
            servers: HashMap::new(),
            actions: Vec::new(),
            finished: Vec::new(),
            counters: ExchangeCounters::default(),
        }
    }

    /// Starts a lookup. It has ended already if there is no upstream: see `take_finished`.
    pub(crate) fn start(&mut self, now: Instant, what: LookupRequest) -> LookupId {
        let id = LookupId(self.new_id());
        let servers = self.order(now, what.source, &what.upstreams);
        let mut lookup = Lookup::new(now, what, servers);
        lookup.timer = lookup.deadline();
        self.timers.insert((lookup.timer, id));
        self.lookups.insert(id, lookup);
        self.perform(now, id, Step::Try);
        id
    }

    /// Whether every upstream is out because it failed.
    pub(crate) fn are_all_out(&self, now: Instant, source: Source, upstreams: &[SocketAddr]) -> bool {
        upstreams.iter().all(|server| self.out_until(now, source, *server).is_some())
    }

    /// Handles a message for an exchange.
    pub(crate) fn receive(&mut self, now: Instant, exchange: ExchangeId, message: &[u8]) {
        let Some(&id) = self.exchanges.get(&exchange) else {
            self.counters.late += 1;
            return;
        };
        if let Some(lookup) = self.lookups.get_mut(&id) {
            let step = lookup.receive(exchange, message, &mut self.counters);
            self.perform(now, id, step);
        }
    }

    /// Handles an error of the socket of an exchange.
    pub(crate) fn fail(&mut self, now: Instant, exchange: ExchangeId) {
        if let Some(&id) = self.exchanges.get(&exchange) {
            self.counters.errors += 1;
            self.perform(now, id, Step::Failed(exchange, Some(FailureKind::Error)));
        }
    }

    /// Removes the states of servers that are not used any more.
    pub(crate) fn sweep(&mut self, now: Instant) {
        self.servers.retain(|_, health| now.saturating_duration_since(health.used_at) < HEALTH_TIME);
    }

    /// Performs the steps that are due.
    pub(crate) fn tick(&mut self, now: Instant) {
        while let Some(&(at, id)) = self.timers.first()
            && at <= now
        {
            let Some(lookup) = self.lookups.get(&id) else {
                self.timers.pop_first();
                continue;
            };
            let step = lookup.due_step(now);
            self.counters.timeouts += u64::from(matches!(step, Step::Failed(..)));
            self.counters.hedged += u64::from(matches!(step, Step::Try) && lookup.has_tries());
            self.perform(now, id, step);
        }
    }

    /// Returns the time at which `tick` has something to do.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }

    pub(crate) fn take_finished(&mut self) -> Vec<Finished> {
        std::mem::take(&mut self.finished)
    }

    /// Ends a lookup without a result.
    pub(crate) fn cancel(&mut self, id: LookupId) {
        if let Some(lookup) = self.remove(id) {
            lookup.tries.iter().for_each(|attempt| self.close(attempt.exchange));
        }
    }

    /// Removes the states of servers as seen from a client.
    pub(crate) fn remove_source(&mut self, source: Source) {
        self.servers.retain(|(of, _), _| *of != source);
    }

    /// Returns the number of lookups and the number of exchanges in progress.
    pub(crate) fn in_flight(&self) -> (usize, usize) {
        (self.lookups.len(), self.exchanges.len())
    }

    /// Performs one step of a lookup, and sets its timer.
    fn perform(&mut self, now: Instant, id: LookupId, step: Step) {
        match step {
            Step::Wait => {}
            Step::Try => self.send(now, id),
            Step::Failed(exchange, kind) => self.end_try(now, id, exchange, kind),
            Step::Complete(exchange) => {
                self.counters.tcp_retries += 1;
                self.release(id, exchange);
                self.send(now, id);
            }
            Step::Respond(exchange, response) => return self.succeed(now, id, exchange, response),
            Step::GiveUp => return self.finish(now, id, None),
        }
        if let Some(lookup) = self.lookups.get_mut(&id) {
            self.timers.remove(&(lookup.timer, id));
            lookup.timer = lookup.next_timer();
            self.timers.insert((lookup.timer, id));
        }
    }

    /// Sends the query to the next server.
    fn send(&mut self, now: Instant, id: LookupId) {
        let exchange = ExchangeId(self.new_id());
        let message_id = self.rng.u16(..);
        let Some(lookup) = self.lookups.get_mut(&id) else { return };
        let Some(upstream) = lookup.next_server() else { return self.finish(now, id, None) };
        let source = lookup.source();
        let health = self.servers.entry((source, upstream)).or_insert_with(|| ServerHealth::new(now));
        health.begin(now);
        lookup.begin_try(now, exchange, message_id, health.hedge_delay());
        self.counters.sent += 1;
        self.exchanges.insert(exchange, id);
        self.actions.push(Action::Send {
            exchange,
            from: source,
            upstream,
            transport: lookup.transport(),
            message: lookup.request().to_upstream(message_id),
        });
    }

    /// Ends a try that failed, and continues with the next server if there is one.
    fn end_try(&mut self, now: Instant, id: LookupId, exchange: ExchangeId, kind: Option<FailureKind>) {
        let Some((source, server)) = self.release(id, exchange) else { return };
        if let (Some(kind), Some(health)) = (kind, self.servers.get_mut(&(source, server))) {
            health.fail(now, kind);
        }
        let step = self.lookups.get_mut(&id).map(|lookup| lookup.after_failure(now, server, kind));
        match step {
            Some(Step::Try) => self.send(now, id),
            Some(Step::GiveUp) => self.finish(now, id, None),
            _ => {}
        }
    }

    fn succeed(&mut self, now: Instant, id: LookupId, exchange: ExchangeId, response: Relay) {
        let Some(lookup) = self.lookups.get(&id) else { return };
        let Some(winner) = lookup.tries.iter().find(|attempt| attempt.exchange == exchange) else { return };
        let (source, server) = (lookup.source(), winner.server);
        // A server that was asked first and is still silent was slow.
        let slow: Vec<SocketAddr> = lookup
            .tries
            .iter()
            .filter(|attempt| attempt.sent_at < winner.sent_at && attempt.server != server)
            .map(|attempt| attempt.server)
            .collect();
        let latency = now.saturating_duration_since(winner.sent_at);
        for server in slow {
            if let Some(health) = self.servers.get_mut(&(source, server)) {
                health.fail(now, FailureKind::Slow);
            }
        }
        if let Some(health) = self.servers.get_mut(&(source, server)) {
            health.succeed(latency);
        }
        self.finish(now, id, Some((response, server)));
    }

    /// Ends a lookup with this response, or with the best error response of the servers.
    fn finish(&mut self, now: Instant, id: LookupId, response: Option<(Relay, SocketAddr)>) {
        let Some(mut lookup) = self.remove(id) else { return };
        lookup.tries.iter().for_each(|attempt| self.close(attempt.exchange));
        let latency = now.saturating_duration_since(lookup.started_at);
        let response = response.or_else(|| lookup.refusal.take());
        self.finished.push(Finished { lookup: id, response, latency });
    }

    fn remove(&mut self, id: LookupId) -> Option<Lookup> {
        let lookup = self.lookups.remove(&id)?;
        self.timers.remove(&(lookup.timer, id));
        Some(lookup)
    }

    /// Closes the exchange of a try, and returns its server.
    fn release(&mut self, id: LookupId, exchange: ExchangeId) -> Option<(Source, SocketAddr)> {
        let lookup = self.lookups.get_mut(&id)?;
        let at = lookup.tries.iter().position(|attempt| attempt.exchange == exchange)?;
        let attempt = lookup.tries.swap_remove(at);
        let source = lookup.source();
        self.close(exchange);
        Some((source, attempt.server))
    }

    fn close(&mut self, exchange: ExchangeId) {
        self.exchanges.remove(&exchange);
        self.actions.push(Action::Close { exchange });
    }

    /// Returns the servers in the order in which a lookup tries them: those that work, at random; then those that are
    /// out, the one that returns first at the front.
    fn order(&mut self, now: Instant, source: Source, upstreams: &[SocketAddr]) -> Vec<SocketAddr> {
        let (mut working, mut out) = (Vec::new(), Vec::new());
        for server in upstreams {
            match self.out_until(now, source, *server) {
                None => working.push(*server),
                Some(until) => out.push((until, *server)),
            }
        }
        self.rng.shuffle(&mut working);
        out.sort_unstable();
        working.extend(out.into_iter().map(|(_, server)| server));
        working.truncate(SERVERS_MAX);
        working
    }

    fn out_until(&self, now: Instant, source: Source, server: SocketAddr) -> Option<Instant> {
        self.servers.get(&(source, server)).and_then(|health| health.out_until(now))
    }

    fn new_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }
}
