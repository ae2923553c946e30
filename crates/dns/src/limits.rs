//! `ClientLimits`: how much of the forwarder one client can use, so that others are not affected.
//!
//! Names of the cluster cost no more than an error response would, so only queries that need an upstream are limited:
//! their rate, by a token bucket, and their number in flight. The log gets one notice per client and minute.

use std::time::{Duration, Instant};

/// The interval between two notices about one client.
const NOTICE_INTERVAL: Duration = Duration::from_secs(60);

/// A rate with a burst.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// The tokens that are added each second.
    pub per_second: u32,
    /// The largest number of tokens.
    pub burst: u32,
}

/// Why a query was limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// The client exceeds its rate of queries to upstreams.
    Rate,
    /// The client has the maximum of queries in flight.
    ClientInFlight,
    /// All clients together have the maximum of queries in flight.
    InFlight,
}

/// A line for the log: queries of a client were answered with SERVFAIL because of a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitNotice {
    /// The id of the client.
    pub client: u64,
    /// The limit that was exceeded last.
    pub limit: Limit,
    /// The number of queries since the last notice.
    pub count: u64,
}

/// A token bucket.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TokenBucket {
    /// The time at which the bucket is full again.
    full_at: Option<Instant>,
}

/// The limits of one client.
#[derive(Debug)]
pub(crate) struct ClientLimits {
    bucket: TokenBucket,
    pub(crate) in_flight: usize,
    /// Limited queries since the last notice.
    suppressed: u64,
    noticed_at: Option<Instant>,
}

impl TokenBucket {
    pub(crate) fn full() -> Self {
        Self { full_at: None }
    }

    /// Takes a token. False: the bucket is empty.
    pub(crate) fn take(&mut self, now: Instant, rate: Rate) -> bool {
        let Some(interval) = Duration::from_secs(1).checked_div(rate.per_second) else { return false };
        let full_at = self.full_at.map_or(now, |full_at| full_at.max(now)) + interval;
        let has_token = full_at <= now + interval * rate.burst;
        if has_token {
            self.full_at = Some(full_at);
        }
        has_token
    }
}

impl ClientLimits {
    pub(crate) fn new() -> Self {
        Self { bucket: TokenBucket::full(), in_flight: 0, suppressed: 0, noticed_at: None }
    }

    /// Takes a token for a query to an upstream. The limit that forbids it, if any.
    pub(crate) fn admit(&mut self, now: Instant, rate: Rate, in_flight_max: usize) -> Result<(), Limit> {
        if self.in_flight >= in_flight_max {
            return Err(Limit::ClientInFlight);
        }
        if self.bucket.take(now, rate) { Ok(()) } else { Err(Limit::Rate) }
    }

    /// Records a limited query. Returns a notice, unless the client had one within the interval.
    pub(crate) fn record(&mut self, now: Instant, client: u64, limit: Limit) -> Option<LimitNotice> {
        self.suppressed += 1;
        let is_due = self.noticed_at.is_none_or(|at| now.saturating_duration_since(at) >= NOTICE_INTERVAL);
        is_due.then(|| {
            self.noticed_at = Some(now);
            LimitNotice { client, limit, count: std::mem::take(&mut self.suppressed) }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate { per_second: 10, burst: 20 };

    #[test]
    fn bucket_gives_its_burst_and_then_its_rate() {
        let (mut bucket, now) = (TokenBucket::full(), Instant::now());
        let mut taken = |at: Instant| (0..1_000).filter(|_| bucket.take(at, RATE)).count();
        assert_eq!(taken(now), 20);
        assert_eq!(taken(now + Duration::from_millis(550)), 5);
        assert_eq!(taken(now + Duration::from_millis(600)), 1);
        assert_eq!(taken(now + Duration::from_secs(100)), 20);
    }

    #[test]
    fn bucket_without_a_rate_gives_nothing() {
        assert!(!TokenBucket::full().take(Instant::now(), Rate { per_second: 0, burst: 5 }));
    }

    #[test]
    fn client_at_its_maximum_in_flight_is_limited_without_using_tokens() {
        let (mut limits, now) = (ClientLimits::new(), Instant::now());
        limits.in_flight = 3;
        assert_eq!(limits.admit(now, RATE, 3), Err(Limit::ClientInFlight));
        limits.in_flight = 2;
        let admitted = (0..100).filter(|_| limits.admit(now, RATE, 3).is_ok()).count();
        assert_eq!(admitted, 20);
        assert_eq!(limits.admit(now, RATE, 3), Err(Limit::Rate));
    }

    #[test]
    fn client_has_one_notice_per_minute_with_the_number_of_queries() {
        let (mut limits, now) = (ClientLimits::new(), Instant::now());
        let mut counts = Vec::new();
        for second in 0..150 {
            let notice = limits.record(now + Duration::from_secs(second), 7, Limit::Rate);
            counts.extend(notice.map(|notice| (second, notice.count)));
        }
        assert_eq!(counts, [(0, 1), (60, 60), (120, 60)]);
    }
}
