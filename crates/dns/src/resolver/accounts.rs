//! `Accounts`: the limits and counters of each client, and the query log.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::counters::{ClientCounters, Outcome};
use crate::limits::{ClientLimits, Limit, LimitNotice};
use crate::message::{Name, RecordType};
use crate::query_log::{AnswerSource, QueryLog, QueryLogEntry};
use crate::resolver::options::ResolverOptions;

/// The number of notices that wait for the log.
const NOTICES_MAX: usize = 1_024;

/// The state of one client.
#[derive(Debug)]
struct Account {
    counters: ClientCounters,
    limits: ClientLimits,
}

impl Account {
    fn new() -> Self {
        Self { counters: ClientCounters::default(), limits: ClientLimits::new() }
    }
}

/// A response to a query.
#[derive(Clone, Copy, Debug)]
pub(super) struct Response<'a> {
    pub(super) client: u64,
    pub(super) name: &'a Name,
    pub(super) record_type: RecordType,
    pub(super) source: AnswerSource,
    pub(super) duration: Duration,
}

/// All clients of one thread.
#[derive(Debug, Default)]
pub(super) struct Accounts {
    accounts: HashMap<u64, Account>,
    in_flight: usize,
    /// The counters of clients that were removed.
    of_removed: ClientCounters,
    notices: Vec<LimitNotice>,
    pub(super) log: QueryLog,
}

impl Accounts {
    fn account(&mut self, client: u64) -> &mut Account {
        self.accounts.entry(client).or_insert_with(Account::new)
    }

    pub(super) fn counters_mut(&mut self, client: u64) -> &mut ClientCounters {
        &mut self.account(client).counters
    }

    /// Counts a lookup, which can end after its client was removed.
    pub(super) fn count_lookup(&mut self, client: u64, time: Duration) {
        let account = self.accounts.get_mut(&client);
        account.map_or(&mut self.of_removed, |account| &mut account.counters).count_lookup(time);
    }

    /// Counts and logs a response.
    pub(super) fn record(&mut self, now: Instant, response: Response<'_>, message: &[u8]) {
        let outcome = Outcome::of(message);
        let counters = self.counters_mut(response.client);
        counters.count(outcome);
        let is_stale = response.source == AnswerSource::Stale;
        counters.cache_hits += u64::from(is_stale || response.source == AnswerSource::Cache);
        counters.stale += u64::from(is_stale);
        counters.collapsed += u64::from(response.source == AnswerSource::Search);
        if self.log.is_logged(response.client) {
            let Response { client, name, record_type, source, duration } = response;
            let name = name.clone();
            self.log.push(QueryLogEntry { at: now, client, name, record_type, outcome, source, duration });
        }
    }

    /// Admits a query to an upstream. False: a limit was exceeded, which is counted.
    pub(super) fn admit(&mut self, now: Instant, client: u64, options: &ResolverOptions) -> bool {
        let is_full = self.in_flight >= options.in_flight_max;
        let account = self.accounts.entry(client).or_insert_with(Account::new);
        let verdict = match is_full {
            true => Err(Limit::InFlight),
            false => account.limits.admit(now, options.client_rate, options.client_in_flight_max),
        };
        if let Err(limit) = verdict {
            account.counters.limited += 1;
            let notice = account.limits.record(now, client, limit);
            self.notices.extend(notice.filter(|_| self.notices.len() < NOTICES_MAX));
        }
        verdict.is_ok()
    }

    /// Records that an admitted query has to wait.
    pub(super) fn begin(&mut self, client: u64) {
        self.account(client).limits.in_flight += 1;
        self.in_flight += 1;
    }

    /// Records the end of a query that had to wait.
    pub(super) fn end(&mut self, client: u64) {
        self.in_flight -= 1;
        if let Some(account) = self.accounts.get_mut(&client) {
            account.limits.in_flight -= 1;
        }
    }

    /// Removes a client whose queries have ended.
    pub(super) fn remove(&mut self, client: u64) {
        if let Some(account) = self.accounts.remove(&client) {
            self.of_removed.add(&account.counters);
        }
        self.log.set(client, false);
    }

    pub(super) fn counters(&self, client: u64) -> ClientCounters {
        self.accounts.get(&client).map_or_else(ClientCounters::default, |account| account.counters)
    }

    pub(super) fn total(&self) -> ClientCounters {
        let mut total = self.of_removed;
        self.accounts.values().for_each(|account| total.add(&account.counters));
        total
    }

    /// Returns the clients with the most queries, in descending order.
    pub(super) fn top(&self, count: usize) -> Vec<(u64, ClientCounters)> {
        let mut all: Vec<_> = self.accounts.iter().map(|(id, account)| (*id, account.counters)).collect();
        all.sort_unstable_by_key(|(id, counters)| (std::cmp::Reverse(counters.queries), *id));
        all.truncate(count);
        all
    }

    pub(super) fn take_notices(&mut self) -> Vec<LimitNotice> {
        std::mem::take(&mut self.notices)
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight
    }
}
