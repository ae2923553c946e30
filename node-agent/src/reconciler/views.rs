//! The views of the pods: how they are created, follow the services, are stored for the plugin, and are removed.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use netns_nft::NetnsId;
use proxy_core::portal::{NodeContext, Place, ServiceFilter};

use super::catalog::Publication;
use super::{Reconciler, Rollout};
use crate::event::{Effect, LogEvent, StoredRuleset};
use crate::on_demand::OnDemandSet;
use crate::view::ViewState;

impl Reconciler {
    fn node_context(&self, filter: &ServiceFilter) -> NodeContext {
        NodeContext {
            node: self.catalog.node().clone(),
            place: Place::Pod,
            filter: filter.clone(),
            mode: self.options.mode,
            external: self.options.external.clone(),
            limits: self.portal_limits(),
        }
    }

    /// Returns the filter of an existing view if it is equal. Comparing filters that share their list is fast.
    pub(super) fn interned(&self, filter: ServiceFilter) -> ServiceFilter {
        self.views.get_key_value(&filter).map_or(filter, |(existing, _)| existing.clone())
    }

    /// Creates the view unless it exists.
    pub(super) fn ensure_view(&mut self, filter: &ServiceFilter, now: Instant) {
        if !self.views.contains_key(filter) {
            let context = self.node_context(filter);
            let view = ViewState::new(self.catalog.snapshot(), context, self.options.settings, now);
            self.effects.push(Effect::SetRelayPortals(filter.clone(), view.portals.clone()));
            self.views.insert(filter.clone(), view);
        }
    }

    /// Returns an on-demand set for a network namespace of this view. None: all portals must be programmed. This is
    /// decided once, and does not change together with the number of portals.
    pub(super) fn on_demand_set(&mut self, filter: &ServiceFilter) -> Option<OnDemandSet> {
        let view = self.views.get_mut(filter)?;
        if !self.options.programming_mode.is_on_demand(view.portal_count()) {
            return None;
        }
        if !view.portals.service_ranges().is_empty() {
            return Some(OnDemandSet::new(view.base().clone()));
        }
        if !std::mem::replace(&mut self.has_logged_on_demand, true) {
            let why = match **self.catalog.ranges() {
                [] => "unknown service range; pass --service-cidr",
                [..] => "another proxy serves services in the service ranges",
            };
            self.log(LogEvent::OnDemandUnavailable(why));
        }
        None
    }

    /// Applies changes of the catalog to all views, and starts their rollouts.
    pub(super) fn publish(&mut self, now: Instant) {
        let publication = self.catalog.take_changes(now);
        if publication.has_new_ranges || !publication.changed.is_empty() {
            self.update_node(Some(&publication.changed), publication.since);
        }
        if publication.has_new_ranges {
            self.fleet.iter_mut().for_each(|(_, namespace)| namespace.request_routes());
        }
        let filters: Vec<ServiceFilter> = self.views.keys().cloned().collect();
        for filter in filters {
            self.publish_to_view(filter, &publication, now);
        }
        self.enforce_budget();
        let all = publication.is_rebuild;
        self.publish_names(Some(&publication.changed).filter(|_| !all), publication.has_new_namespaces);
        self.log_refusals(Some(&publication.changed));
    }

    fn publish_to_view(&mut self, filter: ServiceFilter, publication: &Publication, now: Instant) {
        let context = self.node_context(&filter);
        let Some(view) = self.views.get_mut(&filter) else { return };
        let delta = if publication.is_rebuild {
            view.rebuild(self.catalog.snapshot(), context, now)
        } else {
            view.refresh(self.catalog.snapshot(), &publication.changed, now)
        };
        if delta.has_portal_changes {
            self.effects.push(Effect::SetRelayPortals(filter.clone(), view.portals.clone()));
        }
        if !delta.has_table_changes() {
            return;
        }
        if filter == ServiceFilter::All {
            self.timers.request_store(now);
        }
        let elements_max = self.options.limits.table_elements;
        let mut pending: BTreeSet<NetnsId> = BTreeSet::new();
        for (netns, namespace) in self.fleet.iter_mut().filter(|(_, namespace)| namespace.filter == filter) {
            let on_demand = namespace.on_demand.as_mut();
            let is_affected = on_demand.is_none_or(|set| set.apply(&view.portals, &delta, elements_max));
            if is_affected && namespace.revision().is_some() {
                pending.insert(netns);
            }
        }
        let (namespaces, operations, failed) = (pending.len(), 0, 0);
        let (revision, since) = (view.revision, publication.since);
        if namespaces > 0 {
            let rollout = Rollout { revision, since, operations, namespaces, failed, pending };
            self.rollouts.insert(filter, rollout);
        }
    }

    /// Stores the ruleset of all services for the plugin.
    pub(super) fn store_ruleset(&mut self, now: Instant) {
        let Some(view) = self.views.get(&ServiceFilter::All) else { return };
        self.timers.finish_store(now);
        let ranges = Arc::clone(self.catalog.ranges());
        let stored = StoredRuleset { revision: view.revision, ranges, ruleset: view.desired.clone() };
        self.effects.push(Effect::StoreRuleset(stored));
    }

    /// Removes unused views, and drops cached batches.
    pub(super) fn release_views(&mut self) {
        let (fleet, effects) = (&self.fleet, &mut self.effects);
        self.views.retain(|filter, _| {
            let is_used = *filter == ServiceFilter::All
                || fleet.iter().any(|(_, namespace)| namespace.filter == *filter);
            if !is_used {
                effects.push(Effect::RemoveRelayView(filter.clone()));
            }
            is_used
        });
        self.views.values_mut().for_each(ViewState::release_batches);
    }
}
