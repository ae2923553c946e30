//! `ServerHealth`: the latency of one upstream server, and whether it is out because it failed.
//!
//! Failures of different kinds have different weights: a refused connection is certain, a timeout may be a slow name,
//! and a response that came later than that of another server is only a hint. A server whose weights reach the limit is
//! out for a time that doubles each time. After it, one query tests the server before others use it.

use std::time::{Duration, Instant};

/// The number of latencies that are kept.
const SAMPLES_MAX: usize = 64;
/// The number of latencies after which the hedge delay is computed again.
const SAMPLES_MIN: usize = 16;
/// The delay after which a second server is asked, until enough latencies are known, and at most.
pub(super) const HEDGE_DELAY_MAX: Duration = Duration::from_millis(300);
/// The least delay: scheduling delays of a loaded node must not cause queries.
const HEDGE_DELAY_MIN: Duration = Duration::from_millis(20);
/// The weight at which a server is out.
const WEIGHT_MAX: u32 = 4;
/// The first time for which a server is out.
const OUT_MIN: Duration = Duration::from_millis(500);
/// The longest time for which a server is out.
const OUT_MAX: Duration = Duration::from_secs(30);
/// The time for which one query tests a server.
const TEST_TIME: Duration = Duration::from_secs(2);

/// How a server failed.
#[derive(Clone, Copy, Debug)]
pub(super) enum FailureKind {
    /// Another server responded first, although it was asked later.
    Slow,
    /// The server did not respond in time.
    Timeout,
    /// The socket reported an error.
    Error,
}

/// The state of one server.
#[derive(Debug)]
pub(super) struct ServerHealth {
    latencies_us: Vec<u32>,
    /// The index of the latency that is replaced next.
    next_sample: usize,
    hedge_delay: Duration,
    weight: u32,
    outages: u32,
    out_until: Option<Instant>,
    pub(super) used_at: Instant,
}

impl ServerHealth {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            latencies_us: Vec::new(),
            next_sample: 0,
            hedge_delay: HEDGE_DELAY_MAX,
            weight: 0,
            outages: 0,
            out_until: None,
            used_at: now,
        }
    }

    /// Returns the time until which the server is out.
    pub(super) fn out_until(&self, now: Instant) -> Option<Instant> {
        self.out_until.filter(|until| now < *until)
    }

    /// Returns the delay after which another server is asked: the 95th percentile of the latencies.
    pub(super) fn hedge_delay(&self) -> Duration {
        self.hedge_delay
    }

    /// Records a query. If the server was out, others do not use it until the response is there.
    pub(super) fn begin(&mut self, now: Instant) {
        self.used_at = now;
        if self.out_until.is_some_and(|until| now >= until) {
            self.out_until = Some(now + TEST_TIME);
        }
    }

    pub(super) fn succeed(&mut self, latency: Duration) {
        (self.weight, self.outages, self.out_until) = (0, 0, None);
        let latency = u32::try_from(latency.as_micros()).unwrap_or(u32::MAX);
        if self.latencies_us.len() < SAMPLES_MAX {
            self.latencies_us.push(latency);
        } else {
            self.latencies_us[self.next_sample] = latency;
        }
        self.next_sample = (self.next_sample + 1) % SAMPLES_MAX;
        if self.next_sample.is_multiple_of(SAMPLES_MIN) {
            let mut sorted = self.latencies_us.clone();
            sorted.sort_unstable();
            let p95 = Duration::from_micros(u64::from(sorted[sorted.len() * 95 / 100]));
            self.hedge_delay = p95.clamp(HEDGE_DELAY_MIN, HEDGE_DELAY_MAX);
        }
    }

    pub(super) fn fail(&mut self, now: Instant, kind: FailureKind) {
        self.weight += match kind {
            FailureKind::Slow => 1,
            FailureKind::Timeout => 2,
            FailureKind::Error => WEIGHT_MAX,
        };
        if self.weight >= WEIGHT_MAX {
            let out = OUT_MIN.saturating_mul(1 << self.outages.min(16)).min(OUT_MAX);
            // One more failure after the test makes the server out again.
            (self.weight, self.outages) = (WEIGHT_MAX - 1, self.outages + 1);
            self.out_until = Some(now + out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hedge_delay_is_the_95th_percentile_within_bounds() {
        let mut health = ServerHealth::new(Instant::now());
        assert_eq!(health.hedge_delay(), HEDGE_DELAY_MAX);
        (0..15).for_each(|_| health.succeed(Duration::from_millis(1)));
        assert_eq!(health.hedge_delay(), HEDGE_DELAY_MAX);
        health.succeed(Duration::from_millis(1));
        assert_eq!(health.hedge_delay(), HEDGE_DELAY_MIN);
        (0..64).for_each(|number| health.succeed(Duration::from_millis(if number < 3 { 90 } else { 50 })));
        assert_eq!(health.hedge_delay(), Duration::from_millis(50));
        (0..64).for_each(|_| health.succeed(Duration::from_secs(1)));
        assert_eq!(health.hedge_delay(), HEDGE_DELAY_MAX);
    }

    #[test]
    fn failed_server_is_out_for_a_growing_time_and_tested_by_one_query() {
        let mut now = Instant::now();
        let mut health = ServerHealth::new(now);
        let mut times = Vec::new();
        health.fail(now, FailureKind::Timeout);
        assert!(health.out_until(now).is_none());
        for _ in 0..9 {
            health.fail(now, FailureKind::Timeout);
            let until = health.out_until(now).unwrap();
            times.push((until - now).as_millis());
            now = until;
            assert!(health.out_until(now).is_none());
            health.begin(now);
            assert_eq!(health.out_until(now), Some(now + TEST_TIME));
        }
        assert_eq!(times, [500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000, 30_000]);
        health.succeed(Duration::from_millis(1));
        assert!(health.out_until(now).is_none());
        health.fail(now, FailureKind::Error);
        assert_eq!(health.out_until(now), Some(now + OUT_MIN));
    }

    #[test]
    fn slow_responses_make_a_server_out_only_in_a_row() {
        let now = Instant::now();
        let mut health = ServerHealth::new(now);
        for _ in 0..20 {
            (0..3).for_each(|_| health.fail(now, FailureKind::Slow));
            health.succeed(Duration::from_millis(1));
        }
        assert!(health.out_until(now).is_none());
        (0..4).for_each(|_| health.fail(now, FailureKind::Slow));
        assert!(health.out_until(now).is_some());
    }
}
