//! `EventLimiter`: a token bucket for each namespace, and the Events that were written recently.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The number of Events that a namespace can have at once.
pub(super) const NAMESPACE_BURST: u32 = 20;
/// The interval after which a namespace can have one more Event.
const REFILL_INTERVAL: Duration = Duration::from_secs(30);
/// The number of recent Events that are not written again. The API server deletes Events after an hour.
const RECENT_MAX: usize = 4_096;
/// The number of occurrences of a recent Event that are written, if its cause ends and begins again.
const OCCURRENCES_MAX: u32 = 5;

/// Decides which Events are written.
#[derive(Debug, Default)]
pub(super) struct EventLimiter {
    /// The number of the last occurrence of recent Events, by digest, in two generations, so that old ones can be
    /// dropped at once.
    recent: HashMap<u64, u32>,
    older: HashMap<u64, u32>,
    /// The number of tokens that each namespace has used, and the time as of which that is so.
    used: HashMap<Arc<str>, (u32, Instant)>,
}

/// The decision about an Event.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is written; the first occurrence is number 0.
    Write { occurrence: u32 },
    /// It was written recently.
    Duplicate,
    /// The namespace has no token left.
    Limited,
}

impl EventLimiter {
    /// Decides whether an Event with this digest is written, and takes a token of its namespace if it is. If it can
    /// recur, a recent Event with this digest was another occurrence.
    pub(super) fn check(
        &mut self,
        namespace: &Arc<str>,
        digest: u64,
        can_recur: bool,
        now: Instant,
    ) -> Verdict {
        let last = self.recent.get(&digest).or_else(|| self.older.get(&digest));
        let occurrence = last.map_or(0, |last| last + 1);
        if occurrence > 0 && !can_recur || occurrence >= OCCURRENCES_MAX {
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
        self.recent.insert(digest, occurrence);
        Verdict::Write { occurrence }
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
                limiter.check(&namespace.into(), digest, false, at)
            });
            verdicts.filter(|verdict| *verdict == Verdict::Write { occurrence: 0 }).count()
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
        assert_eq!(limiter.check(&"a".into(), 0, false, now), Verdict::Write { occurrence: 0 });
        assert_eq!(limiter.check(&"a".into(), 0, false, now), Verdict::Duplicate);
        for number in 1..=3 * RECENT_MAX as u64 {
            limiter.check(&format!("n{number}").into(), number, false, now + REFILL_INTERVAL * 2);
        }
        assert!(limiter.recent.len() + limiter.older.len() <= RECENT_MAX);
        assert!(limiter.used.len() <= 3 * RECENT_MAX);
    }

    #[test]
    fn recurring_event_is_written_again_up_to_the_maximum_of_occurrences() {
        let (mut limiter, now) = (EventLimiter::default(), Instant::now());
        let verdicts: Vec<Verdict> = (0..7).map(|_| limiter.check(&"a".into(), 0, true, now)).collect();
        let written = |occurrence| Verdict::Write { occurrence };
        assert_eq!(verdicts[..5], [0, 1, 2, 3, 4].map(written));
        assert_eq!(verdicts[5..], [Verdict::Duplicate, Verdict::Duplicate]);
    }
}
