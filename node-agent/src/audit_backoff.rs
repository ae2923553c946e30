//! `AuditBackoff`: how long audits leave out a network namespace that is found damaged again and again.
//!
//! To read and replace a table costs the agent; to damage it costs a pod with CAP_NET_ADMIN nothing. What must not go in
//! here: what an audit is.

use std::time::{Duration, Instant};

/// So many audits in a row may find damage, or fail, before the next one is put off.
pub(crate) const DAMAGES_FREE: u32 = 3;
/// The first audit that is put off is put off by this, each further one by twice as much.
pub(crate) const BACKOFF_FIRST: Duration = Duration::from_secs(60);
/// No audit is put off by more than this.
pub(crate) const BACKOFF_MAX: Duration = Duration::from_secs(900);

/// When the next audit may look, by how the last ones went.
#[derive(Debug, Default)]
pub(crate) struct AuditBackoff {
    failures: u32,
    until: Option<Instant>,
}

impl AuditBackoff {
    /// An audit found damage, or could not read what there is.
    pub(crate) fn failed(&mut self, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        let Some(doublings) = self.failures.checked_sub(DAMAGES_FREE) else { return };
        let backoff = BACKOFF_FIRST.saturating_mul(1 << doublings.min(16)).min(BACKOFF_MAX);
        self.until = Some(now + backoff);
    }

    /// An audit found everything right.
    pub(crate) fn reset(&mut self) {
        *self = Self::default();
    }

    /// The time for which audits leave it out; none: the next one looks.
    pub(crate) fn left(&self, now: Instant) -> Option<Duration> {
        let left = self.until?.saturating_duration_since(now);
        (!left.is_zero()).then_some(left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_begins_after_some_damages_doubles_and_has_a_maximum() {
        let now = Instant::now();
        let mut backoff = AuditBackoff::default();
        for _ in 1..DAMAGES_FREE {
            backoff.failed(now);
            assert_eq!(backoff.left(now), None, "the next audit looks");
        }
        backoff.failed(now);
        assert_eq!(backoff.left(now), Some(BACKOFF_FIRST));
        backoff.failed(now);
        assert_eq!(backoff.left(now), Some(2 * BACKOFF_FIRST));
        (0..100).for_each(|_| backoff.failed(now));
        assert_eq!(backoff.left(now), Some(BACKOFF_MAX));
        assert_eq!(backoff.left(now + BACKOFF_MAX), None, "it is over");
        backoff.reset();
        backoff.failed(now);
        assert_eq!(backoff.left(now), None, "one audit that finds all right begins anew");
    }
}
