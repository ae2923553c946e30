//! `ClientCounters`: what a client asked, how it was answered, and what that cost upstream.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::message::{HEADER_LEN, read_u16};

/// How a query was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// With records.
    NoError,
    /// The name exists, without records of the type.
    NoData,
    /// The name does not exist.
    NxDomain,
    /// The resolver or all upstreams failed, or a limit was exceeded.
    ServFail,
    /// The query or an upstream's policy did not permit an answer.
    Refused,
    /// Another response code, for example FORMERR.
    Other,
}

impl Outcome {
    /// Returns the name in JSON.
    #[must_use]
    pub const fn keyword(self) -> &'static str {
        match self {
            Self::NoError => "noerror",
            Self::NoData => "nodata",
            Self::NxDomain => "nxdomain",
            Self::ServFail => "servfail",
            Self::Refused => "refused",
            Self::Other => "other",
        }
    }

    /// Returns the outcome that a response states.
    #[must_use]
    pub fn of(response: &[u8]) -> Self {
        let Some(header) = response.get(..HEADER_LEN) else { return Self::Other };
        match header[3] & 0x0f {
            0 if read_u16(header, 6).is_some_and(|answers| answers > 0) => Self::NoError,
            0 => Self::NoData,
            2 => Self::ServFail,
            3 => Self::NxDomain,
            5 => Self::Refused,
            _ => Self::Other,
        }
    }
}

/// The counters of one client, or of all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClientCounters {
    /// Queries that were answered.
    pub queries: u64,
    /// Responses with records.
    pub noerror: u64,
    /// Responses without records for names that exist.
    pub nodata: u64,
    /// Responses for names that do not exist.
    pub nxdomain: u64,
    /// Responses with SERVFAIL.
    pub servfail: u64,
    /// Responses with REFUSED.
    pub refused: u64,
    /// Responses with another code.
    pub other: u64,
    /// Queries that the cache answered, including stale responses.
    pub cache_hits: u64,
    /// Queries that were answered with an expired response, because all upstreams failed.
    pub stale: u64,
    /// Lookups at upstreams; a query that joins another one's lookup is not counted.
    pub upstream_lookups: u64,
    /// The sum of the times of these lookups.
    pub upstream_time_us: u64,
    /// The longest of these times.
    pub upstream_time_max_us: u64,
    /// Queries for which the walk of the search list was collapsed.
    pub collapsed: u64,
    /// Queries that a limit turned into SERVFAIL.
    pub limited: u64,
}

impl ClientCounters {
    pub(crate) fn count(&mut self, outcome: Outcome) {
        self.queries += 1;
        let counter = match outcome {
            Outcome::NoError => &mut self.noerror,
            Outcome::NoData => &mut self.nodata,
            Outcome::NxDomain => &mut self.nxdomain,
            Outcome::ServFail => &mut self.servfail,
            Outcome::Refused => &mut self.refused,
            Outcome::Other => &mut self.other,
        };
        *counter += 1;
    }

    pub(crate) fn count_lookup(&mut self, time: Duration) {
        self.upstream_lookups += 1;
        let time_us = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.upstream_time_us = self.upstream_time_us.saturating_add(time_us);
        self.upstream_time_max_us = self.upstream_time_max_us.max(time_us);
    }

    /// Adds the counters of another client.
    pub fn add(&mut self, other: &Self) {
        self.queries += other.queries;
        self.noerror += other.noerror;
        self.nodata += other.nodata;
        self.nxdomain += other.nxdomain;
        self.servfail += other.servfail;
        self.refused += other.refused;
        self.other += other.other;
        self.cache_hits += other.cache_hits;
        self.stale += other.stale;
        self.upstream_lookups += other.upstream_lookups;
        self.upstream_time_us = self.upstream_time_us.saturating_add(other.upstream_time_us);
        self.upstream_time_max_us = self.upstream_time_max_us.max(other.upstream_time_max_us);
        self.collapsed += other.collapsed;
        self.limited += other.limited;
    }
}
