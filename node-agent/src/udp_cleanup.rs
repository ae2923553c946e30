//! `UdpCleanup`: schedules the deletion of conntrack entries of UDP flows to removed backends, for one network
//! namespace.
//!
//! A clean-up walks the node-wide conntrack table, so at most one is running per network namespace. Changes in the
//! meantime are coalesced into the next one.

use std::time::{Duration, Instant};

use proxy_core::portal::ChangedPortals;

/// The minimum time between the starts of two clean-ups of one network namespace.
pub(crate) const CLEANUP_INTERVAL: Duration = Duration::from_secs(1);

/// The UDP portals whose flows a clean-up checks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct StalePortals {
    /// All portals of the view.
    pub(crate) is_all: bool,
    /// Portals that changed.
    pub(crate) changed: ChangedPortals,
    /// Portals that were activated recently: their flows must leave the relay.
    pub(crate) activated: ChangedPortals,
}

impl StalePortals {
    fn is_empty(&self) -> bool {
        !self.is_all && self.changed.is_empty() && self.activated.is_empty()
    }

    fn merge(&mut self, more: Self) {
        self.is_all |= more.is_all;
        self.activated.extend(more.activated);
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
    /// The portals of the running clean-up.
    running: Option<StalePortals>,
    not_before: Option<Instant>,
}

impl UdpCleanup {
    /// Adds portals to the next clean-up.
    pub(crate) fn add(&mut self, stale: StalePortals) {
        self.pending.merge(stale);
    }

    /// Starts the next clean-up, if one is due.
    pub(crate) fn start(&mut self, now: Instant) -> Option<StalePortals> {
        if self.is_blocked() || self.not_before.is_some_and(|at| at > now) {
            return None;
        }
        self.not_before = Some(now + CLEANUP_INTERVAL);
        let due = std::mem::take(&mut self.pending);
        self.running = Some(due.clone());
        Some(due)
    }

    /// Records the end of the running clean-up. An incomplete one is repeated.
    pub(crate) fn end(&mut self, is_complete: bool) {
        if let Some(unfinished) = self.running.take().filter(|_| !is_complete) {
            self.pending.merge(unfinished);
        }
    }

    /// The time at which the next clean-up is due.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.not_before.filter(|_| !self.is_blocked())
    }

    /// Whether no clean-up can start, regardless of the time.
    fn is_blocked(&self) -> bool {
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
    fn changes_during_a_cleanup_are_coalesced_into_the_next_one() {
        let start = Instant::now();
        let mut cleanup = UdpCleanup::default();
        assert_eq!((cleanup.start(start), cleanup.deadline()), (None, None));
        cleanup.add(stale(&["10.96.0.1:53"]));
        assert_eq!(cleanup.start(start), Some(stale(&["10.96.0.1:53"])), "the first starts at once");
        for number in 0..1_000 {
            cleanup.add(stale(&[["10.96.0.2:53", "10.96.0.3:53"][number % 2]]));
        }
        let late = start + 10 * CLEANUP_INTERVAL;
        assert_eq!((cleanup.start(late), cleanup.deadline()), (None, None), "one is running");
        cleanup.end(true);
        assert_eq!(cleanup.start(start), None, "too early");
        assert_eq!(cleanup.deadline(), Some(start + CLEANUP_INTERVAL));
        assert_eq!(cleanup.start(start + CLEANUP_INTERVAL), Some(stale(&["10.96.0.2:53", "10.96.0.3:53"])));
    }

    #[test]
    fn incomplete_cleanup_is_repeated_together_with_later_changes() {
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
    fn cleanup_of_all_portals_stores_no_list() {
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
