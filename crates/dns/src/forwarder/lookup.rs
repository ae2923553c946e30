//! `Lookup`: the tries of one question, and the next step.
//!
//! It decides only; `Forwarder` performs the steps and owns the exchanges, the timers and the states of the servers.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::action::{ExchangeId, Source};
use crate::forwarder::server_health::{FailureKind, HEDGE_DELAY_MAX};
use crate::forwarder::{ExchangeCounters, LookupRequest, TRIES_MAX, TRY_TIME};
use crate::message::Transport;
use crate::relay::{AnswerKind, Relay, is_response_to};
use crate::request::Request;

/// The number of messages with another id or question after which an exchange is replaced by one with a new port and
/// id, so that an attacker cannot try many ids on one port.
const MISMATCHES_MAX: u32 = 32;
/// The number of tries in progress.
const PARALLEL_MAX: usize = 2;
/// The delay before the second round over the servers if all failed; it doubles with each try, up to the maximum.
const RETRY_DELAY: Duration = Duration::from_millis(100);
const RETRY_DELAY_MAX: Duration = Duration::from_secs(1);
/// The number of rounds over the servers after which a lookup has failed if sockets report an error for all of them, as
/// when the service of the servers has no endpoints.
const ERROR_ROUNDS_MAX: usize = 2;

/// A query to one server.
#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) exchange: ExchangeId,
    pub(super) server: SocketAddr,
    pub(super) sent_at: Instant,
    message_id: u16,
    transport: Transport,
    mismatches: u32,
}

/// What follows from an event.
#[derive(Debug)]
pub(super) enum Step {
    Wait,
    /// Send the query to the next server.
    Try,
    /// The try failed; the kind counts against the server, if there is one.
    Failed(ExchangeId, Option<FailureKind>),
    /// Repeat the try over TCP.
    Complete(ExchangeId),
    Respond(ExchangeId, Relay),
    GiveUp,
}

/// A question that is being resolved.
#[derive(Debug)]
pub(super) struct Lookup {
    what: LookupRequest,
    /// The servers in the order in which they are tried.
    servers: Vec<SocketAddr>,
    /// The servers that failed or responded with an error code.
    failed: Vec<SocketAddr>,
    /// The server that is tried next, if not the one in order.
    pinned: Option<SocketAddr>,
    pub(super) tries: Vec<Attempt>,
    tries_made: usize,
    /// The number of tries that failed because of an error of the socket.
    errors: usize,
    next_try_at: Option<Instant>,
    /// The first error response of a server.
    pub(super) refusal: Option<(Relay, SocketAddr)>,
    pub(super) started_at: Instant,
    /// The entry of this lookup in the timers.
    pub(super) timer: Instant,
}

impl Lookup {
    pub(super) fn new(now: Instant, what: LookupRequest, servers: Vec<SocketAddr>) -> Self {
        Self {
            servers,
            failed: Vec::new(),
            pinned: None,
            tries: Vec::new(),
            tries_made: 0,
            errors: 0,
            next_try_at: None,
            refusal: None,
            started_at: now,
            timer: what.deadline,
            what,
        }
    }

    pub(super) fn deadline(&self) -> Instant {
        self.what.deadline
    }

    pub(super) fn source(&self) -> Source {
        self.what.source
    }

    pub(super) fn transport(&self) -> Transport {
        self.what.transport
    }

    pub(super) fn request(&self) -> &Request {
        &self.what.request
    }

    pub(super) fn has_tries(&self) -> bool {
        !self.tries.is_empty()
    }

    /// Returns the server of the next try. None: there is no server, or there were too many tries.
    pub(super) fn next_server(&self) -> Option<SocketAddr> {
        let in_order = || {
            let number =
                self.tries_made.checked_rem(self.servers.len()).filter(|_| self.tries_made < TRIES_MAX)?;
            self.servers.get(number).copied()
        };
        self.pinned.or_else(in_order)
    }

    /// Records a try of `next_server`.
    pub(super) fn begin_try(&mut self, now: Instant, exchange: ExchangeId, id: u16, hedge_delay: Duration) {
        let Some(server) = self.next_server() else { return };
        if self.pinned.take().is_none() {
            self.tries_made += 1;
        }
        let (message_id, transport) = (id, self.what.transport);
        self.tries.push(Attempt { exchange, server, sent_at: now, message_id, transport, mismatches: 0 });
        // If there is one server only, the second query repeats a datagram that may be lost.
        let delay = if self.servers.len() > 1 { hedge_delay } else { HEDGE_DELAY_MAX };
        let can_hedge = self.tries.len() < PARALLEL_MAX && self.tries_made < TRIES_MAX;
        let can_repeat = self.servers.len() > 1 || transport == Transport::Udp;
        self.next_try_at = (can_hedge && can_repeat).then(|| now + delay);
    }

    /// Returns the step after a message for one of the tries.
    pub(super) fn receive(
        &mut self,
        exchange: ExchangeId,
        message: &[u8],
        counters: &mut ExchangeCounters,
    ) -> Step {
        let Some(attempt) = self.tries.iter_mut().find(|attempt| attempt.exchange == exchange) else {
            return Step::Wait;
        };
        let is_match = is_response_to(&self.what.request, attempt.message_id, message);
        let response = if is_match { Relay::new(&self.what.request, message.to_vec()) } else { None };
        let Some(response) = response else {
            let counter = if is_match { &mut counters.malformed } else { &mut counters.mismatched };
            *counter += 1;
            attempt.mismatches += 1;
            // Bytes on a TCP connection are from the server itself, and nothing useful follows them.
            let is_over = attempt.transport == Transport::Tcp || attempt.mismatches > MISMATCHES_MAX;
            return if is_over { Step::Failed(exchange, None) } else { Step::Wait };
        };
        let (server, is_udp) = (attempt.server, attempt.transport == Transport::Udp);
        if response.is_truncated() && self.what.must_be_complete && is_udp {
            (self.what.transport, self.pinned) = (Transport::Tcp, Some(server));
            return Step::Complete(exchange);
        }
        if response.kind == AnswerKind::Failure {
            self.refusal.get_or_insert((response, server));
            return Step::Failed(exchange, None);
        }
        Step::Respond(exchange, response)
    }

    /// Returns the step after a server failed.
    pub(super) fn after_failure(
        &mut self,
        now: Instant,
        server: SocketAddr,
        kind: Option<FailureKind>,
    ) -> Step {
        self.errors += usize::from(matches!(kind, Some(FailureKind::Error)));
        if !self.failed.contains(&server) {
            self.failed.push(server);
        }
        if self.tries_made < self.servers.len() {
            return Step::Try;
        }
        let have_all_failed = self.failed.len() == self.servers.len();
        let are_gone = self.errors >= ERROR_ROUNDS_MAX * self.servers.len();
        if have_all_failed && (self.refusal.is_some() || self.what.has_fallback || are_gone) {
            return Step::GiveUp;
        }
        if self.has_tries() {
            return Step::Wait;
        }
        if self.tries_made >= TRIES_MAX {
            return Step::GiveUp;
        }
        let round = u32::try_from(self.tries_made.saturating_sub(self.servers.len())).unwrap_or(0);
        self.next_try_at = Some(now + (RETRY_DELAY * (1 << round.min(8))).min(RETRY_DELAY_MAX));
        Step::Wait
    }

    /// Returns the step that is due.
    pub(super) fn due_step(&self, now: Instant) -> Step {
        if now >= self.what.deadline {
            return Step::GiveUp;
        }
        let expired = self.tries.iter().find(|attempt| now >= attempt.sent_at + TRY_TIME);
        match expired {
            Some(attempt) => Step::Failed(attempt.exchange, Some(FailureKind::Timeout)),
            None if self.next_try_at.is_some_and(|at| now >= at) => Step::Try,
            None => Step::Wait,
        }
    }

    /// Returns the time of the next step.
    pub(super) fn next_timer(&self) -> Instant {
        let expiries = self.tries.iter().map(|attempt| attempt.sent_at + TRY_TIME);
        expiries.chain(self.next_try_at).fold(self.what.deadline, Instant::min)
    }
}
