//! `UdpCleanup`: the UDP flows of one network namespace that may still lead to backends that are gone.
//!
//! A clean-up walks the node-wide connection table, so each network namespace has at most one under way, and
//! what changes meanwhile is coalesced into the next one. What must not go in here: the flows themselves.

use std::time::{Duration, Instant};

use proxy_core::portal::ChangedPortals;

/// Between the starts of two clean-ups of one network namespace there is at least this time.
pub(crate) const CLEANUP_INTERVAL: Duration = Duration::from_secs(1);

/// Which UDP portals a clean-up is about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct StalePortals {
    /// All portals of the view.
    pub(crate) is_all: bool,
    /// These portals.
    pub(crate) changed: ChangedPortals,
    /// Portals that the relay served until lately: flows may stay with the relay no longer.
    pub(crate) taken_in: ChangedPortals,
}

impl StalePortals {
    fn is_empty(&self) -> bool {
        !self.is_all && self.changed.is_empty() && self.taken_in.is_empty()
    }

    fn merge(&mut self, more: Self) {
        self.is_all |= more.is_all;
        self.taken_in.extend(more.taken_in);
        if self.is_all {
            self.changed.clear();
        } else {
            self.changed.extend(more.changed);
        }
    }
}

/// The clean-ups of one network namespace.
#[derive(Debug, Default)]
pub(crate) struct UdpCleanup {
    pending: StalePortals,
    /// What the clean-up that is under way is about.
    running: Option<StalePortals>,
    not_before: Option<Instant>,
}

impl UdpCleanup {
    /// Coalesces these portals into the next clean-up.
    pub(crate) fn add(&mut self, stale: StalePortals) {
        self.pending.merge(stale);
    }

    /// The clean-up to start now, if one is due.
    pub(crate) fn start(&mut self, now: Instant) -> Option<StalePortals> {
        if self.is_waiting() || self.not_before.is_some_and(|at| at > now) {
            return None;
        }
        self.not_before = Some(now + CLEANUP_INTERVAL);
        let due = std::mem::take(&mut self.pending);
        self.running = Some(due.clone());
        Some(due)
    }

    /// The clean-up that was under way ended; one that is not complete is repeated.
    pub(crate) fn end(&mut self, is_complete: bool) {
        if let Some(unfinished) = self.running.take().filter(|_| !is_complete) {
            self.pending.merge(unfinished);
        }
    }

    /// When time alone makes the next clean-up due.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.not_before.filter(|_| !self.is_waiting())
    }

    /// Whether there is nothing to start, whatever the time.
    fn is_waiting(&self) -> bool {
        self.running.is_some() || self.pending.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proxy_core::sample::udp;

    use super::*;

    fn stale(portals: &[&str]) -> StalePortals {
        StalePortals {
            changed: portals.iter().map(|portal| udp(portal)).collect(),
            ..StalePortals::default()
        }
    }

    #[test]
    fn one_cleanup_is_under_way_and_all_later_changes_are_one() {
        let start = Instant::now();
        let mut cleanup = UdpCleanup::default();
        assert_eq!((cleanup.start(start), cleanup.deadline()), (None, None));
        cleanup.add(stale(&["10.96.0.1:53"]));
        assert_eq!(cleanup.start(start), Some(stale(&["10.96.0.1:53"])), "the first starts at once");
        for number in 0..1_000 {
            cleanup.add(stale(&[["10.96.0.2:53", "10.96.0.3:53"][number % 2]]));
        }
        let late = start + 10 * CLEANUP_INTERVAL;
        assert_eq!((cleanup.start(late), cleanup.deadline()), (None, None), "one is under way");
        cleanup.end(true);
        assert_eq!(cleanup.start(start), None, "too early");
        assert_eq!(cleanup.deadline(), Some(start + CLEANUP_INTERVAL));
        assert_eq!(cleanup.start(start + CLEANUP_INTERVAL), Some(stale(&["10.96.0.2:53", "10.96.0.3:53"])));
    }

    #[test]
    fn an_incomplete_cleanup_is_repeated_with_what_came_meanwhile() {
        let start = Instant::now();
        let mut cleanup = UdpCleanup::default();
        cleanup.add(stale(&["10.96.0.1:53"]));
        cleanup.start(start).expect("due");
        cleanup.add(stale(&["10.96.0.2:53"]));
        cleanup.end(false);
        let all = stale(&["10.96.0.1:53", "10.96.0.2:53"]);
        assert_eq!(cleanup.start(start + CLEANUP_INTERVAL), Some(all));
        cleanup.end(true);
        assert_eq!(cleanup.start(start + 2 * CLEANUP_INTERVAL), None, "nothing is left");
    }

    #[test]
    fn a_cleanup_of_all_portals_holds_no_list_of_them() {
        let mut cleanup = UdpCleanup::default();
        cleanup.add(stale(&["10.96.0.1:53"]));
        cleanup.add(StalePortals { is_all: true, ..StalePortals::default() });
        cleanup.add(stale(&["10.96.0.2:53"]));
        assert_eq!(
            cleanup.start(Instant::now()),
            Some(StalePortals { is_all: true, ..StalePortals::default() })
        );
    }
}
