//! `Resolver`: answers the queries of all clients of one thread.
//!
//! ```text
//! query ──► Zone ──► response
//!             │ the name is not in the zone          ┌─► cache ──► response
//!             ├─ a service of type ExternalName ─────┤
//!             └─ NXDOMAIN, the start of a search ────┴─► Forwarder ──► Action::Send, Action::Close
//! receive, fail, tick ──► Forwarder ──► cache, each query that waits ──► Action::Respond
//! ```
//! It has no sockets and no clock: the server executes its actions, and passes messages, errors and the time to it.

mod accounts;
mod goal;
mod lookups;
mod options;
mod pending;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use crate::action::{Action, ExchangeId, Origin, Source};
use crate::answer::Answered;
use crate::cache::CachedAnswer;
use crate::client::Client;
use crate::counters::{ClientCounters, Outcome};
use crate::forwarder::ExchangeCounters;
use crate::limits::LimitNotice;
use crate::message::{
    Malformed, Name, Query, Rcode, RecordType, Transport, encode_query, write_error, write_rejection,
};
use crate::query_log::{AnswerSource, QueryLogBatch};
use crate::request::Request;
use crate::resolver::accounts::{Accounts, Response};
use crate::resolver::goal::Plan;
use crate::resolver::lookups::{Ask, Lookups, Waiter};
use crate::resolver::pending::{Goal, Pending};
use crate::zone::Zone;

pub use options::{ResolverOptions, Upstreams};

/// The largest query that can wait for an upstream: the longest name, and options with padding. A client can have many
/// of them, and TCP permits 64 KB for each.
const FORWARDED_BYTES_MAX: usize = 1_232;

/// What happens to a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handling {
    /// The response, from this source, is in the output buffer.
    Respond(AnswerSource),
    /// There is no response: the message is not a query.
    Drop,
    /// The response follows as `Action::Respond` with the query's origin.
    Pending,
}

/// What the queries in progress and the cache of a resolver hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ResolverUsage {
    /// Queries that wait for upstreams.
    pub pending: usize,
    /// Lookups at upstreams; identical queries share one.
    pub lookups: usize,
    /// Exchanges with upstreams, each with a socket.
    pub exchanges: usize,
    /// Responses in the cache.
    pub cache_entries: usize,
    /// The memory of these responses.
    pub cache_bytes: usize,
}

/// The state of one thread: zone, lookups, cache and limits.
#[derive(Debug)]
pub struct Resolver {
    options: ResolverOptions,
    rng: fastrand::Rng,
    zone: Option<Zone>,
    lookups: Lookups,
    accounts: Accounts,
    pending: HashMap<u64, Pending>,
    next_pending: u64,
    responses: Vec<Action>,
}

impl Resolver {
    /// Creates a resolver, which answers SERVFAIL until it has a zone. The seed determines ids and the order of
    /// upstreams; it must be unpredictable.
    #[must_use]
    pub fn new(options: ResolverOptions, seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        Self {
            lookups: Lookups::new(options.cache_bytes_max, rng.fork()),
            rng,
            options,
            zone: None,
            accounts: Accounts::default(),
            pending: HashMap::new(),
            next_pending: 0,
            responses: Vec::new(),
        }
    }

    /// Replaces the names of the cluster.
    pub fn set_zone(&mut self, zone: Zone) {
        self.zone = Some(zone);
    }

    /// Removes a client. Its queries in progress have no response.
    pub fn remove_client(&mut self, id: u64) {
        let before = self.pending.len();
        self.pending.retain(|_, pending| pending.client.id != id);
        (self.pending.len()..before).for_each(|_| self.accounts.end(id));
        self.lookups.remove_client(id);
        self.accounts.remove(id);
        if self.options.upstreams == Upstreams::Cluster {
            self.lookups.cache.remove_owner(id);
        }
    }

    /// Handles one message of a client, which arrived at the DNS address `server`. A response that is available at
    /// once is written to `out`.
    #[expect(clippy::too_many_arguments, reason = "a query has that many independent properties")]
    pub fn query(
        &mut self,
        now: Instant,
        client: &Arc<Client>,
        server: IpAddr,
        transport: Transport,
        origin: Origin,
        message: &[u8],
        out: &mut Vec<u8>,
    ) -> Handling {
        let query = match Query::parse(message) {
            Ok(query) => query,
            Err(Malformed::Unanswerable) => return Handling::Drop,
            Err(Malformed::Rejected(rcode)) => {
                write_rejection(message, rcode, out);
                self.accounts.counters_mut(client.id).count(Outcome::of(out));
                return Handling::Respond(AnswerSource::Resolver);
            }
        };
        let answered = self.answer_from_zone(client, &query, transport, out);
        let goal = match answered {
            Ok(source) => {
                self.record(now, client.id, &query, source, out);
                return Handling::Respond(source);
            }
            Err(_) if message.len() > FORWARDED_BYTES_MAX => {
                write_error(&query, Rcode::Refused, out);
                self.record(now, client.id, &query, AnswerSource::Resolver, out);
                return Handling::Respond(AnswerSource::Resolver);
            }
            Err(goal) => goal,
        };
        let pending = Pending {
            origin,
            client: Arc::clone(client),
            server,
            transport,
            message: message.to_vec(),
            name: query.name.clone(),
            record_type: query.record_type,
            request: Request::new(&query, transport),
            received_at: now,
            goal,
        };
        match self.pursue(now, pending, out) {
            Some(source) => {
                self.record(now, client.id, &query, source, out);
                Handling::Respond(source)
            }
            None => Handling::Pending,
        }
    }

    /// Handles a message of an upstream.
    pub fn receive(&mut self, now: Instant, exchange: ExchangeId, message: &[u8]) {
        self.lookups.forwarder.receive(now, exchange, message);
        self.settle(now);
    }

    /// Handles an error of the socket of an exchange.
    pub fn fail(&mut self, now: Instant, exchange: ExchangeId) {
        self.lookups.forwarder.fail(now, exchange);
        self.settle(now);
    }

    /// Performs what is due at this time.
    pub fn tick(&mut self, now: Instant) {
        self.lookups.sweep(now);
        self.lookups.forwarder.tick(now);
        self.settle(now);
    }

    /// Returns the time at which `tick` has something to do.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.lookups.forwarder.deadline()
    }

    /// Returns the actions since the last call, in order.
    pub fn take_actions(&mut self) -> impl Iterator<Item = Action> + use<> {
        let exchanges = std::mem::take(&mut self.lookups.forwarder.actions);
        exchanges.into_iter().chain(std::mem::take(&mut self.responses))
    }

    /// Returns the counters of a client.
    #[must_use]
    pub fn counters(&self, client: u64) -> ClientCounters {
        self.accounts.counters(client)
    }

    /// Returns the sums of the counters of all clients, also of those that were removed.
    #[must_use]
    pub fn totals(&self) -> ClientCounters {
        self.accounts.total()
    }

    /// Returns the clients with the most queries, in descending order.
    #[must_use]
    pub fn top_clients(&self, count: usize) -> Vec<(u64, ClientCounters)> {
        self.accounts.top(count)
    }

    /// Returns the counters of the messages that were exchanged with upstreams.
    #[must_use]
    pub fn exchange_counters(&self) -> ExchangeCounters {
        self.lookups.forwarder.counters
    }

    /// Returns what the queries in progress and the cache hold.
    #[must_use]
    pub fn usage(&self) -> ResolverUsage {
        let (lookups, exchanges) = self.lookups.forwarder.in_flight();
        let cache = &self.lookups.cache;
        ResolverUsage {
            pending: self.accounts.in_flight(),
            lookups,
            exchanges,
            cache_entries: cache.len(),
            cache_bytes: cache.bytes(),
        }
    }

    /// Describes the stored response to a plain query of a client that asks the DNS address `server`.
    #[must_use]
    pub fn cached_answer(
        &self,
        now: Instant,
        client: u64,
        server: IpAddr,
        name: &Name,
        record_type: RecordType,
    ) -> Option<CachedAnswer> {
        let message = encode_query(0, name, record_type);
        let request = Request::new(&Query::parse(&message).ok()?, Transport::Udp);
        let (source, transport) = (self.source(client), Transport::Udp);
        let ask = Ask { client, source, server, request: &request, transport, must_be_complete: false };
        self.lookups.describe(now, &ask)
    }

    /// Returns the notices about exceeded limits since the last call: one per client and minute.
    pub fn take_log(&mut self) -> Vec<LimitNotice> {
        self.accounts.take_notices()
    }

    /// Starts or stops recording the queries of a client.
    pub fn set_query_log(&mut self, client: u64, is_recorded: bool) {
        self.accounts.log.set(client, is_recorded);
    }

    /// Returns the recorded queries of a client since the last call; if there were too many, the latest.
    pub fn take_query_log(&mut self, client: u64) -> QueryLogBatch {
        self.accounts.log.take(client)
    }

    /// Answers from the zone, or returns what must be looked up.
    fn answer_from_zone(
        &mut self,
        client: &Client,
        query: &Query<'_>,
        transport: Transport,
        out: &mut Vec<u8>,
    ) -> Result<AnswerSource, Goal> {
        let rotation = self.rng.u32(..);
        let Some(zone) = &self.zone else {
            write_error(query, Rcode::ServFail, out);
            return Ok(AnswerSource::Resolver);
        };
        match zone.answer(client, query, transport, rotation, out) {
            Answered::Records | Answered::NoData => Ok(AnswerSource::Zone),
            Answered::NxDomain => match self.search_walk(zone, client, query) {
                Some(walk) => Err(Goal::Search(walk, out.clone())),
                None => Ok(AnswerSource::Zone),
            },
            Answered::Refused | Answered::NotSynced => Ok(AnswerSource::Resolver),
            Answered::External(external) => Err(Goal::External(external)),
            Answered::Upstream => Err(Goal::Relay),
        }
    }

    /// Pursues a new query. Returns the source of the response if it was available at once.
    fn pursue(&mut self, now: Instant, mut pending: Pending, out: &mut Vec<u8>) -> Option<AnswerSource> {
        let needs = match self.plan(now, &mut pending, out) {
            Plan::Done(source) => return Some(source),
            Plan::Wait => Vec::new(),
            Plan::Need(needs) => needs,
        };
        let client = pending.client.id;
        if !self.accounts.admit(now, client, &self.options) {
            match &pending.goal {
                Goal::Search(_, response) => out.clone_from(response),
                Goal::Relay | Goal::External(_) => pending.request.write_empty(Rcode::ServFail, out),
            }
            return Some(AnswerSource::Resolver);
        }
        self.accounts.begin(client);
        let id = self.next_pending;
        self.next_pending += 1;
        self.wait(now, id, pending, needs);
        self.settle(now);
        None
    }

    /// Stores a query that waits, and starts its lookups.
    fn wait(&mut self, now: Instant, id: u64, pending: Pending, needs: Vec<(usize, Request)>) {
        for (slot, request) in &needs {
            let ask = self.ask(&pending, request);
            let upstreams = || self.options.upstreams.servers(self.zone.as_ref(), pending.server, request);
            self.lookups.start(now, &ask, upstreams, Waiter { pending: id, slot: *slot });
        }
        self.pending.insert(id, pending);
    }

    /// Returns the question to upstreams for a query.
    fn ask<'a>(&self, pending: &Pending, request: &'a Request) -> Ask<'a> {
        let client = pending.client.id;
        let source = self.source(client);
        let must_be_complete = !matches!(pending.goal, Goal::Relay);
        let transport = if must_be_complete { Transport::Udp } else { pending.transport };
        Ask { client, source, server: pending.server, request, transport, must_be_complete }
    }

    /// Returns the network namespace from which a client's lookups start.
    fn source(&self, client: u64) -> Source {
        match &self.options.upstreams {
            Upstreams::Cluster => Source::Client(client),
            Upstreams::Node { .. } => Source::Node,
        }
    }

    /// Continues the queries whose lookups have ended.
    fn settle(&mut self, now: Instant) {
        loop {
            let completed = self.lookups.take_completed(now);
            if completed.is_empty() {
                return;
            }
            for completed in completed {
                self.accounts.count_lookup(completed.owner, completed.latency);
                for waiter in completed.waiters {
                    self.resume(now, waiter, &completed.reply);
                }
            }
        }
    }

    fn record(
        &mut self,
        now: Instant,
        client: u64,
        query: &Query<'_>,
        source: AnswerSource,
        response: &[u8],
    ) {
        let Query { name, record_type, .. } = query;
        let duration = std::time::Duration::ZERO;
        let record_type = *record_type;
        let described = Response { client, name, record_type, source, duration };
        self.accounts.record(now, described, response);
    }
}

#[cfg(test)]
mod tests;
