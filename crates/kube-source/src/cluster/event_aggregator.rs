//! `EventAggregator`: combines the messages about all resources into events.
//!
//! A pure state machine without a clock: each message is compared with the events that were sent before, and only
//! differences become events.

use std::collections::BTreeMap;
use std::sync::Arc;

use ipnet::IpNet;
use proxy_core::endpoint::SliceKey;
use proxy_core::node::Node;
use proxy_core::service::ServiceKey;
use proxy_core::snapshot::Change;

use crate::cluster::content::Content;
use crate::cluster::message::WatchMessage;
use crate::cluster::object::{Object, ObjectKey};
use crate::cluster::object_index::{Delta, ObjectIndex, content_hash};
use crate::cluster::outage_tracker::OutageTracker;
use crate::cluster::rejections::Rejections;
use crate::cluster::resource::{Kind, Resource};
use crate::event::Event;

/// The progress of one resource.
#[derive(Debug)]
struct ResourceState {
    kind: Kind,
    /// The index of this resource among those of its kind, which differ in their selectors.
    selection: usize,
    is_optional: bool,
    /// Whether the resource was listed completely. Also true for an optional resource that cannot be read.
    is_synced: bool,
}

/// Combines messages into events.
#[derive(Debug)]
pub(super) struct EventAggregator {
    resources: Vec<ResourceState>,
    indexes: BTreeMap<Kind, ObjectIndex>,
    ranges: BTreeMap<Arc<str>, Vec<IpNet>>,
    /// The service ranges that were sent.
    sent_ranges: Vec<IpNet>,
    node: Option<Node>,
    outages: OutageTracker,
    rejections: Rejections<Kind>,
    is_synced: bool,
    events: Vec<Event>,
}

impl EventAggregator {
    pub(super) fn new(resources: &[(Kind, Resource)]) -> Self {
        let mut states: Vec<ResourceState> = Vec::new();
        for (kind, Resource { is_optional, .. }) in resources {
            let (kind, is_optional) = (*kind, *is_optional);
            let selection = states.iter().filter(|state| state.kind == kind).count();
            states.push(ResourceState { kind, selection, is_optional, is_synced: false });
        }
        Self {
            resources: states,
            indexes: Kind::ALL.into_iter().map(|kind| (kind, ObjectIndex::default())).collect(),
            ranges: BTreeMap::new(),
            sent_ranges: Vec::new(),
            node: None,
            outages: OutageTracker::default(),
            rejections: Rejections::new(),
            is_synced: false,
            events: Vec::new(),
        }
    }

    /// Returns the events to send, and removes them.
    pub(super) fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    /// Whether the initial sync lacks only optional resources: ServiceCIDRs.
    pub(super) fn awaits_service_cidrs(&self) -> bool {
        let mut required = self.resources.iter().filter(|state| !state.is_optional);
        !self.is_synced && required.all(|state| state.is_synced)
    }

    /// Completes the initial sync without ServiceCIDRs. They are sent when they arrive.
    pub(super) fn proceed_without_service_cidrs(&mut self) {
        for state in self.resources.iter_mut().filter(|state| state.is_optional) {
            state.is_synced = true;
        }
        self.check_synced();
    }

    /// Applies a message about the resource with this index.
    pub(super) fn apply(&mut self, resource: usize, message: WatchMessage) {
        let Some(state) = self.resources.get_mut(resource) else { return };
        let ResourceState { kind, selection, is_optional, .. } = *state;
        match message {
            WatchMessage::ListStarted => self.index(kind).begin_list(selection),
            WatchMessage::Listed(object) => self.apply_object(kind, selection, object, true),
            WatchMessage::Applied(object) => self.apply_object(kind, selection, object, false),
            WatchMessage::Deleted(key) => self.on_deleted(kind, selection, key),
            WatchMessage::ListDone => self.finish_list(resource),
            WatchMessage::Failed(error) => {
                state.is_synced |= is_optional;
                let text = self.outages.source_failed(resource, error);
                self.events.extend(text.map(Event::Outage));
            }
            WatchMessage::Denied(text) => {
                state.is_synced = true;
                let text = self.outages.source_denied(resource, text);
                self.events.extend(text.map(Event::Outage));
            }
            WatchMessage::Unsupported => {
                state.is_synced = true;
                self.on_recovered(resource);
            }
            WatchMessage::Healthy => self.on_recovered(resource),
        }
        self.report_rejections(None);
        self.check_synced();
    }

    fn index(&mut self, kind: Kind) -> &mut ObjectIndex {
        self.indexes.entry(kind).or_default()
    }

    fn on_recovered(&mut self, resource: usize) {
        let is_recovered = self.outages.source_recovered(resource);
        self.events.extend(is_recovered.then_some(Event::Recovered));
    }

    fn apply_object(&mut self, kind: Kind, selection: usize, object: Object<Content>, is_listed: bool) {
        let Object { key, version, content } = object;
        if let Content::Rejected(reason) = content {
            if self.index(kind).reject(selection, key.as_ref()) {
                self.on_rejected(kind, key, reason);
            }
            return;
        }
        let Some(key) = key else { return };
        let hash = match &content {
            Content::Service(service) => Some(content_hash(service)),
            Content::Slice(slice) => Some(content_hash(slice)),
            Content::Ranges(ranges) => Some(content_hash(ranges)),
            Content::Node(node) => Some(content_hash(node)),
            Content::Namespace(namespace) => Some(content_hash(namespace)),
            Content::Unused | Content::Rejected(_) => None,
        };
        if self.index(kind).upsert(selection, &key, version, hash, is_listed) == Delta::Changed {
            self.apply_content(kind, key, content);
        }
    }

    fn on_rejected(&mut self, kind: Kind, key: Option<ObjectKey>, reason: String) {
        let Self { indexes, rejections, .. } = self;
        let is_rejected = |kind: Kind, key: Option<&ObjectKey>| {
            indexes.get(&kind).is_some_and(|index| index.is_rejected(key))
        };
        let reason = rejections.add((kind, key), reason, is_rejected);
        self.report_rejections(reason);
    }

    /// Sends the number of rejected objects if it changed or there is a reason to report.
    fn report_rejections(&mut self, reason: Option<String>) {
        let count = self.indexes.values().map(ObjectIndex::rejected_count).sum();
        let report = self.rejections.report(count, reason);
        self.events.extend(report.map(Event::Rejected));
    }

    fn apply_content(&mut self, kind: Kind, key: ObjectKey, content: Content) {
        match content {
            Content::Service(service) => self.push_change(Change::Service(service)),
            Content::Slice(slice) => self.push_change(Change::Slice(slice)),
            Content::Ranges(ranges) => {
                self.ranges.insert(key.name, ranges);
                self.update_ranges();
            }
            Content::Node(node) => {
                if self.node.as_ref() != Some(&node) {
                    self.node = Some(node.clone());
                    self.events.push(Event::Node(node));
                }
            }
            Content::Namespace(namespace) => self.push_change(Change::Namespace(namespace)),
            Content::Unused => self.push_removal(kind, key),
            Content::Rejected(_) => {}
        }
    }

    fn on_deleted(&mut self, kind: Kind, selection: usize, key: Option<ObjectKey>) {
        let Some(key) = key else { return };
        if self.index(kind).remove(selection, &key) == Some(true) {
            self.push_removal(kind, key);
        }
    }

    /// Sends the removal of an object. A deleted node keeps its last state, because its pods still run.
    fn push_removal(&mut self, kind: Kind, key: ObjectKey) {
        let ObjectKey { namespace, name } = key;
        match kind {
            Kind::Service => self.push_change(Change::ServiceDeleted(ServiceKey { namespace, name })),
            Kind::Slice => self.push_change(Change::SliceDeleted(SliceKey { namespace, name })),
            Kind::ServiceCidr => {
                self.ranges.remove(&name);
                self.update_ranges();
            }
            Kind::Node => {}
            Kind::Namespace => self.push_change(Change::NamespaceDeleted(name)),
        }
    }

    fn finish_list(&mut self, resource: usize) {
        let Some(state) = self.resources.get_mut(resource) else { return };
        state.is_synced = true;
        let ResourceState { kind, selection, .. } = *state;
        for (key, was_reported) in self.index(kind).finish_list(selection) {
            if was_reported {
                self.push_removal(kind, key);
            }
        }
        if kind == Kind::ServiceCidr {
            self.update_ranges();
        }
    }

    /// Sends the ranges of all ServiceCIDRs if they were listed and differ from those sent before.
    fn update_ranges(&mut self) {
        let is_listed = |state: &ResourceState| state.kind == Kind::ServiceCidr && state.is_synced;
        let ranges: Vec<IpNet> = self.ranges.values().flatten().copied().collect();
        if self.resources.iter().any(is_listed) && ranges != self.sent_ranges {
            self.sent_ranges.clone_from(&ranges);
            self.push_change(Change::ServiceRanges(ranges));
        }
    }

    /// Adds a change to the last event if that contains changes, otherwise to a new event.
    fn push_change(&mut self, change: Change) {
        if let Some(Event::Changes(changes)) = self.events.last_mut() {
            changes.push(change);
        } else {
            self.events.push(Event::Changes(vec![change]));
        }
    }

    fn check_synced(&mut self) {
        if !self.is_synced && self.resources.iter().all(|state| state.is_synced) {
            self.is_synced = true;
            self.events.push(Event::Synced);
        }
    }
}

#[cfg(test)]
mod tests;
