//! `Timers`: when the next audit and the next write of the ruleset snapshot are due.

use std::time::{Duration, Instant};

/// The minimum time between two writes of the ruleset snapshot.
const STORE_INTERVAL: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Timers {
    audit_at: Instant,
    audited_at: Option<Instant>,
    /// When to write the snapshot, if it is outdated.
    store_at: Option<Instant>,
    stored_at: Option<Instant>,
}

impl Timers {
    /// Timers with the time of the first audit.
    pub(super) fn new(audit_at: Instant) -> Self {
        Self { audit_at, audited_at: None, store_at: None, stored_at: None }
    }

    /// The time of the last audit.
    pub(super) fn audited_at(&self) -> Option<Instant> {
        self.audited_at
    }

    /// Starts an audit if it is due, and schedules the next one. Returns whether it is due.
    pub(super) fn start_audit(&mut self, now: Instant, interval: Duration) -> bool {
        let is_due = self.audit_at <= now;
        if is_due {
            self.audit_at = now + interval;
            self.audited_at = Some(now);
        }
        is_due
    }

    /// Requests a write of the ruleset snapshot: the first one immediately, later ones within the interval.
    pub(super) fn request_store(&mut self, now: Instant) {
        let at = self.stored_at.map_or(now, |stored_at| stored_at + STORE_INTERVAL);
        self.store_at.get_or_insert(at);
    }

    /// Whether the ruleset snapshot must be written now.
    pub(super) fn is_store_due(&self, now: Instant) -> bool {
        self.store_at.is_some_and(|at| at <= now)
    }

    /// Records that the ruleset snapshot was written.
    pub(super) fn finish_store(&mut self, now: Instant) {
        (self.store_at, self.stored_at) = (None, Some(now));
    }

    /// The next time at which something is due.
    pub(super) fn deadline(&self) -> Instant {
        self.store_at.map_or(self.audit_at, |at| at.min(self.audit_at))
    }
}
