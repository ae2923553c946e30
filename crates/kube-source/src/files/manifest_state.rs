//! `ManifestState`: the state that was sent to the receiver, and its difference from the manifests as they are now.
//!
//! The last valid state stays in force. While there is an error, new and changed objects are sent, but none is removed:
//! a missing object can be in a file that cannot be parsed. A removal is debounced, because editors move a file aside
//! before they write it again. The state machine is pure: reading files and the clock do not belong here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use proxy_core::dns::Namespace;
use proxy_core::endpoint::{EndpointSlice, SliceKey};
use proxy_core::node::Node;
use proxy_core::service::ServiceKey;
use proxy_core::snapshot::Change;

use crate::event::Event;
use crate::manifests::allocate::PreviousAddresses;
use crate::manifests::object_set::Objects;
use crate::manifests::report::Report;
use crate::manifests::resolve::Resolved;
use crate::objects::finding::Severity;

/// The time for which an object must be missing, or an error must last, before it is sent.
const DEBOUNCE: Duration = Duration::from_millis(100);

/// A removal that is debounced.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Removal {
    Service(ServiceKey),
    Slice(SliceKey),
    /// Endpoints of a slice that was derived from other objects.
    Endpoints(SliceKey),
    ServiceRanges,
    Namespace(Arc<str>),
}

/// The state that was sent to the receiver.
#[derive(Debug, Default)]
pub(super) struct ManifestState {
    objects: Objects,
    node_name: Option<String>,
    node: Option<Node>,
    is_synced: bool,
    /// Removals that were not sent yet, and when each was first seen.
    pending_removals: BTreeMap<Removal, Instant>,
    /// The error that was sent.
    error: Option<String>,
    /// When an error that was not sent yet was first seen.
    pending_error_since: Option<Instant>,
}

impl ManifestState {
    pub(super) fn new(node_name: Option<String>) -> Self {
        Self { node_name, ..Self::default() }
    }

    /// Returns the cluster IPs of the services.
    pub(super) fn addresses(&self) -> PreviousAddresses {
        let services = self.objects.services.iter();
        services.map(|(key, service)| (key.clone(), service.cluster_ips)).collect()
    }

    /// Returns when the manifests must be read again even if they do not change, because an update is debounced.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let since = self.pending_removals.values().chain(&self.pending_error_since).min();
        since.map(|since| *since + DEBOUNCE)
    }

    /// Updates the state with the result of a reading, and returns the events to send.
    pub(super) fn update(&mut self, resolved: Resolved, is_being_written: bool, now: Instant) -> Vec<Event> {
        let Resolved { objects, report, derived } = resolved;
        let is_valid = !report.has_errors() && !is_being_written;
        let node = self.node_name.as_deref().and_then(|name| objects.nodes.get(name)).cloned();
        let removals = self.debounce_removals(&objects, &derived, is_valid, now);
        let mut events = Vec::new();
        let changes = self.changes(objects, &removals);
        if !changes.is_empty() {
            events.push(Event::Changes(changes));
        }
        if node.is_some() && node != self.node {
            self.node.clone_from(&node);
            events.extend(node.map(Event::Node));
        }
        if !is_being_written {
            events.extend(self.error_event(&report, now));
        }
        // A directory that does not exist yet, or half a file, is not a complete state: the receiver would remove
        // objects that it has from before. A rejected object does not delay the initial sync.
        if !self.is_synced && !is_being_written && report.has_read_everything() {
            self.is_synced = true;
            events.push(Event::Synced);
        }
        events
    }

    /// Finds removals, and confirms those that are pending for long enough. None is confirmed unless `is_valid`.
    fn debounce_removals(
        &mut self,
        new: &Objects,
        derived: &BTreeSet<SliceKey>,
        is_valid: bool,
        now: Instant,
    ) -> DebouncedRemovals {
        let mut removals: BTreeSet<Removal> = BTreeSet::new();
        let missing = self.objects.services.keys().filter(|key| !new.services.contains_key(*key));
        removals.extend(missing.cloned().map(Removal::Service));
        let mut lost_a_slice: BTreeSet<&ServiceKey> = BTreeSet::new();
        for (key, slice) in self.objects.slices.iter().filter(|(key, _)| !new.slices.contains_key(key)) {
            removals.insert(Removal::Slice(key.clone()));
            lost_a_slice.insert(&slice.service);
        }
        for (key, slice) in new.slices.iter().filter(|(key, _)| derived.contains(key)) {
            let sent = self.objects.slices.get(key);
            // The slice replaces one that is missing, or lacks endpoints because their pods are missing.
            if lost_a_slice.contains(&slice.service) || sent.is_some_and(|sent| has_shrunk(sent, slice)) {
                removals.insert(Removal::Endpoints(key.clone()));
            }
        }
        if self.objects.service_ranges.iter().any(|range| !new.service_ranges.contains(range)) {
            removals.insert(Removal::ServiceRanges);
        }
        let missing = self.objects.namespaces.keys().filter(|name| !new.namespaces.contains_key(*name));
        removals.extend(missing.cloned().map(Removal::Namespace));
        let since = |removal: &Removal| self.pending_removals.get(removal).copied().unwrap_or(now);
        let is_due = |removal: &Removal| is_valid && since(removal) + DEBOUNCE <= now;
        let (confirmed, held_back) = removals.into_iter().partition(is_due);
        let debounced = DebouncedRemovals { confirmed, held_back };
        // An invalid state confirms nothing, so the debounce time starts again at the next valid one.
        let pending = debounced.held_back.iter().filter(|_| is_valid);
        self.pending_removals = pending.map(|removal| (removal.clone(), since(removal))).collect();
        debounced
    }

    fn changes(&mut self, new: Objects, removals: &DebouncedRemovals) -> Vec<Change> {
        let sent_namespaces: BTreeSet<Namespace> = self.objects.dns_namespaces().collect();
        let changed_namespaces =
            new.dns_namespaces().filter(|namespace| !sent_namespaces.contains(namespace));
        let mut changes: Vec<Change> = changed_namespaces.map(Change::Namespace).collect();
        let Objects { services, slices, nodes: _, namespaces, service_ranges } = new;
        let sent = &mut self.objects;
        if service_ranges != sent.service_ranges && !removals.held_back.contains(&Removal::ServiceRanges) {
            sent.service_ranges.clone_from(&service_ranges);
            changes.push(Change::ServiceRanges(service_ranges));
        }
        for removal in &removals.confirmed {
            match removal {
                Removal::Service(key) => {
                    sent.services.remove(key);
                    changes.push(Change::ServiceDeleted(key.clone()));
                }
                Removal::Slice(key) => {
                    sent.slices.remove(key);
                    changes.push(Change::SliceDeleted(key.clone()));
                }
                Removal::Namespace(name) => {
                    sent.namespaces.remove(name);
                    changes.push(Change::NamespaceDeleted(name.clone()));
                }
                Removal::Endpoints(_) | Removal::ServiceRanges => {}
            }
        }
        sent.namespaces.extend(namespaces);
        for (key, service) in services {
            if sent.services.get(&key) != Some(&service) {
                sent.services.insert(key, service.clone());
                changes.push(Change::Service(service));
            }
        }
        for (key, slice) in slices {
            let is_held_back = removals.held_back.contains(&Removal::Endpoints(key.clone()));
            if !is_held_back && sent.slices.get(&key) != Some(&slice) {
                sent.slices.insert(key, slice.clone());
                changes.push(Change::Slice(slice));
            }
        }
        changes
    }

    /// Returns the event for the first error of a reading, or for recovery from the last one. Errors are debounced
    /// after the initial sync.
    fn error_event(&mut self, report: &Report, now: Instant) -> Option<Event> {
        let first = report.problems.iter().find(|problem| problem.severity == Severity::Error);
        let Some(first) = first else {
            self.pending_error_since = None;
            return self.error.take().map(|_| Event::Recovered);
        };
        let mut text = first.to_string();
        if report.errors > 1 {
            text.push_str(&format!(" (and {} more)", report.errors - 1));
        }
        if self.error.as_deref() == Some(&text) {
            self.pending_error_since = None;
            return None;
        }
        let since = *self.pending_error_since.get_or_insert(now);
        if self.is_synced && now < since + DEBOUNCE {
            return None;
        }
        self.pending_error_since = None;
        self.error = Some(text.clone());
        Some(Event::Outage(text))
    }
}

/// The removals of one reading.
struct DebouncedRemovals {
    /// Removals to send now.
    confirmed: BTreeSet<Removal>,
    held_back: BTreeSet<Removal>,
}

fn has_shrunk(old: &EndpointSlice, new: &EndpointSlice) -> bool {
    let remains = |address| new.endpoints.iter().any(|endpoint| endpoint.address == address);
    old.endpoints.iter().any(|endpoint| !remains(endpoint.address))
        || old.ports.iter().any(|port| !new.ports.contains(port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifests::object_reader::ObjectReader;
    use crate::manifests::options::ReadOptions;
    use crate::manifests::resolve::resolve;

    const A: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: [{port: 1}]}\n";

    fn update(state: &mut ManifestState, text: &str, now: Instant) -> Vec<Event> {
        let mut reader = ObjectReader::default();
        reader.stream("a.yaml", text.as_bytes());
        let resolved = resolve(reader, &ReadOptions::default(), &state.addresses());
        state.update(resolved, false, now)
    }

    #[test]
    fn brief_disappearance_is_debounced() {
        let (mut state, start) = (ManifestState::new(None), Instant::now());
        assert_eq!(update(&mut state, A, start).len(), 2);
        assert_eq!(update(&mut state, "", start), []);
        assert_eq!(state.deadline(), Some(start + DEBOUNCE));
        assert_eq!(update(&mut state, A, start + DEBOUNCE / 2), []);
        assert_eq!(state.deadline(), None);
        assert_eq!(update(&mut state, "", start + DEBOUNCE), []);
        assert_eq!(update(&mut state, "", start + 2 * DEBOUNCE).len(), 1);
    }

    #[test]
    fn brief_error_is_debounced_and_lasting_error_is_sent_once() {
        let (mut state, start) = (ManifestState::new(None), Instant::now());
        update(&mut state, A, start);
        assert_eq!(update(&mut state, "[", start), []);
        assert_eq!(update(&mut state, A, start + DEBOUNCE), []);
        assert_eq!(update(&mut state, "[", start + DEBOUNCE), []);
        assert!(matches!(&update(&mut state, "[", start + 2 * DEBOUNCE)[..], [Event::Outage(_)]));
        assert_eq!(update(&mut state, "[", start + 9 * DEBOUNCE), [], "the error is sent once");
        assert_eq!(update(&mut state, A, start + 9 * DEBOUNCE), [Event::Recovered]);
    }
}
