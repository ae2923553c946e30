//! `Collector`: what the sources say, made into what is told.
//!
//! A pure state machine: sources say things one after the other, and each is compared with what was told before. What
//! must not go in here: a clock, or a connection.

use std::collections::BTreeMap;
use std::sync::Arc;

use ipnet::IpNet;
use proxy_core::endpoint::SliceKey;
use proxy_core::node::Node;
use proxy_core::service::ServiceKey;
use proxy_core::snapshot::Change;

use crate::cluster::object::{Content, Object, ObjectKey};
use crate::cluster::refusals::Refusals;
use crate::cluster::resource::{Kind, Resource};
use crate::cluster::said::Said;
use crate::cluster::table::{News, Table, hash};
use crate::cluster::trouble::Troubles;
use crate::event::Event;

/// A source, and how far it has come.
#[derive(Debug)]
struct Source {
    kind: Kind,
    /// Which of the selections of its kind it is.
    selection: usize,
    is_optional: bool,
    /// It has told all that it has, or, if it is optional, that there is nothing to be had now.
    is_complete: bool,
}

/// What the sources say, made into what is told.
#[derive(Debug)]
pub(super) struct Collector {
    sources: Vec<Source>,
    tables: BTreeMap<Kind, Table>,
    ranges: BTreeMap<Arc<str>, Vec<IpNet>>,
    ranges_told: Vec<IpNet>,
    node: Option<Node>,
    troubles: Troubles,
    refusals: Refusals<Kind>,
    is_synced: bool,
    events: Vec<Event>,
}

impl Collector {
    pub(super) fn new(resources: &[(Kind, Resource)]) -> Self {
        let mut sources: Vec<Source> = Vec::new();
        for (kind, Resource { is_optional, .. }) in resources {
            let (kind, is_optional) = (*kind, *is_optional);
            let selection = sources.iter().filter(|source| source.kind == kind).count();
            sources.push(Source { kind, selection, is_optional, is_complete: false });
        }
        Self {
            sources,
            tables: Kind::ALL.into_iter().map(|kind| (kind, Table::default())).collect(),
            ranges: BTreeMap::new(),
            ranges_told: Vec::new(),
            node: None,
            troubles: Troubles::default(),
            refusals: Refusals::new(),
            is_synced: false,
            events: Vec::new(),
        }
    }

    /// What is to be told now.
    pub(super) fn events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    /// Whether nothing but service ranges is missing for all to be told.
    pub(super) fn waits_for_ranges(&self) -> bool {
        let mut required = self.sources.iter().filter(|source| !source.is_optional);
        !self.is_synced && required.all(|source| source.is_complete)
    }

    /// The ranges take too long: they are told when they come.
    pub(super) fn do_without_ranges(&mut self) {
        for source in self.sources.iter_mut().filter(|source| source.is_optional) {
            source.is_complete = true;
        }
        self.check_synced();
    }

    /// Takes what a source says.
    pub(super) fn step(&mut self, number: usize, said: Said) {
        let Some(source) = self.sources.get_mut(number) else { return };
        let Source { kind, selection, is_optional, .. } = *source;
        match said {
            Said::Begin => self.table(kind).begin(selection),
            Said::Listed(object) => self.object(kind, selection, object, true),
            Said::Changed(object) => self.object(kind, selection, object, false),
            Said::Gone(key) => self.gone(kind, selection, key),
            Said::End => self.end(number),
            Said::Lost(fault) => {
                source.is_complete |= is_optional;
                let told = self.troubles.lost(number, fault);
                self.events.extend(told.map(Event::Outage));
            }
            Said::Denied(text) => {
                source.is_complete = true;
                let told = self.troubles.denied(number, text);
                self.events.extend(told.map(Event::Outage));
            }
            Said::Absent | Said::Found => {
                source.is_complete |= said == Said::Absent;
                let is_well = self.troubles.found(number);
                self.events.extend(is_well.then_some(Event::Recovered));
            }
        }
        self.report_refused(None);
        self.check_synced();
    }

    fn table(&mut self, kind: Kind) -> &mut Table {
        self.tables.entry(kind).or_default()
    }

    fn object(&mut self, kind: Kind, selection: usize, object: Object, is_listed: bool) {
        let Object { key, version, content } = object;
        if let Content::Refused(why) = content {
            if self.table(kind).refuse(selection, key.as_ref()) {
                self.name_refused(kind, key, why);
            }
            return;
        }
        let Some(key) = key else { return };
        let hash = match &content {
            Content::Service(service) => Some(hash(service)),
            Content::Slice(slice) => Some(hash(slice)),
            Content::Ranges(ranges) => Some(hash(ranges)),
            Content::Node(node) => Some(hash(node)),
            Content::Nothing | Content::Refused(_) => None,
        };
        if self.table(kind).put(selection, &key, version, hash, is_listed) == News::Different {
            self.told(kind, key, content);
        }
    }

    fn name_refused(&mut self, kind: Kind, key: Option<ObjectKey>, why: String) {
        let Self { tables, refusals, .. } = self;
        let is_refused = |kind: Kind, key: Option<&ObjectKey>| {
            tables.get(&kind).is_some_and(|table| table.is_refused(key))
        };
        let reason = refusals.name((kind, key), why, is_refused);
        self.report_refused(reason);
    }

    /// Tells how many objects cannot be used, if that has changed or there is one to name.
    fn report_refused(&mut self, reason: Option<String>) {
        let count = self.tables.values().map(Table::refused).sum();
        let report = self.refusals.report(count, reason);
        self.events.extend(report.map(Event::Rejected));
    }

    fn told(&mut self, kind: Kind, key: ObjectKey, content: Content) {
        match content {
            Content::Service(service) => self.change(Change::Service(service)),
            Content::Slice(slice) => self.change(Change::Slice(slice)),
            Content::Ranges(ranges) => {
                self.ranges.insert(key.name, ranges);
                self.ranges();
            }
            Content::Node(node) => {
                if self.node.as_ref() != Some(&node) {
                    self.node = Some(node.clone());
                    self.events.push(Event::Node(node));
                }
            }
            Content::Nothing => self.removed(kind, key),
            Content::Refused(_) => {}
        }
    }

    fn gone(&mut self, kind: Kind, selection: usize, key: Option<ObjectKey>) {
        let Some(key) = key else { return };
        if self.table(kind).remove(selection, &key) == Some(true) {
            self.removed(kind, key);
        }
    }

    /// Says that an object is gone. The own node stays what it was: pods are still on it.
    fn removed(&mut self, kind: Kind, key: ObjectKey) {
        let ObjectKey { namespace, name } = key;
        match kind {
            Kind::Service => self.change(Change::NoService(ServiceKey { namespace, name })),
            Kind::Slice => self.change(Change::NoSlice(SliceKey { namespace, name })),
            Kind::ServiceCidr => {
                self.ranges.remove(&name);
                self.ranges();
            }
            Kind::Node => {}
        }
    }

    fn end(&mut self, number: usize) {
        let Some(source) = self.sources.get_mut(number) else { return };
        source.is_complete = true;
        let Source { kind, selection, .. } = *source;
        for (key, was_told) in self.table(kind).end(selection) {
            if was_told {
                self.removed(kind, key);
            }
        }
        if kind == Kind::ServiceCidr {
            self.ranges();
        }
    }

    /// Tells the ranges of all objects, if they are known and differ from those told.
    fn ranges(&mut self) {
        let is_known = |source: &Source| source.kind == Kind::ServiceCidr && source.is_complete;
        let ranges: Vec<IpNet> = self.ranges.values().flatten().copied().collect();
        if self.sources.iter().any(is_known) && ranges != self.ranges_told {
            self.ranges_told.clone_from(&ranges);
            self.change(Change::ServiceRanges(ranges));
        }
    }

    fn change(&mut self, change: Change) {
        if let Some(Event::Changes(changes)) = self.events.last_mut() {
            changes.push(change);
        } else {
            self.events.push(Event::Changes(vec![change]));
        }
    }

    fn check_synced(&mut self) {
        if !self.is_synced && self.sources.iter().all(|source| source.is_complete) {
            self.is_synced = true;
            self.events.push(Event::Synced);
        }
    }
}

#[cfg(test)]
mod tests;
