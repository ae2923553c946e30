//! `Grace`: frontends with `externalTrafficPolicy: Local` that have just lost their last endpoint on this node.
//!
//! kube-proxy drops their connections at once, but load balancers notice only after several health checks. With
//! `--external-policy-grace`, all endpoints of the cluster serve them for a while, masqueraded. The health check fails at
//! once, so the load balancer moves on.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use proxy_core::portal::{ChangedPortals, PortalKey, Portals, Verdict};
use proxy_core::ruleset::node::NodeRuleset;

/// The frontends in grace, with the end of each.
#[derive(Debug)]
pub(crate) struct Grace {
    duration: Duration,
    ends: BTreeMap<PortalKey, Instant>,
}

impl Grace {
    /// A grace of this duration; zero disables it.
    pub(crate) fn new(duration: Duration) -> Self {
        Self { duration, ends: BTreeMap::new() }
    }

    /// Returns the changed frontends that serve clients outside the cluster by endpoints on this node: those that can
    /// lose their last one. Call it before the ruleset is refreshed.
    pub(crate) fn candidates(&self, ruleset: &NodeRuleset, changed: &ChangedPortals) -> ChangedPortals {
        let serves_locally = |key: &&PortalKey| {
            let frontend = ruleset.frontend_at(**key);
            frontend.is_some_and(|frontend| frontend.short.is_some() && frontend.action.target().is_some())
        };
        changed.iter().filter(|_| !self.duration.is_zero()).filter(serves_locally).copied().collect()
    }

    /// Starts the grace of those candidates that have lost their last endpoint on this node. Returns them.
    pub(crate) fn start(
        &mut self,
        portals: &Portals,
        candidates: &ChangedPortals,
        now: Instant,
    ) -> ChangedPortals {
        let has_lost = |key: &&PortalKey| {
            let node = portals.get(**key).and_then(|portal| portal.node.as_ref());
            node.and_then(|node| node.external.as_ref())
                .is_some_and(|external| external.verdict == Verdict::Drop)
        };
        let lost: ChangedPortals = candidates.iter().filter(has_lost).copied().collect();
        self.ends.extend(lost.iter().map(|key| (*key, now + self.duration)));
        lost
    }

    /// Returns the frontends in grace.
    pub(crate) fn frontends(&self) -> ChangedPortals {
        self.ends.keys().copied().collect()
    }

    /// Returns the frontends whose grace has ended.
    pub(crate) fn take_ended(&mut self, now: Instant) -> ChangedPortals {
        let ended: ChangedPortals =
            self.ends.iter().filter(|(_, end)| **end <= now).map(|(key, _)| *key).collect();
        self.ends.retain(|_, end| *end > now);
        ended
    }

    /// Returns the next end.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.ends.values().min().copied()
    }
}
