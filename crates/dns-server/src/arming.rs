//! `Arming`: when the redirect of one pod is armed, renewed and disarmed. A pure state machine.
//!
//! ```text
//! start ─ Arm, Probe ─► Checking ─ all confirmed ─► Armed ─ after 3 s ─ Probe ─► Checking ─ all confirmed: Arm ─► Armed
//!                          │ no response to the first check: Disarm                  │ fails: Probe again
//!                          ▼                                                         ▼ element expired
//!                        Failed ─ after 5 s ─ Arm, Probe ─► Checking               Failed
//! ```
//! The kernel removes an armed element 10 s after its last renewal. It is renewed only after a query through each DNS
//! address of the pod arrived at this thread and its response came back, so a thread that hangs, or rules that lead
//! elsewhere, end the redirect, and the ordinary portal of the cluster's DNS serves the pod.

use std::time::{Duration, Instant};

/// The interval of renewals.
const RENEW_INTERVAL: Duration = Duration::from_secs(3);
/// The time in which the response to a probe must arrive.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);
/// The delay after a failed check.
const RETRY_DELAY: Duration = Duration::from_secs(5);

/// What the caller must do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ArmingStep {
    /// Discard queued queries, which are older than the redirect that expired. A full queue would drop the next ones.
    Discard,
    /// Add or renew the element.
    Arm,
    /// Send a query through each DNS address.
    Probe,
    /// Remove the element.
    Disarm,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Not started, or ended.
    Idle,
    /// Probes are on their way. `is_first`: the element was added before them.
    Checking {
        is_first: bool,
        until: Instant,
    },
    Armed {
        renew_at: Instant,
    },
    Failed {
        retry_at: Instant,
    },
}

/// The state of one pod.
#[derive(Debug)]
pub(crate) struct Arming {
    state: State,
    /// The DNS addresses whose probe is not confirmed yet, by index.
    awaited: u64,
    /// The DNS addresses that need no confirmation in this check.
    excused: u64,
    all: u64,
    /// When the kernel removes the element.
    expires_at: Option<Instant>,
    lifetime: Duration,
}

impl Arming {
    /// The state of a pod with this number of DNS addresses, at most 64.
    pub(crate) fn new(addresses: usize, lifetime: Duration) -> Self {
        let all = if addresses >= 64 { u64::MAX } else { (1 << addresses) - 1 };
        Self { state: State::Idle, awaited: 0, excused: 0, all, expires_at: None, lifetime }
    }

    /// Whether the kernel redirects queries to this server.
    pub(crate) fn is_armed(&self, now: Instant) -> bool {
        self.expires_at.is_some_and(|at| at > now)
    }

    /// Whether the last check succeeded.
    pub(crate) fn is_confirmed(&self) -> bool {
        matches!(self.state, State::Armed { .. })
    }

    /// Whether the last check failed.
    pub(crate) fn has_failed(&self) -> bool {
        matches!(self.state, State::Failed { .. })
    }

    /// The next time at which `due` must be called.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        match self.state {
            State::Idle => None,
            State::Checking { until: at, .. }
            | State::Armed { renew_at: at }
            | State::Failed { retry_at: at } => Some(at),
        }
    }

    /// Starts to arm the pod.
    pub(crate) fn start(&mut self, now: Instant) -> Vec<ArmingStep> {
        self.expires_at = Some(now + self.lifetime);
        self.check(true, now);
        vec![ArmingStep::Discard, ArmingStep::Arm, ArmingStep::Probe]
    }

    /// Continues with an element that another process armed: it renewed it at most one interval ago.
    pub(crate) fn adopt(&mut self, now: Instant) {
        self.expires_at = Some(now + self.lifetime - RENEW_INTERVAL - PROBE_TIMEOUT);
        self.state = State::Armed { renew_at: now + RENEW_INTERVAL };
    }

    /// Ends the redirect.
    pub(crate) fn stop(&mut self) -> Vec<ArmingStep> {
        let was_idle = std::mem::replace(&mut self.state, State::Idle) == State::Idle;
        self.expires_at = None;
        if was_idle { Vec::new() } else { vec![ArmingStep::Disarm] }
    }

    /// Records that the response to the probe of an address arrived.
    pub(crate) fn confirm(&mut self, address: usize, now: Instant) -> Vec<ArmingStep> {
        let State::Checking { is_first, .. } = self.state else { return Vec::new() };
        self.awaited &= !Self::bit(address);
        if self.awaited > 0 {
            return Vec::new();
        }
        self.state = State::Armed { renew_at: now + RENEW_INTERVAL };
        if is_first {
            return Vec::new();
        }
        self.expires_at = Some(now + self.lifetime);
        vec![ArmingStep::Arm]
    }

    /// Records that the pod has no route to an address, so that no client can send a query to it.
    pub(crate) fn excuse(&mut self, address: usize) {
        self.awaited &= !Self::bit(address);
        self.excused |= Self::bit(address);
    }

    /// Records that the kernel refused to add or renew the element.
    pub(crate) fn fail(&mut self, now: Instant) {
        self.expires_at = None;
        self.state = State::Failed { retry_at: now + RETRY_DELAY };
    }

    /// Does what is due.
    pub(crate) fn due(&mut self, now: Instant) -> Vec<ArmingStep> {
        if self.deadline().is_none_or(|at| at > now) {
            return Vec::new();
        }
        let is_armed = self.is_armed(now);
        match self.state {
            State::Idle => Vec::new(),
            // The element expired while this thread did not run, or after a failure.
            State::Armed { .. } | State::Failed { .. } if !is_armed => self.start(now),
            State::Armed { .. } | State::Failed { .. } | State::Checking { .. }
                if is_armed && !self.is_first_check_without_response() =>
            {
                self.check(false, now);
                vec![ArmingStep::Probe]
            }
            State::Armed { .. } | State::Failed { .. } | State::Checking { .. } => {
                self.fail(now);
                vec![ArmingStep::Disarm]
            }
        }
    }

    /// Whether nothing proves yet that queries reach this server. A response through one address proves it; the others
    /// can need more time, for example while the kernel verifies that the pod's IPv6 address is unique.
    fn is_first_check_without_response(&self) -> bool {
        matches!(self.state, State::Checking { is_first: true, .. })
            && self.awaited | self.excused == self.all
    }

    fn bit(address: usize) -> u64 {
        1_u64.checked_shl(u32::try_from(address).unwrap_or(u32::MAX)).unwrap_or(0)
    }

    fn check(&mut self, is_first: bool, now: Instant) {
        self.awaited = self.all;
        self.excused = 0;
        self.state = State::Checking { is_first, until: now + PROBE_TIMEOUT };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFETIME: Duration = Duration::from_secs(10);
    const SECOND: Duration = Duration::from_secs(1);
    const ARMS: [ArmingStep; 3] = [ArmingStep::Discard, ArmingStep::Arm, ArmingStep::Probe];

    fn armed(now: Instant) -> Arming {
        let mut arming = Arming::new(2, LIFETIME);
        assert_eq!(arming.start(now), ARMS);
        assert_eq!((arming.confirm(0, now), arming.confirm(1, now)), (vec![], vec![]));
        arming
    }

    #[test]
    fn element_is_renewed_every_three_seconds_after_a_probe_of_each_address() {
        let start = Instant::now();
        let mut arming = armed(start);
        for round in 1..20 {
            let now = start + 3 * SECOND * round;
            assert_eq!(arming.deadline(), Some(now));
            assert_eq!(arming.due(now), [ArmingStep::Probe]);
            assert_eq!(arming.confirm(1, now), [], "the other address is not confirmed");
            assert_eq!(arming.confirm(0, now), [ArmingStep::Arm]);
            assert!(arming.is_armed(now + 9 * SECOND) && !arming.is_armed(now + 10 * SECOND));
        }
    }

    #[test]
    fn address_that_is_confirmed_later_does_not_disarm_the_other() {
        let start = Instant::now();
        let mut arming = Arming::new(2, LIFETIME);
        arming.start(start);
        assert_eq!(arming.confirm(0, start), []);
        assert_eq!(arming.due(start + SECOND), [ArmingStep::Probe]);
        assert!(arming.is_armed(start + SECOND));
        assert_eq!(arming.confirm(0, start + SECOND), []);
        assert_eq!(arming.confirm(1, start + 2 * SECOND), [ArmingStep::Arm]);
        assert!(arming.is_armed(start + 11 * SECOND) && arming.is_confirmed());
    }

    #[test]
    fn address_that_is_never_confirmed_disarms_the_pod_when_the_element_expires() {
        let start = Instant::now();
        let mut arming = Arming::new(2, LIFETIME);
        arming.start(start);
        for second in 1..10 {
            assert_eq!(arming.confirm(0, start), []);
            assert_eq!(arming.due(start + second * SECOND), [ArmingStep::Probe]);
        }
        assert_eq!(arming.due(start + LIFETIME), [ArmingStep::Disarm]);
        assert!(arming.has_failed());
    }

    #[test]
    fn address_without_a_route_needs_no_response() {
        let now = Instant::now();
        let mut arming = Arming::new(2, LIFETIME);
        arming.start(now);
        arming.excuse(1);
        assert_eq!(arming.confirm(0, now), []);
        assert!(arming.is_confirmed());
    }

    #[test]
    fn address_without_a_route_is_no_proof_for_the_other() {
        let start = Instant::now();
        let mut arming = Arming::new(2, LIFETIME);
        arming.start(start);
        arming.excuse(1);
        assert_eq!(arming.due(start + SECOND), [ArmingStep::Disarm]);
    }

    #[test]
    fn pod_whose_first_probe_fails_is_disarmed_and_tried_again() {
        let start = Instant::now();
        let mut arming = Arming::new(1, LIFETIME);
        arming.start(start);
        assert_eq!(arming.due(start + SECOND), [ArmingStep::Disarm]);
        assert!(arming.has_failed() && !arming.is_armed(start + SECOND));
        assert_eq!(arming.due(start + 6 * SECOND), ARMS);
    }

    #[test]
    fn element_of_a_pod_that_stops_confirming_is_left_to_expire() {
        let start = Instant::now();
        let mut arming = armed(start);
        let mut now = start;
        while let Some(at) = arming.deadline().filter(|_| !arming.has_failed()) {
            now = at;
            let steps = arming.due(now);
            assert!(!steps.contains(&ArmingStep::Arm), "no renewal without a confirmed probe");
        }
        assert!(now >= start + LIFETIME && now <= start + LIFETIME + SECOND, "{:?}", now - start);
    }

    #[test]
    fn thread_that_did_not_run_for_longer_than_the_lifetime_starts_again() {
        let start = Instant::now();
        let mut arming = armed(start);
        assert_eq!(arming.due(start + 60 * SECOND), ARMS);
    }

    #[test]
    fn late_confirmation_of_an_earlier_check_arms_nothing() {
        let start = Instant::now();
        let mut arming = armed(start);
        assert_eq!(arming.confirm(0, start + SECOND), []);
        assert_eq!(arming.stop(), [ArmingStep::Disarm]);
        assert_eq!((arming.confirm(0, start), arming.stop(), arming.deadline()), (vec![], vec![], None));
    }
}
