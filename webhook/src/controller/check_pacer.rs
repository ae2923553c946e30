//! `CheckPacer`: runs one check at a time, and at most 10 % of the time.
//!
//! A check of many services takes CPU time that admission needs, and tenants cause checks by changing services.

use std::time::{Duration, Instant};

/// After a check the next one waits this many times as long as the check took.
const PAUSE_FACTOR: u32 = 9;

/// Decides when a check may start.
#[derive(Debug, Default)]
pub(super) struct CheckPacer {
    is_checking: bool,
    not_before: Option<Instant>,
}

impl CheckPacer {
    /// The time from which a check may start; `None` while one is running.
    pub(super) fn next_start(&self, now: Instant) -> Option<Instant> {
        (!self.is_checking).then(|| self.not_before.unwrap_or(now))
    }

    pub(super) fn start(&mut self) {
        self.is_checking = true;
    }

    /// Records the end of a check, with its duration unless the check failed.
    pub(super) fn finish(&mut self, took: Option<Duration>, now: Instant) {
        self.is_checking = false;
        self.not_before = took.map(|took| now + took * PAUSE_FACTOR).or(self.not_before);
    }
}
