//! `ProxyHealth`: whether received changes reach the kernel in time, and whether the node is about to be deleted.
//!
//! The definitions are kube-proxy's (proxy_health.go): the proxy is healthy unless a change has been pending for the
//! timeout, so also before the first change. Methods take the time as an argument, so tests do not wait.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// kube-proxy's timeout: two of its sync periods of 30 seconds.
pub const HEALTH_TIMEOUT: Duration = Duration::from_secs(60);

/// The health of the proxy and its node. The thread that programs the kernel writes it, and the servers read it.
#[derive(Debug)]
pub struct ProxyHealth {
    timeout: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Clone, Copy, Default)]
struct State {
    pending_since: Option<Instant>,
    updated_at: Option<SystemTime>,
    is_leaving: bool,
}

/// The health at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct HealthStatus {
    /// Whether no change has been pending for too long.
    pub(super) is_healthy: bool,
    /// The time of the last update of the kernel.
    pub(super) updated_at: Option<SystemTime>,
    /// Whether load balancers can send new connections to the node.
    pub(super) is_node_eligible: bool,
}

impl ProxyHealth {
    /// A healthy proxy without changes.
    #[must_use]
    pub const fn new(timeout: Duration) -> Self {
        let state = State { pending_since: None, updated_at: None, is_leaving: false };
        Self { timeout, state: Mutex::new(state) }
    }

    /// Records that a change was received, unless one is pending already.
    pub fn set_pending(&self, now: Instant) {
        self.state().pending_since.get_or_insert(now);
    }

    /// Records that the kernel has all received changes.
    pub fn set_updated(&self, time: SystemTime) {
        let mut state = self.state();
        state.pending_since = None;
        state.updated_at = Some(time);
    }

    /// Records whether the node is about to be deleted (`Node::is_leaving`).
    pub fn set_leaving(&self, is_leaving: bool) {
        self.state().is_leaving = is_leaving;
    }

    /// Returns the health at this time.
    pub(super) fn status(&self, now: Instant) -> HealthStatus {
        let State { pending_since, updated_at, is_leaving } = *self.state();
        let is_late = |since: Instant| now.saturating_duration_since(since) >= self.timeout;
        HealthStatus {
            is_healthy: !pending_since.is_some_and(is_late),
            updated_at,
            is_node_eligible: !is_leaving,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_healthy(health: &ProxyHealth, now: Instant) -> bool {
        health.status(now).is_healthy
    }

    #[test]
    fn proxy_is_healthy_until_a_change_has_been_pending_for_the_timeout() {
        let health = ProxyHealth::new(HEALTH_TIMEOUT);
        let start = Instant::now();
        let late = start + HEALTH_TIMEOUT;
        assert!(is_healthy(&health, late), "no change yet");
        health.set_pending(start);
        // Later changes do not extend the time.
        health.set_pending(late - Duration::from_secs(1));
        assert!(is_healthy(&health, late - Duration::from_millis(1)));
        assert!(!is_healthy(&health, late));
        health.set_updated(SystemTime::UNIX_EPOCH);
        assert!(is_healthy(&health, late));
        assert_eq!(health.status(late).updated_at, Some(SystemTime::UNIX_EPOCH));
        health.set_pending(late);
        assert!(is_healthy(&health, late) && !is_healthy(&health, late + HEALTH_TIMEOUT));
    }

    #[test]
    fn leaving_node_is_not_eligible_and_its_proxy_stays_healthy() {
        let health = ProxyHealth::new(HEALTH_TIMEOUT);
        health.set_leaving(true);
        let HealthStatus { is_healthy, is_node_eligible, .. } = health.status(Instant::now());
        assert!(is_healthy && !is_node_eligible);
        // The autoscaler can change its decision, and removes the taint.
        health.set_leaving(false);
        assert!(health.status(Instant::now()).is_node_eligible);
    }
}
