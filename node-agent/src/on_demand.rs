//! `OnDemandSet`: what one network namespace on demand is to hold, since it used it lately.
//!
//! The relay tells of first connections, the kernel counts all later ones. What must not go in here: when
//! the kernel is asked, and how changes are sent.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proxy_core::plan::plan_changed;
use proxy_core::portal::{ChangedPortals, PortalKey, Portals};
use proxy_core::ruleset::{Ruleset, Settings};

use crate::event::HitCounts;
use crate::view::{EncodedBatch, ViewDelta, ViewState};

/// Beyond so many portals a full table costs more than first connections that are relayed.
pub(crate) const ON_DEMAND_ABOVE: usize = 2_000;

/// Which portals a network namespace gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ProgrammingMode {
    /// All that it sees.
    All,
    /// Those that it uses.
    OnDemand,
    /// Those that it uses, where it sees more than so many.
    OnDemandAbove(usize),
}

impl ProgrammingMode {
    /// Whether a network namespace that sees so many portals gets only those that it uses.
    pub(crate) fn is_on_demand(self, portals: usize) -> bool {
        match self {
            Self::All => false,
            Self::OnDemand => true,
            Self::OnDemandAbove(most) => portals > most,
        }
    }
}

/// When an address was used.
#[derive(Debug)]
struct Usage {
    /// What the kernel counted last.
    connections: u64,
    /// When that was another number than before.
    since: Instant,
}

/// What a network namespace on demand is to hold.
#[derive(Debug)]
pub(crate) struct OnDemandSet {
    /// The table that should stand in the kernel.
    pub(crate) desired: Ruleset,
    /// What is new in it since a transaction was made last.
    touched: ChangedPortals,
    /// Whether anything is.
    pub(crate) is_dirty: bool,
    usage: BTreeMap<IpAddr, Usage>,
    /// Whether the kernel has told what it held before this agent.
    pub(crate) is_recalled: bool,
    /// Whether the kernel is to be asked what is used.
    pub(crate) is_count_due: bool,
    /// Portals that were taken in since the last audit, and between that and the one before.
    taken_in: [ChangedPortals; 2],
}

impl OnDemandSet {
    /// Nothing is used yet; `base` holds what is always there.
    pub(crate) fn new(base: Ruleset) -> Self {
        Self {
            desired: base,
            touched: ChangedPortals::new(),
            is_dirty: false,
            usage: BTreeMap::new(),
            is_recalled: false,
            is_count_due: false,
            taken_in: Default::default(),
        }
    }

    /// The same for a network namespace that had a full table: that is to be replaced.
    pub(crate) fn instead_of_all(base: Ruleset) -> Self {
        Self { is_dirty: true, ..Self::new(base) }
    }

    /// A first connection came to the relay. True where the portals of its address are taken in now, of which the
    /// table has room for so many elements.
    pub(crate) fn used(&mut self, portals: &Portals, key: PortalKey, most: usize, now: Instant) -> bool {
        if let Some(usage) = self.usage.get_mut(&key.address) {
            usage.since = now;
            return false;
        }
        let is_wanted = match portals.get(key) {
            // What is relayed in the kernel's own table is relayed for ever.
            Some(portal) => !portal.is_relayed(),
            // A wrong port of a cluster address; others are not the service's.
            None => portals.service_ranges().iter().any(|net| net.contains(&key.address)),
        };
        is_wanted && self.take_in(portals, key.address, most, now)
    }

    fn take_in(&mut self, portals: &Portals, address: IpAddr, most: usize, now: Instant) -> bool {
        let before = self.desired.size();
        let new = self.desired.activate(portals, address);
        if new.is_empty() || self.desired.size() > most.max(before) {
            // Nobody's address, one that is always there, or one for which there is no room: the relay goes on.
            self.desired.evict(portals, address);
            return false;
        }
        self.usage.insert(address, Usage { connections: 0, since: now });
        self.taken_in[0].extend(new.iter().copied());
        self.changed(new);
        true
    }

    fn changed(&mut self, new: ChangedPortals) {
        self.is_dirty |= !new.is_empty();
        self.touched.extend(new);
    }

    /// What stood in the kernel before this agent is what is used. Outside of the service ranges each portal stands
    /// there, used or not, so there it is what was counted.
    pub(crate) fn recall(&mut self, portals: &Portals, hits: &HitCounts, most: usize, now: Instant) {
        self.is_recalled = true;
        let is_in_range = |address| portals.service_ranges().iter().any(|net| net.contains(&address));
        for (address, connections) in by_address(hits) {
            let is_used = connections > 0 || is_in_range(address);
            if is_used && self.take_in(portals, address, most, now) {
                self.usage.insert(address, Usage { connections, since: now });
            }
        }
    }

    /// The kernel tells how often each portal was used. Lets those go that were not for so long, and says how
    /// many addresses they were. Connections that are established do not notice.
    pub(crate) fn counted(
        &mut self,
        portals: &Portals,
        hits: &HitCounts,
        idle: Duration,
        now: Instant,
    ) -> usize {
        let counted = by_address(hits);
        for (address, usage) in &mut self.usage {
            // A table that was replaced counts anew: every other number is a use, not only a greater one.
            let connections = counted.get(address).copied().unwrap_or(0);
            if usage.connections != connections {
                *usage = Usage { connections, since: now };
            }
        }
        let is_idle = |usage: &Usage| now.duration_since(usage.since) >= idle;
        let gone: Vec<IpAddr> =
            self.usage.iter().filter(|(_, usage)| is_idle(usage)).map(|(address, _)| *address).collect();
        for address in &gone {
            self.usage.remove(address);
            let new = self.desired.evict(portals, *address);
            self.changed(new);
        }
        gone.len()
    }

    /// The view has changed; true where that is a change here. What is used may have grown: of that the table keeps so
    /// many elements, and what has to go is served by the relay.
    pub(crate) fn follow(&mut self, portals: &Portals, moved: &ViewDelta, most: usize) -> bool {
        let used = moved.new.iter().filter(|key| self.desired.is_active(key.address));
        let here: ChangedPortals = used.chain(&moved.always).copied().collect();
        if !here.is_empty() || moved.are_ranges_new {
            let new = self.desired.refresh(portals, &here);
            self.changed(new);
            self.is_dirty |= moved.are_ranges_new;
        }
        while self.desired.size() > most {
            let Some(address) = self.desired.active_addresses().next() else { break };
            self.usage.remove(&address);
            let gone = self.desired.evict(portals, address);
            self.changed(gone);
        }
        self.is_dirty
    }

    /// The table that is to stand there, as the aim of a transaction that is made now, and what is new in it.
    pub(crate) fn aim(&mut self) -> (Ruleset, ChangedPortals) {
        self.is_dirty = false;
        (self.desired.clone(), std::mem::take(&mut self.touched))
    }

    /// The batch that leads to an aim whatever is there: the view's own where nothing is used yet.
    pub(crate) fn fresh_batch(view: &mut ViewState, aim: &Ruleset) -> Arc<EncodedBatch> {
        if aim.active_addresses().next().is_none() && aim.settings().is_some_and(Settings::has_relay) {
            return view.base_batch();
        }
        Arc::new(EncodedBatch::fresh(aim))
    }

    /// The batch that leads from what stands there to an aim.
    pub(crate) fn batch_from(
        applied: &Ruleset,
        aim: &Ruleset,
        touched: &ChangedPortals,
    ) -> Arc<EncodedBatch> {
        Arc::new(EncodedBatch::of(&plan_changed(applied, aim, touched)))
    }

    /// An audit begins. Gives the portals that were taken in some time ago: answers to what
    /// the relay has sent on before are back, so that its flows may go to the kernel now.
    pub(crate) fn audit(&mut self) -> ChangedPortals {
        let lately = std::mem::take(&mut self.taken_in[0]);
        std::mem::replace(&mut self.taken_in[1], lately)
    }
}

fn by_address(hits: &HitCounts) -> BTreeMap<IpAddr, u64> {
    let mut counted = BTreeMap::new();
    for (key, connections) in hits {
        *counted.entry(key.address).or_default() += connections;
    }
    counted
}
