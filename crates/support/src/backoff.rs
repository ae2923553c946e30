//! `Backoff`: the delay before the next attempt, which doubles with each failure.
//!
//! The n-th failure in a row is followed by a delay of `first * 2^(n - 1)`, at most `max`. With jitter the delay is
//! between a half of that and all of it, so that the nodes of a cluster do not all retry at the same moment. The type
//! contains no clock: the caller adds the delay to its time, or sleeps.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// More doublings would exceed any limit.
const DOUBLINGS_MAX: u32 = 31;

/// Counts failures in a row, and returns the delay before the next attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backoff {
    first: Duration,
    max: Duration,
    failures: u32,
}

impl Backoff {
    /// A back-off without failures yet. `first` is the delay after the first failure, `max` the longest delay.
    #[must_use]
    pub const fn new(first: Duration, max: Duration) -> Self {
        Self { first, max, failures: 0 }
    }

    /// The number of failures since the last success.
    #[must_use]
    pub const fn failures(&self) -> u32 {
        self.failures
    }

    /// Records a success: the next failure is the first again.
    pub const fn reset(&mut self) {
        self.failures = 0;
    }

    /// Records a failure, and returns the delay before the next attempt.
    #[must_use]
    pub fn next_delay(&mut self) -> Duration {
        self.failures = self.failures.saturating_add(1);
        self.delay_after(self.failures)
    }

    /// Records a failure, and returns a random delay between a half and the whole of [`next_delay`](Self::next_delay).
    #[must_use]
    pub fn next_delay_with_jitter(&mut self) -> Duration {
        self.next_delay().mul_f64(1.0 - jitter() / 2.0)
    }

    /// The delay after this many failures in a row, for a caller that counts them itself; 0 counts as 1.
    #[must_use]
    pub fn delay_after(&self, failures: u32) -> Duration {
        let doublings = failures.saturating_sub(1).min(DOUBLINGS_MAX);
        self.first.saturating_mul(1 << doublings).min(self.max)
    }
}

/// Returns a random number from 0 (inclusive) to 1 (exclusive).
#[must_use]
pub fn jitter() -> f64 {
    // The standard library gives each hasher a random key.
    let bits = RandomState::new().hash_one(0_u8);
    (bits >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Duration = Duration::from_millis(100);
    const MAX: Duration = Duration::from_secs(3);

    #[test]
    fn delay_doubles_up_to_its_limit_and_restarts_after_a_success() {
        let mut backoff = Backoff::new(FIRST, MAX);
        for delay_ms in [100, 200, 400, 800, 1600, 3000, 3000] {
            assert_eq!(backoff.next_delay(), Duration::from_millis(delay_ms));
        }
        assert_eq!(backoff.failures(), 7);
        backoff.reset();
        assert_eq!((backoff.failures(), backoff.next_delay()), (0, FIRST));
    }

    #[test]
    fn delay_never_overflows() {
        let backoff = Backoff::new(Duration::from_secs(1), Duration::MAX);
        assert_eq!(backoff.delay_after(32), Duration::from_secs(1 << 31));
        assert_eq!(backoff.delay_after(u32::MAX), Duration::from_secs(1 << 31));
        assert_eq!(Backoff::new(Duration::MAX, MAX).delay_after(u32::MAX), MAX);
        let mut backoff = Backoff { failures: u32::MAX, ..Backoff::new(FIRST, MAX) };
        assert_eq!((backoff.next_delay(), backoff.failures()), (MAX, u32::MAX));
    }

    #[test]
    fn delay_after_no_failure_is_the_first_delay() {
        assert_eq!(Backoff::new(FIRST, MAX).delay_after(0), FIRST);
    }

    #[test]
    fn jitter_shortens_a_delay_by_at_most_a_half() {
        let mut backoff = Backoff::new(FIRST, MAX);
        for _ in 0..1_000 {
            let whole = backoff.delay_after(backoff.failures() + 1);
            let delay = backoff.next_delay_with_jitter();
            assert!(delay >= whole / 2 && delay <= whole, "{delay:?} of {whole:?}");
        }
    }
}
