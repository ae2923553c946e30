//! `Told`: what has been told of files, and how what is read now differs from it.
//!
//! The last good state stays in force: while anything is wrong, what is new and different is told, but nothing is
//! taken away, since what vanished may stand where nothing can be read. And what vanishes must stay away for a moment,
//! because editors move a file aside before they write it anew. What must not go in here: files, or a clock.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use proxy_core::endpoint::{EndpointSlice, SliceKey};
use proxy_core::node::Node;
use proxy_core::service::ServiceKey;
use proxy_core::snapshot::Change;

use crate::allocate::Earlier;
use crate::event::Event;
use crate::finish::Finished;
use crate::objects::Objects;
use crate::report::{Report, Severity};

/// How long something must be gone, or wrong, before it is told.
const SETTLE: Duration = Duration::from_millis(100);

/// Something that would be taken away.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Loss {
    Service(ServiceKey),
    Slice(SliceKey),
    /// Endpoints in a slice that was made of other objects.
    Endpoints(SliceKey),
    Ranges,
}

/// What has been told.
#[derive(Debug, Default)]
pub(super) struct Told {
    objects: Objects,
    node_name: Option<String>,
    node: Option<Node>,
    is_synced: bool,
    /// What is gone, and since when, without having been told.
    losses: BTreeMap<Loss, Instant>,
    /// What is wrong, as it was told.
    trouble: Option<String>,
    /// Since when something is wrong that was not told.
    wrong_since: Option<Instant>,
}

impl Told {
    pub(super) fn new(node_name: Option<String>) -> Self {
        Self { node_name, ..Self::default() }
    }

    /// The addresses that services have.
    pub(super) fn addresses(&self) -> Earlier {
        let services = self.objects.services.iter();
        services.map(|(key, service)| (key.clone(), service.cluster_ips)).collect()
    }

    /// When everything is to be read again though nothing has changed: something waits to be told.
    pub(super) fn due(&self) -> Option<Instant> {
        self.losses.values().chain(&self.wrong_since).min().map(|since| *since + SETTLE)
    }

    /// Takes what has been read and says what is to be told.
    pub(super) fn step(&mut self, read: Finished, is_being_written: bool, now: Instant) -> Vec<Event> {
        let Finished { objects, report, derived } = read;
        let is_sound = !report.has_errors() && !is_being_written;
        let node = self.node_name.as_deref().and_then(|name| objects.nodes.get(name)).cloned();
        let settled = self.settled(&objects, &derived, is_sound, now);
        let mut events = Vec::new();
        let changes = self.changes(objects, &settled);
        if !changes.is_empty() {
            events.push(Event::Changes(changes));
        }
        if node.is_some() && node != self.node {
            self.node.clone_from(&node);
            events.extend(node.map(Event::Node));
        }
        if !is_being_written {
            events.extend(self.trouble(&report, now));
        }
        // A folder that is not there yet, or half a file, is no complete state: who starts with it would take
        // away what ran before. A refused object alone keeps nobody waiting.
        if !self.is_synced && !is_being_written && report.has_read_everything() {
            self.is_synced = true;
            events.push(Event::Synced);
        }
        events
    }

    /// Finds what is gone; says what of it has been gone for long enough to be believed.
    fn settled(
        &mut self,
        new: &Objects,
        derived: &BTreeSet<SliceKey>,
        is_sound: bool,
        now: Instant,
    ) -> Settled {
        let mut losses: BTreeSet<Loss> = BTreeSet::new();
        let gone = self.objects.services.keys().filter(|key| !new.services.contains_key(key));
        losses.extend(gone.cloned().map(Loss::Service));
        let mut bereft: BTreeSet<&ServiceKey> = BTreeSet::new();
        for (key, slice) in self.objects.slices.iter().filter(|(key, _)| !new.slices.contains_key(key)) {
            losses.insert(Loss::Slice(key.clone()));
            bereft.insert(&slice.service);
        }
        for (key, slice) in new.slices.iter().filter(|(key, _)| derived.contains(key)) {
            let told = self.objects.slices.get(key);
            // A slice that takes the place of a better one, or that lacks endpoints because their pods are away.
            if bereft.contains(&slice.service) || told.is_some_and(|told| has_shrunk(told, slice)) {
                losses.insert(Loss::Endpoints(key.clone()));
            }
        }
        let had = &self.objects.service_ranges;
        if had.iter().any(|range| !new.service_ranges.contains(range)) {
            losses.insert(Loss::Ranges);
        }
        let since = |loss: &Loss| self.losses.get(loss).copied().unwrap_or(now);
        let (told, held) = losses.into_iter().partition(|loss| is_sound && since(loss) + SETTLE <= now);
        let settled = Settled { told, held };
        // Where nothing may be told, time begins again when all is well.
        let waiting = settled.held.iter().filter(|_| is_sound);
        self.losses = waiting.map(|loss| (loss.clone(), since(loss))).collect();
        settled
    }

    fn changes(&mut self, new: Objects, settled: &Settled) -> Vec<Change> {
        let Objects { services, slices, nodes: _, namespaces: _, service_ranges } = new;
        let mut changes = Vec::new();
        let had = &mut self.objects;
        if service_ranges != had.service_ranges && !settled.held.contains(&Loss::Ranges) {
            had.service_ranges.clone_from(&service_ranges);
            changes.push(Change::ServiceRanges(service_ranges));
        }
        for loss in &settled.told {
            match loss {
                Loss::Service(key) => {
                    had.services.remove(key);
                    changes.push(Change::NoService(key.clone()));
                }
                Loss::Slice(key) => {
                    had.slices.remove(key);
                    changes.push(Change::NoSlice(key.clone()));
                }
                Loss::Endpoints(_) | Loss::Ranges => {}
            }
        }
        for (key, service) in services {
            if had.services.get(&key) != Some(&service) {
                had.services.insert(key, service.clone());
                changes.push(Change::Service(service));
            }
        }
        for (key, slice) in slices {
            let is_held = settled.held.contains(&Loss::Endpoints(key.clone()));
            if !is_held && had.slices.get(&key) != Some(&slice) {
                had.slices.insert(key, slice.clone());
                changes.push(Change::Slice(slice));
            }
        }
        changes
    }

    fn trouble(&mut self, report: &Report, now: Instant) -> Option<Event> {
        let first = report.problems.iter().find(|problem| problem.severity == Severity::Error);
        let Some(first) = first else {
            self.wrong_since = None;
            return self.trouble.take().map(|_| Event::Recovered);
        };
        let mut text = first.to_string();
        if report.errors > 1 {
            text.push_str(&format!(" (and {} more)", report.errors - 1));
        }
        if self.trouble.as_deref() == Some(&text) {
            self.wrong_since = None;
            return None;
        }
        let since = *self.wrong_since.get_or_insert(now);
        if self.is_synced && now < since + SETTLE {
            return None;
        }
        self.wrong_since = None;
        self.trouble = Some(text.clone());
        Some(Event::Trouble(text))
    }
}

/// What is gone: told of now, or held back.
struct Settled {
    told: BTreeSet<Loss>,
    held: BTreeSet<Loss>,
}

fn has_shrunk(had: &EndpointSlice, new: &EndpointSlice) -> bool {
    let is_there = |address| new.endpoints.iter().any(|endpoint| endpoint.address == address);
    had.endpoints.iter().any(|endpoint| !is_there(endpoint.address))
        || had.ports.iter().any(|port| !new.ports.contains(port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finish::finish;
    use crate::options::ReadOptions;
    use crate::reader::Reader;

    const A: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: [{port: 1}]}\n";

    fn step(told: &mut Told, text: &str, now: Instant) -> Vec<Event> {
        let mut reader = Reader::default();
        reader.stream("a.yaml", text.as_bytes());
        let read = finish(reader, &ReadOptions::default(), &told.addresses());
        told.step(read, false, now)
    }

    #[test]
    fn what_vanishes_and_comes_again_soon_was_never_gone() {
        let (mut told, start) = (Told::new(None), Instant::now());
        assert_eq!(step(&mut told, A, start).len(), 2);
        assert_eq!(step(&mut told, "", start), []);
        assert_eq!(told.due(), Some(start + SETTLE));
        assert_eq!(step(&mut told, A, start + SETTLE / 2), []);
        assert_eq!(told.due(), None);
        assert_eq!(step(&mut told, "", start + SETTLE), []);
        assert_eq!(step(&mut told, "", start + 2 * SETTLE).len(), 1);
    }

    #[test]
    fn what_is_wrong_for_a_moment_is_not_told() {
        let (mut told, start) = (Told::new(None), Instant::now());
        step(&mut told, A, start);
        assert_eq!(step(&mut told, "[", start), []);
        assert_eq!(step(&mut told, A, start + SETTLE), []);
        assert_eq!(step(&mut told, "[", start + SETTLE), []);
        assert!(matches!(&step(&mut told, "[", start + 2 * SETTLE)[..], [Event::Trouble(_)]));
        assert_eq!(step(&mut told, "[", start + 9 * SETTLE), [], "it is told once");
        assert_eq!(step(&mut told, A, start + 9 * SETTLE), [Event::Recovered]);
    }
}
