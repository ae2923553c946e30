//! `Retry`: how long to wait before a server is asked again.
//!
//! The pause doubles with each failure and is spread by chance, so that the nodes of a cluster do not all come back
//! in the same moment. What must not go in here: waiting.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// The longest that a server may ask to be left alone for.
const ASKED_MAX: Duration = Duration::from_secs(60);

/// How long to wait.
#[derive(Debug)]
pub(super) struct Retry {
    min: Duration,
    max: Duration,
    failures: u32,
}

impl Retry {
    pub(super) fn new(min: Duration, max: Duration) -> Self {
        Self { min, max, failures: 0 }
    }

    /// All is well again.
    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }

    /// The pause after one more failure, with what the server has asked for.
    pub(super) fn pause(&mut self, asked: Option<Duration>) -> Duration {
        let most = self.min.saturating_mul(1_u32.checked_shl(self.failures.min(20)).unwrap_or(u32::MAX));
        self.failures = self.failures.saturating_add(1);
        let pause = most.min(self.max).mul_f64(1.0 - spread() / 2.0);
        // Asked for or not, they do not come in the same moment.
        pause.max(asked.map_or(Duration::ZERO, |asked| asked.min(ASKED_MAX).mul_f64(1.0 + spread() / 2.0)))
    }
}

/// By chance, from 0 to 1.
pub(super) fn spread() -> f64 {
    // The standard library keys each hasher by chance.
    let bits = RandomState::new().hash_one(0_u8);
    (bits >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_a_limit_and_begin_anew_after_a_success() {
        let (min, max) = (Duration::from_millis(100), Duration::from_secs(3));
        let mut retry = Retry::new(min, max);
        for most in [100, 200, 400, 800, 1600, 3000, 3000].map(Duration::from_millis) {
            let pause = retry.pause(None);
            assert!(pause >= most / 2 && pause <= most, "{pause:?} of {most:?}");
        }
        for _ in 0..100 {
            assert!(retry.pause(None) <= max);
        }
        retry.reset();
        assert!(retry.pause(None) <= min);
    }

    #[test]
    fn what_the_server_asks_for_is_kept_within_reason() {
        let mut retry = Retry::new(Duration::from_millis(1), Duration::from_millis(1));
        assert!(retry.pause(Some(Duration::from_secs(7))) >= Duration::from_secs(7));
        assert!(retry.pause(Some(Duration::from_secs(86_400))) <= 2 * ASKED_MAX);
    }
}
