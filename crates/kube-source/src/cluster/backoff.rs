//! The delay before the next attempt to list or watch.
//!
//! `support::Backoff` doubles the delay with each failure. An API server that is overloaded can ask for a longer delay
//! with the header `Retry-After`.

use std::time::Duration;

use support::{Backoff, jitter};

/// The maximum delay that an API server can ask for.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);

/// Records a failure, and returns the delay before the next attempt.
pub(super) fn next_delay(backoff: &mut Backoff, retry_after: Option<Duration>) -> Duration {
    // Jitter is added to the requested delay, too: otherwise all nodes would retry at the same time.
    let requested = retry_after.map(|delay| delay.min(RETRY_AFTER_MAX).mul_f64(1.0 + jitter() / 2.0));
    backoff.next_delay_with_jitter().max(requested.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Duration = Duration::from_millis(100);
    const MAX: Duration = Duration::from_secs(3);

    #[test]
    fn delays_grow_to_the_maximum_and_restart_after_a_success() {
        let mut backoff = Backoff::new(FIRST, MAX);
        for whole in [100, 200, 400, 800, 1600, 3000, 3000].map(Duration::from_millis) {
            let delay = next_delay(&mut backoff, None);
            assert!(delay >= whole / 2 && delay <= whole, "{delay:?} of {whole:?}");
        }
        for _ in 0..100 {
            assert!(next_delay(&mut backoff, None) <= MAX);
        }
        backoff.reset();
        assert!(next_delay(&mut backoff, None) <= FIRST);
    }

    #[test]
    fn retry_after_is_honoured_up_to_a_limit() {
        let mut backoff = Backoff::new(Duration::from_millis(1), Duration::from_millis(1));
        assert!(next_delay(&mut backoff, Some(Duration::from_secs(7))) >= Duration::from_secs(7));
        assert!(next_delay(&mut backoff, Some(Duration::from_secs(86_400))) <= 2 * RETRY_AFTER_MAX);
    }
}
