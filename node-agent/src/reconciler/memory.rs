//! The memory of tables in `Reconciler`: where the budget is reached, pods go on demand.
//!
//! A pod is always attached. Where its full table has no room any more it gets its portals on demand; where services
//! need more than they did, pods that have full tables are moved on demand, too. On demand a table that would be too
//! large takes in no further portals: the relay goes on serving them. What must not go in here: the model.

use std::time::Instant;

use netns_nft::NetnsId;
use proxy_core::portal::{PortalLimits, RefusalReason, ServiceFilter, TableKind};
use proxy_core::ruleset::Settings;
use proxy_core::service::ServiceKey;
use proxy_core::snapshot::ChangedServices;

use super::Reconciler;
use crate::event::LogEvent;
use crate::netns_state::NetnsState;
use crate::on_demand::OnDemandSet;
use crate::report::MemoryReport;
use crate::view::ViewState;

/// Services with refused portals are named in the log once, at most so many at a time, and so many in all.
const NAMED_AT_ONCE: usize = 10;
const NAMED_MAX: usize = 1_000;

impl Reconciler {
    /// The bounds of everything that services may put into tables.
    pub(super) fn bounds(&self) -> PortalLimits {
        self.options.budget.bounds(self.options.bounds, self.pods_max, self.options.settings)
    }

    /// One more pod than there was room for makes less room for each.
    pub(super) fn make_room(&mut self, now: Instant) {
        let pods = self.members.len().next_power_of_two();
        if pods > self.pods_max {
            let before = self.bounds();
            self.pods_max = pods;
            self.is_elsewhere |= self.bounds() != before;
            self.news(now);
        }
    }

    fn table_bytes(&self, member: &NetnsState, view: &ViewState) -> usize {
        let (size, on_demand) = match &member.demand {
            Some(demand) => (demand.desired.size(), true),
            None => (view.desired.size(), false),
        };
        self.options.budget.table_bytes(size, Settings { on_demand, ..self.options.settings })
    }

    /// How many bytes all tables are modelled to take.
    pub(super) fn tables_bytes(&self) -> usize {
        let of = |member| Some(self.table_bytes(member, self.views.get(&member.view)?));
        self.members.values().filter_map(of).sum()
    }

    /// Portals on demand for one more pod of a view, where there is no room for one more full table.
    pub(super) fn demand_by_memory(&mut self, view: &ServiceFilter) -> Option<OnDemandSet> {
        let most = self.options.budget.tables()?;
        let used = self.tables_bytes();
        let state = self.views.get_mut(view)?;
        let one = self.options.budget.table_bytes(state.desired.size(), self.options.settings);
        (used.saturating_add(one) > most).then(|| OnDemandSet::new(state.base().clone()))
    }

    /// How many elements the table of this pod may have at most.
    pub(super) fn elements_max(&self, netns: NetnsId) -> usize {
        let Some(most) = self.options.budget.tables() else { return self.options.bounds.table_elements };
        let settings = Settings { on_demand: true, ..self.options.settings };
        let left = self.options.budget.elements_in(most.saturating_sub(self.tables_bytes()), settings);
        let demand = self.members.get(&netns).and_then(|member| member.demand.as_ref());
        let own = demand.map_or(0, |demand| demand.desired.size());
        (own + left).min(self.options.bounds.table_elements)
    }

    /// Moves pods on demand until the tables of all fit, or no pod has a full one.
    pub(super) fn economise(&mut self) {
        let Some(most) = self.options.budget.tables() else { return };
        let mut used = self.tables_bytes();
        let mut moved = 0;
        let full: Vec<NetnsId> = self
            .members
            .iter()
            .filter(|(_, member)| member.demand.is_none())
            .map(|(netns, _)| *netns)
            .collect();
        for netns in full.into_iter().rev() {
            if used <= most {
                break;
            }
            let Some(member) = self.members.get(&netns) else { continue };
            let Some(state) = self.views.get_mut(&member.view) else { continue };
            let demand = OnDemandSet::instead_of_all(state.base().clone());
            let Some(state) = self.views.get(&member.view) else { continue };
            used -= self.table_bytes(member, state).min(used);
            if let Some(member) = self.members.get_mut(&netns) {
                member.demand = Some(demand);
            }
            if let Some(member) = self.members.get(&netns)
                && let Some(state) = self.views.get(&member.view)
            {
                used += self.table_bytes(member, state);
            }
            moved += 1;
        }
        if moved > 0 {
            self.note(LogEvent::MovedOnDemand { pods: moved, used_bytes: used, max_bytes: most });
        }
    }

    /// Names services whose portals are refused, each once.
    pub(super) fn name_refused(&mut self, changed: Option<&ChangedServices>) {
        let Some(state) = self.views.get(&ServiceFilter::All) else { return };
        let is_new = |service: &&ServiceKey| !self.refused_named.contains(*service);
        let of = |service: &ServiceKey| state.portals.refusals_of(service);
        let refused: Vec<_> = match changed {
            Some(changed) => {
                let named = changed.iter().filter(is_new).map(|service| (service.clone(), of(service)));
                named.filter(|(_, refused)| !refused.is_empty()).take(NAMED_AT_ONCE).collect()
            }
            None => {
                let all = state.portals.refusals().map(|(service, refused)| (service.clone(), refused));
                all.take(NAMED_AT_ONCE).collect()
            }
        };
        for (service, refused) in refused {
            if self.refused_named.len() >= NAMED_MAX {
                return;
            }
            self.refused_named.insert(service.clone());
            let reasons: Vec<(RefusalReason, usize)> = refused.iter().collect();
            self.note(LogEvent::PortalsRefused { service, reasons });
        }
    }

    /// What is told of memory.
    pub(super) fn memory_report(&self) -> MemoryReport {
        MemoryReport {
            limit: self.options.budget.limit,
            tables_max: self.options.budget.tables().and_then(|bytes| u64::try_from(bytes).ok()),
            tables: u64::try_from(self.tables_bytes()).unwrap_or(u64::MAX),
        }
    }

    /// How many portals are refused, by reason, of those that a pod would see which sees all services.
    pub(super) fn refused_report(&self) -> std::collections::BTreeMap<String, usize> {
        let Some(state) = self.views.get(&ServiceFilter::All) else { return Default::default() };
        let is_full = |member: &NetnsState| member.demand.is_none();
        let table = if self.members.values().any(is_full) { TableKind::Full } else { TableKind::OnDemand };
        let refused = state.portals.refusals_by_reason(table);
        RefusalReason::ALL
            .into_iter()
            .map(|reason| (reason.name().to_owned(), refused.count(reason)))
            .collect()
    }
}
