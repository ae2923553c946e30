//! `EventLimiter`: a token bucket for each namespace, and the Events that were written recently.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The number of Events that a namespace can have at once.
pub(super) const NAMESPACE_BURST: u32 = 20;
/// The interval after which a namespace can have one more Event.
const REFILL_INTERVAL: Duration = Duration::from_secs(30);
/// The number of recent Events that are not written again. The API server deletes Events after an hour.
const RECENT_MAX: usize = 4_096;

/// Decides which Events are written.
#[derive(Debug, Default)]
pub(super) struct EventLimiter {
    /// Digests of recent Events, in two generations, so that old ones can be dropped at once.
    recent: HashSet<u64>,
    older: HashSet<u64>,
    /// The number of tokens that each namespace has used, and the time as of which that is so.
    used: HashMap<Arc<str>, (u32, Instant)>,
}

/// The decision about an Event.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Write,
    /// It was written recently.
    Duplicate,
    /// The namespace has no token left.
    Limited,
}

impl EventLimiter {
    /// Decides whether an Event with this digest is written, and takes a token of its namespace if it is.
    pub(super) fn check(&mut self, namespace: &Arc<str>, digest: u64, now: Instant) -> Verdict {
        if self.recent.contains(&digest) || self.older.contains(&digest) {
            return Verdict::Duplicate;
        }
        // A namespace with all of its tokens needs no entry.
        self.used.retain(|_, (used, at)| used_after(*used, *at, now) > 0);
        let (used_before, at) = self.used.get(namespace).copied().unwrap_or((0, now));
        let used = used_after(used_before, at, now);
        if used >= NAMESPACE_BURST {
            return Verdict::Limited;
        }
        let at = if used == 0 { now } else { at + REFILL_INTERVAL * (used_before - used) };
        self.used.insert(Arc::clone(namespace), (used + 1, at));
        if self.recent.len() >= RECENT_MAX / 2 {
            self.older = std::mem::take(&mut self.recent);
        }
        self.recent.insert(digest);
        Verdict::Write
    }
}

/// The number of tokens that are still used after the refills since a time.
fn used_after(used: u32, at: Instant, now: Instant) -> u32 {
    let refills = now.saturating_duration_since(at).as_secs() / REFILL_INTERVAL.as_secs();
    used.saturating_sub(u32::try_from(refills).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespace_has_a_burst_and_a_rate_and_does_not_affect_others() {
        let (mut limiter, start, mut digest) = (EventLimiter::default(), Instant::now(), 0);
        let mut written = |namespace: &str, count: u32, at: Instant| {
            let verdicts = (0..count).map(|_| {
                digest += 1;
                limiter.check(&namespace.into(), digest, at)
            });
            verdicts.filter(|verdict| *verdict == Verdict::Write).count()
        };
        assert_eq!(written("a", 1_000, start), 20);
        assert_eq!(written("b", 5, start), 5);
        assert_eq!(written("a", 1_000, start + REFILL_INTERVAL * 3), 3);
        assert_eq!(written("a", 1_000, start + REFILL_INTERVAL * 4), 1);
        assert_eq!(written("a", 1_000, start + REFILL_INTERVAL * 100), 20);
    }

    #[test]
    fn recent_event_is_a_duplicate_and_memory_is_bounded() {
        let (mut limiter, now) = (EventLimiter::default(), Instant::now());
        assert_eq!(limiter.check(&"a".into(), 0, now), Verdict::Write);
        assert_eq!(limiter.check(&"a".into(), 0, now), Verdict::Duplicate);
        for number in 1..=3 * RECENT_MAX as u64 {
            limiter.check(&format!("n{number}").into(), number, now + REFILL_INTERVAL * 2);
        }
        assert!(limiter.recent.len() + limiter.older.len() <= RECENT_MAX);
        assert!(limiter.used.len() <= 3 * RECENT_MAX);
    }
}
