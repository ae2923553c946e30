//! On-demand portals: used portals are activated, idle ones are evicted.

use std::time::Instant;

use netns_nft::NetnsId;
use proxy_core::portal::PortalKey;
use proxy_core::service::Protocol;

use super::Reconciler;
use crate::event::{Effect, HitCounts, Outcome};
use crate::netns_state::KernelState;
use crate::udp_cleanup::StalePortals;

impl Reconciler {
    /// Handles the first connection to a portal, which the relay serves. The kernel serves later ones.
    pub(super) fn on_portal_used(&mut self, netns: NetnsId, key: PortalKey, now: Instant) {
        let elements_max = self.elements_max(netns);
        let Some(namespace) = self.fleet.get_mut(netns) else { return };
        let view = self.views.get(&namespace.filter);
        let (Some(on_demand), Some(view)) = (&mut namespace.on_demand, view) else { return };
        let is_activated = on_demand.on_use(&view.portals, key, elements_max, now);
        self.counts.activated += u64::from(is_activated);
    }

    /// Handles the counters of an on-demand table.
    pub(super) fn on_hits_counted(&mut self, netns: NetnsId, hits: HitCounts, now: Instant) {
        let elements_max = self.elements_max(netns);
        let Some(namespace) = self.fleet.get_mut(netns) else { return };
        if let (Some(on_demand), Some(view)) = (&mut namespace.on_demand, self.views.get(&namespace.filter)) {
            if matches!(namespace.kernel, KernelState::Found) {
                on_demand.restore_from_counters(&view.portals, &hits, elements_max, now);
            } else {
                let evicted = on_demand.evict_idle(&view.portals, &hits, self.options.portal_idle, now);
                self.counts.evicted += u64::try_from(evicted).unwrap_or(u64::MAX);
            }
        }
        namespace.finish(Outcome::Counted(hits), now);
    }

    /// Moves UDP flows of portals that were activated some time ago from the relay to the kernel.
    pub(super) fn audit_on_demand(&mut self) {
        for (_, namespace) in self.fleet.iter_mut() {
            if let Some(on_demand) = &mut namespace.on_demand {
                let mut activated = on_demand.begin_audit();
                activated.retain(|key| key.protocol == Protocol::Udp);
                namespace.cleanup.add(StalePortals { activated, ..StalePortals::default() });
            }
        }
    }

    /// Advances network namespaces that the last change of their view does not affect. Their UDP flows may be affected,
    /// because a flow outlives an evicted portal.
    pub(super) fn fast_forward(&mut self) {
        for (_, namespace) in self.fleet.iter_mut() {
            let Some(view) = self.views.get(&namespace.filter) else { continue };
            let Some(previous) = namespace.fast_forward(view) else { continue };
            namespace.cleanup.add(view.stale_since(Some(previous)));
        }
    }

    /// Starts the clean-ups of UDP flows that are due.
    pub(super) fn start_cleanups(&mut self, now: Instant) {
        for (netns, namespace) in self.fleet.iter_mut() {
            let Some(view) = self.views.get(&namespace.filter) else { continue };
            let Some(stale) = namespace.cleanup.start(now) else { continue };
            let backends = view.udp_backends(&stale, namespace.on_demand.is_some());
            if backends.is_empty() {
                namespace.cleanup.end(true);
            } else {
                self.effects.push(Effect::DeleteStaleUdp(netns, backends));
            }
        }
    }

    /// Handles the end of a clean-up of UDP flows.
    pub(super) fn on_cleanup_done(&mut self, netns: NetnsId, is_complete: bool) {
        if let Some(namespace) = self.fleet.get_mut(netns) {
            namespace.cleanup.end(is_complete);
        }
    }
}
