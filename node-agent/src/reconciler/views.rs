//! The views of `Reconciler`: how they come, follow the services, are stored for the plugin, and go.
//!
//! What must not go in here: what is sent to which network namespace.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use netns_nft::NetnsId;
use proxy_core::portal::{NodeContext, ServiceFilter};
use proxy_core::snapshot::Change;

use super::{Reconciler, Rollout};
use crate::event::{Effect, LogEvent, StoredRuleset};
use crate::on_demand::OnDemandSet;
use crate::view::ViewState;

impl Reconciler {
    /// Notes that there is something to publish.
    pub(super) fn news(&mut self, now: Instant) {
        if self.has_news || self.is_elsewhere || !self.changed.is_empty() {
            self.changed_since.get_or_insert(now);
        }
    }

    /// Takes in what changed, as far as it counts here; it is published later.
    pub(super) fn take_changes(&mut self, changes: Vec<Change>, now: Instant) {
        for change in changes {
            let (change, ignored) = self.dial_from_node.permitted(change);
            if let Some(service) = ignored {
                self.note(LogEvent::DialIgnored(service));
            }
            self.has_news |= matches!(change, Change::ServiceRanges(_));
            self.changed.append(&mut self.snapshot.apply(change));
        }
        self.news(now);
    }

    fn node_context(&self, view: &ServiceFilter) -> NodeContext {
        NodeContext {
            node: self.options.node.clone(),
            filter: view.clone(),
            mode: self.options.mode,
            external: self.options.outside.clone(),
            limits: self.bounds(),
        }
    }

    /// A view as the others of its kind have it: two that share their list are compared at once.
    pub(super) fn interned(&self, view: ServiceFilter) -> ServiceFilter {
        self.views.get_key_value(&view).map_or(view, |(known, _)| known.clone())
    }

    pub(super) fn view(&mut self, view: &ServiceFilter, now: Instant) {
        if !self.views.contains_key(view) {
            let state = ViewState::new(&self.snapshot, self.node_context(view), self.options.settings, now);
            self.effects.push(Effect::SetRelayPortals(view.clone(), state.portals.clone()));
            self.views.insert(view.clone(), state);
        }
    }

    /// What a network namespace of this view uses; none where it is to have all portals. It stays that way
    /// when the number of portals changes.
    pub(super) fn demand_of(&mut self, view: &ServiceFilter) -> Option<OnDemandSet> {
        let state = self.views.get_mut(view)?;
        if !self.options.provision.is_on_demand(state.portal_count()) {
            return None;
        }
        if !state.portals.service_ranges().is_empty() {
            return Some(OnDemandSet::new(state.base().clone()));
        }
        if !std::mem::replace(&mut self.is_told_of_ranges, true) {
            let why = match *self.ranges {
                [] => "no service range is known; name it with --service-cidr",
                [..] => "another proxy has services in the service ranges",
            };
            self.note(LogEvent::OnDemandUnavailable(why));
        }
        None
    }

    pub(super) fn publish(&mut self, now: Instant) {
        let changed = std::mem::take(&mut self.changed);
        let since = self.changed_since.take().unwrap_or(now);
        self.published = Some(now);
        self.has_news = false;
        if *self.ranges != *self.snapshot.all_service_ranges() {
            self.ranges = self.snapshot.all_service_ranges().into();
            self.members.values_mut().for_each(|member| member.are_routes_due = true);
        }
        let is_elsewhere = std::mem::take(&mut self.is_elsewhere);
        let elements_max = self.options.bounds.table_elements;
        let views: Vec<ServiceFilter> = self.views.keys().cloned().collect();
        for view in views {
            let node_context = self.node_context(&view);
            let Some(state) = self.views.get_mut(&view) else { continue };
            let moved = if is_elsewhere {
                state.rebuild(&self.snapshot, node_context, now)
            } else {
                state.refresh(&self.snapshot, &changed, now)
            };
            if moved.are_portals_new {
                self.effects.push(Effect::SetRelayPortals(view.clone(), state.portals.clone()));
            }
            if !moved.is_any() {
                continue;
            }
            self.is_store_due |= view == ServiceFilter::All;
            let mut pending: BTreeSet<NetnsId> = BTreeSet::new();
            for (netns, member) in self.members.iter_mut().filter(|(_, member)| member.view == view) {
                let demand = member.demand.as_mut();
                let is_concerned =
                    demand.is_none_or(|demand| demand.follow(&state.portals, &moved, elements_max));
                if is_concerned && member.revision().is_some() {
                    pending.insert(*netns);
                }
            }
            let (namespaces, operations, failed) = (pending.len(), 0, 0);
            let revision = state.revision;
            let progress = Rollout { revision, since, operations, namespaces, failed, pending };
            if namespaces > 0 {
                self.progress.insert(view, progress);
            }
        }
        self.economise();
        self.name_refused(Some(&changed));
    }

    pub(super) fn store(&mut self, now: Instant) {
        let Some(state) = self.views.get(&ServiceFilter::All) else { return };
        self.is_store_due = false;
        self.stored = Some(now);
        let ruleset = state.desired.clone();
        let stored = StoredRuleset { revision: state.revision, ranges: Arc::clone(&self.ranges), ruleset };
        self.effects.push(Effect::StoreRuleset(stored));
    }

    /// Lets go of views that nobody has any more, and of batches that nobody waits for.
    pub(super) fn tidy_views(&mut self) {
        let (members, effects) = (&self.members, &mut self.effects);
        self.views.retain(|view, _| {
            let is_here = *view == ServiceFilter::All || members.values().any(|member| member.view == *view);
            if !is_here {
                effects.push(Effect::RemoveRelayView(view.clone()));
            }
            is_here
        });
        self.views.values_mut().for_each(ViewState::release_batches);
    }
}
