//! The steps of a query that the zone does not answer by itself: a relayed query, an alias, a search.

use std::time::Instant;

use crate::action::Action;
use crate::answer::{Answered, External};
use crate::client::Client;
use crate::message::{CD, Query, Rcode, RecordType, Transport};
use crate::query_log::AnswerSource;
use crate::relay::{AnswerKind, Freshness};
use crate::request::Request;
use crate::resolver::Resolver;
use crate::resolver::accounts::Response;
use crate::resolver::lookups::{Reply, Waiter};
use crate::resolver::pending::{Goal, Pending};
use crate::search::{SearchWalk, Verdict, is_searched};
use crate::zone::Zone;

/// What a query needs next.
#[derive(Debug)]
pub(super) enum Plan {
    /// The response is written.
    Done(AnswerSource),
    /// Lookups are in progress.
    Wait,
    /// These questions must be looked up, for these slots.
    Need(Vec<(usize, Request)>),
}

impl Resolver {
    /// Returns the walk of a search list that begins with a query for a name that does not exist.
    pub(super) fn search_walk(&self, zone: &Zone, client: &Client, query: &Query<'_>) -> Option<SearchWalk> {
        let search = client.search.as_ref().filter(|_| self.options.is_search_collapsed)?;
        // A validating client would reject the alias.
        let is_validating = query.edns.is_some_and(|edns| edns.is_dnssec_ok) || query.message()[3] & CD != 0;
        let is_start = query.is_recursion_desired() && !is_validating && is_searched(query.record_type);
        if is_start { search.walk(&query.name, &client.namespace, &zone.config().domain) } else { None }
    }

    /// Returns what a query needs, from the zone and the cache.
    pub(super) fn plan(&mut self, now: Instant, pending: &mut Pending, out: &mut Vec<u8>) -> Plan {
        self.lookups.sweep(now);
        let request = match &pending.goal {
            Goal::Search(..) => return self.plan_search(now, pending, out),
            Goal::Relay => pending.request.clone(),
            Goal::External(external) => pending.request.for_name(external.target()),
        };
        match self.cached(now, pending, &request) {
            Some(reply) => self.complete(pending, &reply, out),
            None => Plan::Need(vec![(0, request)]),
        }
    }

    fn cached(&mut self, now: Instant, pending: &Pending, request: &Request) -> Option<Reply> {
        let ask = self.ask(pending, request);
        let upstreams = || self.options.upstreams.servers(self.zone.as_ref(), pending.server, request);
        self.lookups.cached(now, &ask, upstreams)
    }

    /// Writes the response to a query that needs one lookup.
    fn complete(&self, pending: &Pending, reply: &Reply, out: &mut Vec<u8>) -> Plan {
        match &pending.goal {
            Goal::External(external) => {
                let upstream = reply.to_message(&pending.request.for_name(external.target()));
                self.write_external(pending, external, &upstream, out);
            }
            Goal::Relay | Goal::Search(..) => reply.write(&pending.request, out),
        }
        Plan::Done(source_of(reply))
    }

    /// Writes the response to a query for an alias.
    fn write_external(&self, pending: &Pending, external: &External, upstream: &[u8], out: &mut Vec<u8>) {
        match (&self.zone, Query::parse(&pending.message)) {
            (Some(zone), Ok(query)) => {
                zone.write_external(&query, external, upstream, pending.transport, out);
            }
            _ => pending.request.write_empty(Rcode::ServFail, out),
        }
    }

    /// Answers the names of a walk from the zone and the cache, up to the first that exists.
    fn plan_search(&mut self, now: Instant, pending: &mut Pending, out: &mut Vec<u8>) -> Plan {
        let Goal::Search(mut walk, denial) = std::mem::replace(&mut pending.goal, Goal::Relay) else {
            return Plan::Wait;
        };
        let mut needs = Vec::new();
        for number in 0..walk.names().len() {
            needs.extend(self.plan_name(now, pending, &mut walk, number));
            if walk.has_end(number) {
                break;
            }
        }
        pending.goal = Goal::Search(walk, denial);
        if needs.is_empty() { self.judge(pending, out) } else { Plan::Need(needs) }
    }

    /// Answers one name of a walk. Returns what must be looked up.
    fn plan_name(
        &mut self,
        now: Instant,
        pending: &Pending,
        walk: &mut SearchWalk,
        number: usize,
    ) -> Option<(usize, Request)> {
        let request = pending.request.for_name(walk.names().get(number)?);
        let need = self.plan_slot(now, pending, walk, number, request.clone());
        if !walk.needs_other_family(number) {
            return need;
        }
        self.plan_other_family(now, pending, walk, number, &request)
    }

    /// Answers whether a name has addresses of the other family.
    fn plan_other_family(
        &mut self,
        now: Instant,
        pending: &Pending,
        walk: &mut SearchWalk,
        number: usize,
        request: &Request,
    ) -> Option<(usize, Request)> {
        let other = if request.record_type() == RecordType::A { RecordType::AAAA } else { RecordType::A };
        self.plan_slot(now, pending, walk, walk.other_family(number), request.with_type(other))
    }

    fn plan_slot(
        &mut self,
        now: Instant,
        pending: &Pending,
        walk: &mut SearchWalk,
        slot: usize,
        request: Request,
    ) -> Option<(usize, Request)> {
        let (answered, message) = self.ask_zone(&pending.client, &request);
        let kind = match answered {
            Answered::Records => Some(AnswerKind::Positive),
            Answered::NxDomain => Some(AnswerKind::NxDomain),
            Answered::NoData => Some(AnswerKind::NoData),
            Answered::Refused | Answered::NotSynced | Answered::External(_) => None,
            Answered::Upstream => {
                let Some(reply) = self.cached(now, pending, &request) else { return Some((slot, request)) };
                walk.set(slot, reply.kind(), || reply.to_message(&request));
                return None;
            }
        };
        walk.set(slot, kind, || message);
        None
    }

    /// Continues a walk with the response for one of its slots.
    fn continue_search(
        &mut self,
        now: Instant,
        pending: &mut Pending,
        slot: usize,
        reply: &Reply,
        out: &mut Vec<u8>,
    ) -> Plan {
        let Goal::Search(mut walk, denial) = std::mem::replace(&mut pending.goal, Goal::Relay) else {
            return Plan::Wait;
        };
        let (names, mut need) = (walk.names().len(), None);
        if let Some(name) = walk.names().get(slot % names) {
            let request = pending.request.for_name(name);
            walk.set(slot, reply.kind(), || reply.to_message(&request));
            if walk.needs_other_family(slot) {
                need = self.plan_other_family(now, pending, &mut walk, slot, &request);
            }
        }
        pending.goal = Goal::Search(walk, denial);
        need.map_or_else(|| self.judge(pending, out), |need| Plan::Need(vec![need]))
    }

    /// Asks the zone for a complete answer.
    fn ask_zone(&self, client: &Client, request: &Request) -> (Answered, Vec<u8>) {
        let message = request.to_upstream(0);
        let mut out = Vec::new();
        let answered = match (&self.zone, Query::parse(&message)) {
            (Some(zone), Ok(query)) => zone.answer(client, &query, Transport::Tcp, 0, &mut out),
            _ => Answered::NotSynced,
        };
        (answered, out)
    }

    /// Writes the response if the walk has ended.
    fn judge(&self, pending: &Pending, out: &mut Vec<u8>) -> Plan {
        let Goal::Search(walk, denial) = &pending.goal else { return Plan::Wait };
        match walk.verdict() {
            Verdict::Wait => Plan::Wait,
            Verdict::NotFound => {
                out.clone_from(denial);
                Plan::Done(AnswerSource::Zone)
            }
            Verdict::Found(name, message) => {
                self.write_external(pending, &External::to(name.clone()), message, out);
                Plan::Done(AnswerSource::Search)
            }
        }
    }

    /// Continues a query after one of its lookups has ended.
    pub(super) fn resume(&mut self, now: Instant, waiter: Waiter, reply: &Reply) {
        // A walk can end before all its lookups.
        let Some(mut pending) = self.pending.remove(&waiter.pending) else { return };
        let mut out = Vec::new();
        let plan = match pending.goal {
            Goal::Search(..) => self.continue_search(now, &mut pending, waiter.slot, reply, &mut out),
            Goal::Relay | Goal::External(_) => self.complete(&pending, reply, &mut out),
        };
        let source = match plan {
            Plan::Done(source) => source,
            Plan::Wait => return self.wait(now, waiter.pending, pending, Vec::new()),
            Plan::Need(needs) => return self.wait(now, waiter.pending, pending, needs),
        };
        let client = pending.client.id;
        self.accounts.end(client);
        let response = Response {
            client,
            name: &pending.name,
            record_type: pending.record_type,
            source,
            duration: now.saturating_duration_since(pending.received_at),
        };
        self.accounts.record(now, response, &out);
        self.responses.push(Action::Respond { origin: pending.origin, message: out, source });
    }
}

fn source_of(reply: &Reply) -> AnswerSource {
    match reply {
        Reply::Fresh(_, server) => AnswerSource::Upstream(*server),
        Reply::Stored { freshness: Freshness::Stale(_), .. } => AnswerSource::Stale,
        Reply::Stored { .. } => AnswerSource::Cache,
        Reply::Failed => AnswerSource::Resolver,
    }
}
