//! `OnDemandSet`: the portals that one network namespace uses, and the table with only these.
//!
//! The relay reports the first connection to a portal, which is then activated; the kernel counts all later ones.
//! Portals without new connections for the idle time are evicted.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proxy_core::plan::plan_changed;
use proxy_core::portal::{ChangedPortals, PortalKey, Portals};
use proxy_core::ruleset::{Ruleset, Settings};

use crate::event::HitCounts;
use crate::view::{EncodedBatch, ViewDelta, ViewState};

/// With more portals than this, full tables cost more than relaying first connections.
pub(crate) const ON_DEMAND_ABOVE: usize = 2_000;

/// Which portals are programmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ProgrammingMode {
    /// All visible portals.
    All,
    /// Portals in use.
    OnDemand,
    /// Portals in use, for pods that see more portals than this; otherwise all.
    OnDemandAbove(usize),
}

impl ProgrammingMode {
    /// Whether only the portals in use are programmed for a pod that sees this number of portals.
    pub(crate) fn is_on_demand(self, portals: usize) -> bool {
        match self {
            Self::All => false,
            Self::OnDemand => true,
            Self::OnDemandAbove(limit) => portals > limit,
        }
    }
}

/// The usage of an address.
#[derive(Debug)]
struct Usage {
    /// The last counter value.
    connections: u64,
    /// The time of the last change of the counter.
    since: Instant,
}

/// The portals in use, and the desired table.
#[derive(Debug)]
pub(crate) struct OnDemandSet {
    /// The desired table.
    pub(crate) desired: Ruleset,
    /// The portals that changed since the last transaction.
    changed: ChangedPortals,
    /// Whether the table must be updated.
    pub(crate) is_dirty: bool,
    usage: BTreeMap<IpAddr, Usage>,
    /// Whether the set was restored from the counters of an existing table.
    pub(crate) is_restored: bool,
    /// Whether the counters must be read.
    pub(crate) is_count_due: bool,
    /// Portals that were activated since the last audit, and between the last two audits.
    activated: [ChangedPortals; 2],
}

impl OnDemandSet {
    /// A set without used portals; `base` contains the portals that are always programmed.
    pub(crate) fn new(base: Ruleset) -> Self {
        Self {
            desired: base,
            changed: ChangedPortals::new(),
            is_dirty: false,
            usage: BTreeMap::new(),
            is_restored: false,
            is_count_due: false,
            activated: Default::default(),
        }
    }

    /// As `new`, for a network namespace whose full table must be replaced.
    pub(crate) fn replacing_full_table(base: Ruleset) -> Self {
        Self { is_dirty: true, ..Self::new(base) }
    }

    /// Handles a first connection, which the relay reported. Returns true if this activates the portals of its address;
    /// the table can have at most `elements_max` elements.
    pub(crate) fn on_use(
        &mut self,
        portals: &Portals,
        key: PortalKey,
        elements_max: usize,
        now: Instant,
    ) -> bool {
        if let Some(usage) = self.usage.get_mut(&key.address) {
            usage.since = now;
            return false;
        }
        let is_activated = match portals.get(key) {
            // A portal in relay mode is always relayed.
            Some(portal) => !portal.is_relayed(),
            // An unused port of a cluster IP. The ports of other addresses do not belong to a service.
            None => portals.service_ranges().iter().any(|range| range.contains(&key.address)),
        };
        is_activated && self.activate(portals, key.address, elements_max, now)
    }

    fn activate(&mut self, portals: &Portals, address: IpAddr, elements_max: usize, now: Instant) -> bool {
        let before = self.desired.size();
        let new = self.desired.activate(portals, address);
        if new.is_empty() || self.desired.size() > elements_max.max(before) {
            // An unassigned address, one that is always programmed, or a full table: the relay serves it.
            self.desired.evict(portals, address);
            return false;
        }
        self.usage.insert(address, Usage { connections: 0, since: now });
        self.activated[0].extend(new.iter().copied());
        self.mark_changed(new);
        true
    }

    fn mark_changed(&mut self, new: ChangedPortals) {
        self.is_dirty |= !new.is_empty();
        self.changed.extend(new);
    }

    /// Restores the set from the counters of a table of an earlier agent. All its portals in service ranges are in use.
    /// The table contains every portal outside of them, so of these only those with hits are in use.
    pub(crate) fn restore_from_counters(
        &mut self,
        portals: &Portals,
        hits: &HitCounts,
        elements_max: usize,
        now: Instant,
    ) {
        self.is_restored = true;
        let is_in_range = |address| portals.service_ranges().iter().any(|range| range.contains(&address));
        for (address, connections) in by_address(hits) {
            let is_used = connections > 0 || is_in_range(address);
            if is_used && self.activate(portals, address, elements_max, now) {
                self.usage.insert(address, Usage { connections, since: now });
            }
        }
    }

    /// Evicts the portals of addresses without new connections for the idle time, and returns the number of addresses.
    /// Established connections are not affected.
    pub(crate) fn evict_idle(
        &mut self,
        portals: &Portals,
        hits: &HitCounts,
        idle: Duration,
        now: Instant,
    ) -> usize {
        let counted = by_address(hits);
        for (address, usage) in &mut self.usage {
            // The counters of a replaced table restart, so every change is a use, not only an increase.
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
            self.mark_changed(new);
        }
        gone.len()
    }

    /// Applies a change of the view, and returns whether the table must be updated. If the used portals need more than
    /// `elements_max` elements, some are evicted, and the relay serves them.
    pub(crate) fn apply(&mut self, portals: &Portals, delta: &ViewDelta, elements_max: usize) -> bool {
        let used = delta.in_full.iter().filter(|key| self.desired.is_active(key.address));
        let changed: ChangedPortals = used.chain(&delta.in_on_demand).copied().collect();
        if !changed.is_empty() || delta.has_range_changes {
            let new = self.desired.refresh(portals, &changed);
            self.mark_changed(new);
            self.is_dirty |= delta.has_range_changes;
        }
        while self.desired.size() > elements_max {
            let Some(address) = self.desired.active_addresses().next() else { break };
            self.usage.remove(&address);
            let gone = self.desired.evict(portals, address);
            self.mark_changed(gone);
        }
        self.is_dirty
    }

    /// Returns the desired table as the target of a transaction, and the portals that changed.
    pub(crate) fn take_target(&mut self) -> (Ruleset, ChangedPortals) {
        self.is_dirty = false;
        (self.desired.clone(), std::mem::take(&mut self.changed))
    }

    /// The batch that replaces any table by the target; shared by all tables without used portals.
    pub(crate) fn fresh_batch(view: &mut ViewState, target: &Ruleset) -> Arc<EncodedBatch> {
        if target.active_addresses().next().is_none() && target.settings().is_some_and(Settings::has_relay) {
            return view.base_batch();
        }
        Arc::new(EncodedBatch::fresh(target))
    }

    /// The batch from the applied table to the target.
    pub(crate) fn batch_from(
        applied: &Ruleset,
        target: &Ruleset,
        changed: &ChangedPortals,
    ) -> Arc<EncodedBatch> {
        Arc::new(EncodedBatch::from_plan(&plan_changed(applied, target, changed)))
    }

    /// Starts an audit. Returns the portals that were activated before the last audit: replies to earlier datagrams
    /// have arrived, so their flows can leave the relay.
    pub(crate) fn begin_audit(&mut self) -> ChangedPortals {
        let recent = std::mem::take(&mut self.activated[0]);
        std::mem::replace(&mut self.activated[1], recent)
    }
}

fn by_address(hits: &HitCounts) -> BTreeMap<IpAddr, u64> {
    let mut counted = BTreeMap::new();
    for (key, connections) in hits {
        *counted.entry(key.address).or_default() += connections;
    }
    counted
}
