//! `QueryLog`: the recent queries of the clients whose queries are logged.
//!
//! A ring for each client: if the reader is too slow, the oldest entries are lost.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::counters::Outcome;
use crate::message::{Name, RecordType};

/// The number of entries that are kept for each client.
const ENTRIES_MAX: usize = 512;

/// What answered a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnswerSource {
    /// The names of the cluster.
    Zone,
    /// A stored response.
    Cache,
    /// An expired response, because all upstreams failed.
    Stale,
    /// This upstream.
    Upstream(SocketAddr),
    /// The walk of the search list, in one step.
    Search,
    /// The resolver itself: the query was malformed, a limit was exceeded, or no upstream responded.
    Resolver,
}

impl AnswerSource {
    /// Returns the name in JSON.
    #[must_use]
    pub const fn keyword(self) -> &'static str {
        match self {
            Self::Zone => "zone",
            Self::Cache => "cache",
            Self::Stale => "stale",
            Self::Upstream(_) => "upstream",
            Self::Search => "search",
            Self::Resolver => "resolver",
        }
    }

    /// Returns the upstream that answered.
    #[must_use]
    pub const fn upstream(self) -> Option<SocketAddr> {
        match self {
            Self::Upstream(address) => Some(address),
            Self::Zone | Self::Cache | Self::Stale | Self::Search | Self::Resolver => None,
        }
    }
}

/// A query that was answered.
#[derive(Clone, Debug)]
pub struct QueryLogEntry {
    /// The time of the response.
    pub at: Instant,
    /// The id of the client.
    pub client: u64,
    /// The name, in lower case.
    pub name: Name,
    /// The type.
    pub record_type: RecordType,
    /// How it was answered.
    pub outcome: Outcome,
    /// What answered it.
    pub source: AnswerSource,
    /// The time from the query to the response.
    pub duration: Duration,
}

/// The queries of a client since the last read.
#[derive(Clone, Debug, Default)]
pub struct QueryLogBatch {
    /// The latest queries.
    pub entries: VecDeque<QueryLogEntry>,
    /// The number of earlier queries, which were lost.
    pub lost: u64,
}

/// The logs of one thread, by client.
#[derive(Debug, Default)]
pub(crate) struct QueryLog {
    clients: HashMap<u64, QueryLogBatch>,
}

impl QueryLog {
    pub(crate) fn set(&mut self, client: u64, is_logged: bool) {
        if is_logged {
            self.clients.entry(client).or_default();
        } else {
            self.clients.remove(&client);
        }
    }

    pub(crate) fn is_logged(&self, client: u64) -> bool {
        !self.clients.is_empty() && self.clients.contains_key(&client)
    }

    pub(crate) fn push(&mut self, entry: QueryLogEntry) {
        let Some(batch) = self.clients.get_mut(&entry.client) else { return };
        if batch.entries.len() == ENTRIES_MAX {
            batch.entries.pop_front();
            batch.lost += 1;
        }
        batch.entries.push_back(entry);
    }

    /// Returns the entries of a client since the last call.
    pub(crate) fn take(&mut self, client: u64) -> QueryLogBatch {
        self.clients.get_mut(&client).map(std::mem::take).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_keeps_the_latest_entries_of_logged_clients() {
        let (mut log, start) = (QueryLog::default(), Instant::now());
        log.set(1, true);
        assert!(log.is_logged(1) && !log.is_logged(2));
        for number in 0..2_000 {
            let entry = QueryLogEntry {
                at: start + Duration::from_secs(number / 2),
                client: number % 2,
                name: Name::ROOT,
                record_type: RecordType::A,
                outcome: Outcome::NoData,
                source: AnswerSource::Zone,
                duration: Duration::ZERO,
            };
            log.push(entry);
        }
        let QueryLogBatch { entries, lost } = log.take(1);
        assert_eq!((entries.len(), entries[0].at), (ENTRIES_MAX, start + Duration::from_secs(488)));
        assert_eq!(lost, 488);
        assert!([0, 1].map(|client| log.take(client)).iter().all(|batch| batch.entries.is_empty()));
        log.set(1, false);
        assert!(!log.is_logged(1));
    }
}
