//! The memory budget of tables: if it is exceeded, pods get on-demand portals.
//!
//! A pod is always attached. If there is no memory for its full table, it gets on-demand portals; if services grow,
//! pods with full tables are switched, too. An on-demand table that would be too large activates no further portals,
//! which the relay continues to serve.

use std::time::Instant;

use netns_nft::NetnsId;
use proxy_core::portal::{PortalLimits, RefusalReason, ServiceFilter};
use proxy_core::ruleset::Settings;
use proxy_core::service::ServiceKey;
use proxy_core::snapshot::ChangedServices;

use super::Reconciler;
use crate::event::LogEvent;
use crate::netns_state::NetnsState;
use crate::on_demand::OnDemandSet;
use crate::view::ViewState;

/// The maximum number of services with refused portals in the log: at once, and in total.
const REFUSALS_LOGGED_AT_ONCE: usize = 10;
const REFUSALS_LOGGED_MAX: usize = 1_000;

impl Reconciler {
    /// The limits of what services can add to tables.
    pub(super) fn portal_limits(&self) -> PortalLimits {
        self.options.budget.portal_limits(self.options.limits, self.fleet.capacity(), self.options.settings)
    }

    /// Adapts the limits to the number of pods.
    pub(super) fn grow_capacity(&mut self, now: Instant) {
        let before = self.portal_limits();
        if self.fleet.grow() && self.portal_limits() != before {
            self.catalog.request_rebuild(now);
        }
    }

    fn table_bytes(&self, namespace: &NetnsState, view: &ViewState) -> usize {
        let (size, on_demand) = match &namespace.on_demand {
            Some(set) => (set.desired.size(), true),
            None => (view.desired.size(), false),
        };
        self.options.budget.table_bytes(size, Settings { on_demand, ..self.options.settings })
    }

    /// The estimated memory of all tables.
    pub(super) fn tables_bytes(&self) -> usize {
        let bytes = |namespace| Some(self.table_bytes(namespace, self.view_of(namespace)?));
        self.fleet.iter().filter_map(|(_, namespace)| bytes(namespace)).sum()
    }

    /// Returns an on-demand set for a new pod of a view if there is no memory for another full table.
    pub(super) fn on_demand_by_budget(&mut self, filter: &ServiceFilter) -> Option<OnDemandSet> {
        let max_bytes = self.options.budget.tables()?;
        let used_bytes = self.tables_bytes();
        let view = self.views.get_mut(filter)?;
        let table_bytes = self.options.budget.table_bytes(view.desired.size(), self.options.settings);
        (used_bytes.saturating_add(table_bytes) > max_bytes).then(|| OnDemandSet::new(view.base().clone()))
    }

    /// The maximum number of elements in the on-demand table of a pod.
    pub(super) fn elements_max(&self, netns: NetnsId) -> usize {
        let limit = self.options.limits.table_elements;
        let Some(max_bytes) = self.options.budget.tables() else { return limit };
        let settings = Settings { on_demand: true, ..self.options.settings };
        let free = self.options.budget.elements_in(max_bytes.saturating_sub(self.tables_bytes()), settings);
        let on_demand = self.fleet.get(netns).and_then(|namespace| namespace.on_demand.as_ref());
        let used = on_demand.map_or(0, |set| set.desired.size());
        (used + free).min(limit)
    }

    /// Switches pods to on-demand portals until all tables fit into the budget, or no pod has a full table.
    pub(super) fn enforce_budget(&mut self) {
        let Some(max_bytes) = self.options.budget.tables() else { return };
        let mut used_bytes = self.tables_bytes();
        let mut pods = 0;
        let full = self.fleet.iter().rev().filter(|(_, namespace)| namespace.on_demand.is_none());
        let full: Vec<NetnsId> = full.map(|(netns, _)| netns).collect();
        for netns in full {
            if used_bytes <= max_bytes {
                break;
            }
            let Some((before, after)) = self.switch_to_on_demand(netns) else { continue };
            used_bytes = used_bytes.saturating_sub(before) + after;
            pods += 1;
        }
        if pods > 0 {
            self.log(LogEvent::MovedOnDemand { pods, used_bytes, max_bytes });
        }
    }

    /// Switches a pod to on-demand portals. Returns the estimated memory of its table before and after.
    fn switch_to_on_demand(&mut self, netns: NetnsId) -> Option<(usize, usize)> {
        let namespace = self.fleet.get(netns)?;
        let before = self.table_bytes(namespace, self.view_of(namespace)?);
        let base = self.views.get_mut(&namespace.filter)?.base().clone();
        self.fleet.get_mut(netns)?.on_demand = Some(OnDemandSet::replacing_full_table(base));
        let namespace = self.fleet.get(netns)?;
        Some((before, self.table_bytes(namespace, self.view_of(namespace)?)))
    }

    /// Logs services whose portals are refused, each once. With changes, only changed services.
    pub(super) fn log_refusals(&mut self, changed: Option<&ChangedServices>) {
        let Some(view) = self.views.get(&ServiceFilter::All) else { return };
        let is_new = |service: &&ServiceKey| !self.refusals_logged.contains(*service);
        let refused: Vec<_> = match changed {
            Some(changed) => {
                let new = changed.iter().filter(is_new);
                let refusals = new.map(|service| (service.clone(), view.portals.refusals_of(service)));
                refusals.filter(|(_, refused)| !refused.is_empty()).take(REFUSALS_LOGGED_AT_ONCE).collect()
            }
            None => {
                let all = view.portals.refusals().map(|(service, refused)| (service.clone(), refused));
                all.take(REFUSALS_LOGGED_AT_ONCE).collect()
            }
        };
        for (service, refused) in refused {
            if self.refusals_logged.len() >= REFUSALS_LOGGED_MAX {
                return;
            }
            self.refusals_logged.insert(service.clone());
            let reasons: Vec<(RefusalReason, usize)> = refused.iter().collect();
            self.log(LogEvent::PortalsRefused { service, reasons });
        }
    }
}
