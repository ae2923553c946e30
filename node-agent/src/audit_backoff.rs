//! `AuditBackoff`: for how long audits skip a network namespace with repeated drift.
//!
//! Reading and replacing a table costs the agent CPU time; changing it costs a pod with CAP_NET_ADMIN nothing.

use std::time::{Duration, Instant};

use support::Backoff;

/// The number of audits in a row that find drift, or fail, before the next one is delayed.
pub(crate) const FAILURES_ALLOWED: u32 = 3;
/// The first delay; each further one is twice as long.
pub(crate) const BACKOFF_FIRST: Duration = Duration::from_secs(60);
/// The maximum delay.
pub(crate) const BACKOFF_MAX: Duration = Duration::from_secs(900);

/// The back-off of the audits of one network namespace.
#[derive(Debug)]
pub(crate) struct AuditBackoff {
    failures: u32,
    backoff: Backoff,
    until: Option<Instant>,
}

impl Default for AuditBackoff {
    fn default() -> Self {
        Self { failures: 0, backoff: Backoff::new(BACKOFF_FIRST, BACKOFF_MAX), until: None }
    }
}

impl AuditBackoff {
    /// Records that an audit found drift, or failed.
    pub(crate) fn record_failure(&mut self, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        if self.failures >= FAILURES_ALLOWED {
            self.until = Some(now + self.backoff.next_delay());
        }
    }

    /// Records that an audit found no drift.
    pub(crate) fn reset(&mut self) {
        *self = Self::default();
    }

    /// The time for which audits skip the network namespace. None: the next audit includes it.
    pub(crate) fn remaining(&self, now: Instant) -> Option<Duration> {
        let remaining = self.until?.saturating_duration_since(now);
        (!remaining.is_zero()).then_some(remaining)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_starts_after_allowed_failures_doubles_and_has_a_maximum() {
        let now = Instant::now();
        let mut backoff = AuditBackoff::default();
        for _ in 1..FAILURES_ALLOWED {
            backoff.record_failure(now);
            assert_eq!(backoff.remaining(now), None, "the next audit is not delayed");
        }
        backoff.record_failure(now);
        assert_eq!(backoff.remaining(now), Some(BACKOFF_FIRST));
        backoff.record_failure(now);
        assert_eq!(backoff.remaining(now), Some(2 * BACKOFF_FIRST));
        (0..100).for_each(|_| backoff.record_failure(now));
        assert_eq!(backoff.remaining(now), Some(BACKOFF_MAX));
        assert_eq!(backoff.remaining(now + BACKOFF_MAX), None, "the back-off has ended");
        backoff.reset();
        backoff.record_failure(now);
        assert_eq!(backoff.remaining(now), None, "a successful audit resets the back-off");
    }
}
