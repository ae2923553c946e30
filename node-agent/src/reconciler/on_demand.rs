//! Portals on demand in `Reconciler`: what is used is programmed, what is not used any more goes.
//!
//! What must not go in here: what one network namespace uses; that is `OnDemandSet`'s.

use std::time::Instant;

use netns_nft::NetnsId;
use proxy_core::portal::PortalKey;
use proxy_core::service::Protocol;

use super::Reconciler;
use crate::event::{Effect, HitCounts, Outcome};
use crate::netns_state::KernelState;
use crate::udp_cleanup::StalePortals;

impl Reconciler {
    /// A first connection came to the relay, which serves it; the kernel is to serve all later ones.
    pub(super) fn used(&mut self, netns: NetnsId, key: PortalKey, now: Instant) {
        let most = self.elements_max(netns);
        let Some(member) = self.members.get_mut(&netns) else { return };
        let (Some(demand), Some(state)) = (&mut member.demand, self.views.get(&member.view)) else { return };
        self.counts.taken_in += u64::from(demand.used(&state.portals, key, most, now));
    }

    /// The kernel has told what is used.
    pub(super) fn counted(&mut self, netns: NetnsId, hits: HitCounts, now: Instant) {
        let most = self.elements_max(netns);
        let Some(member) = self.members.get_mut(&netns) else { return };
        if let (Some(demand), Some(state)) = (&mut member.demand, self.views.get(&member.view)) {
            if matches!(member.standing, KernelState::Found) {
                demand.recall(&state.portals, &hits, most, now);
            } else {
                let gone = demand.counted(&state.portals, &hits, self.options.portal_idle, now);
                self.counts.let_go += u64::try_from(gone).unwrap_or(u64::MAX);
            }
        }
        member.settle(Outcome::Counted(hits), now);
    }

    /// Takes UDP flows from the relay whose portals it has by now.
    pub(super) fn audit_demand(&mut self) {
        for member in self.members.values_mut() {
            if let Some(demand) = &mut member.demand {
                let mut taken_in = demand.audit();
                taken_in.retain(|key| key.protocol == Protocol::Udp);
                member.cleanup.add(StalePortals { taken_in, ..StalePortals::default() });
            }
        }
    }

    /// Those whom the last change of their view does not concern have it at once, but for their UDP flows: a
    /// flow outlives the portal by which it began.
    pub(super) fn catch_up(&mut self) {
        for member in self.members.values_mut() {
            let Some(state) = self.views.get(&member.view) else { continue };
            let Some(before) = member.catch_up(state) else { continue };
            member.cleanup.add(state.stale_since(Some(before)));
        }
    }

    /// Starts the clean-ups of UDP flows that are due.
    pub(super) fn clean_up(&mut self, now: Instant) {
        for (netns, member) in &mut self.members {
            let Some(state) = self.views.get(&member.view) else { continue };
            let Some(stale) = member.cleanup.start(now) else { continue };
            let flows = state.flows(&stale, member.demand.is_some());
            if flows.is_empty() {
                member.cleanup.end(true);
            } else {
                self.effects.push(Effect::DeleteStaleUdp(*netns, flows));
            }
        }
    }

    /// A clean-up of UDP flows ended.
    pub(super) fn cleaned_up(&mut self, netns: NetnsId, is_complete: bool) {
        if let Some(member) = self.members.get_mut(&netns) {
            member.cleanup.end(is_complete);
        }
    }
}
