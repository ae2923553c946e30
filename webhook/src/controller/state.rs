//! `State`: what the controller knows, and its next jobs.
//!
//! A pure state machine without API server and clock: observed pods, ConfigMaps and services come in, and jobs come
//! out, one for each selection of a namespace. Namespaces are served in round robin, and each has a limited number of
//! jobs at a time, so that none delays another.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kube_source::{ObjectKey, ObjectMeta};
use proxy_core::admission::{Record, RecordError};
use proxy_core::annotation::VARIABLES;

use crate::controller::group::{Group, NextRun, Outcome, Work};
use crate::controller::object::{Managed, observed, parse_name};
use crate::controller::quota::{Exceeded, Quotas};

/// The number of concurrent jobs of a namespace.
const JOBS_OF_NAMESPACE_MAX: usize = 8;
/// The number of concurrent jobs.
const JOBS_MAX: usize = 256;
/// The size of the selections that are stored of a namespace.
const TEXT_BYTES_OF_NAMESPACE_MAX: usize = 1 << 20;
/// The size of a group without the text of its selection.
const GROUP_BYTES: usize = 256;
/// The number of refused selections that are retried when a namespace gets room.
const RETRIES_AT_ONCE: usize = 32;
/// The interval at which pods are listed again that were not stored for lack of room.
const RELIST_INTERVAL: Duration = Duration::from_secs(10);

/// A namespace and the name of the first ConfigMap of a selection.
pub(crate) type GroupKey = (Arc<str>, Arc<str>);

/// A job for the API server.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Job {
    /// Work on the ConfigMaps of one selection.
    Group(GroupKey, Work),
    /// Search the pods of a namespace for references to ConfigMaps with these names of release 0.1.0.
    OldReferences(Arc<str>, Vec<Arc<str>>),
    /// List the pods of a namespace, without these, which are stored: some were observed without room to store them.
    Relist(Arc<str>, HashSet<Arc<str>>),
}

/// One namespace.
#[derive(Debug, Default)]
struct NamespaceState {
    /// The selection to which each pod refers.
    pods: HashMap<Arc<str>, Arc<str>>,
    groups: HashMap<Arc<str>, Group>,
    /// The size of their selections.
    text_bytes: usize,
    ready: VecDeque<Arc<str>>,
    jobs: usize,
    /// The time at which to list pods again, if some are not stored.
    relist_at: Option<Instant>,
    /// The refusal that was reported last.
    reported: Option<Exceeded>,
    /// The time of the next search for names of release 0.1.0; none if it is running, or there are no such names.
    old_due: Option<Instant>,
}

impl NamespaceState {
    fn is_empty(&self) -> bool {
        self.pods.is_empty() && self.groups.is_empty() && self.jobs == 0 && self.relist_at.is_none()
    }
}

/// The state of the controller.
#[derive(Debug)]
pub(crate) struct State {
    grace: Duration,
    quotas: Quotas,
    excepted: BTreeSet<String>,
    namespaces: HashMap<Arc<str>, NamespaceState>,
    /// The namespaces with ready groups, in round robin.
    ready: VecDeque<Arc<str>>,
    jobs: usize,
    /// The times at which groups and namespaces are scheduled.
    due: BTreeSet<(Instant, Arc<str>, Option<Arc<str>>)>,
}

impl State {
    pub(crate) fn new(grace: Duration, quotas: Quotas, excepted: BTreeSet<String>) -> Self {
        Self {
            grace,
            quotas,
            excepted,
            namespaces: HashMap::new(),
            ready: VecDeque::new(),
            jobs: 0,
            due: BTreeSet::new(),
        }
    }

    /// Whether the webhook ignores a namespace.
    pub(crate) fn is_excepted(&self, namespace: &str) -> bool {
        self.excepted.contains(namespace)
    }

    /// Records a new or changed pod.
    ///
    /// # Errors
    /// If its label and annotations are not a valid record; the pod then counts as one without a record.
    pub(crate) fn pod(&mut self, meta: &ObjectMeta, now: Instant) -> Result<(), RecordError> {
        let ObjectKey { namespace, name } = &meta.key;
        if self.is_excepted(namespace) {
            return Ok(());
        }
        let label = meta.labels.get(VARIABLES.key).map(|label| &**label);
        let read = Record::read(label, |key| meta.annotations.get(key).map(|text| &**text));
        let record = read.as_ref().ok().and_then(Option::as_ref);
        let before = self.namespaces.get(namespace).and_then(|state| state.pods.get(name)).cloned();
        if before.as_deref() != record.map(|record| record.base.as_str()) {
            if before.is_some() {
                self.pod_deleted(&meta.key, now);
            }
            if let Some(record) = record {
                self.add_pod(&meta.key, record, now);
            }
        }
        read.map(drop)
    }

    fn add_pod(&mut self, pod: &ObjectKey, record: &Record, now: Instant) {
        let ObjectKey { namespace, name } = pod;
        let state = self.namespaces.entry(Arc::clone(namespace)).or_default();
        let base: Arc<str> = record.base.as_str().into();
        let has_text = state.groups.get(&base).is_some_and(|group| group.text.is_some());
        if !has_text {
            if state.text_bytes + record.text.len() + GROUP_BYTES > TEXT_BYTES_OF_NAMESPACE_MAX {
                self.relist_later(namespace, now);
                return;
            }
            state.text_bytes += record.text.len() + GROUP_BYTES;
        }
        state.groups.entry(Arc::clone(&base)).or_default().add_pod(&record.text, record.parts);
        state.pods.insert(Arc::clone(name), Arc::clone(&base));
        self.reschedule(&(Arc::clone(namespace), base), now);
    }

    /// Records that a pod was deleted or has terminated.
    pub(crate) fn pod_deleted(&mut self, pod: &ObjectKey, now: Instant) {
        let Some(state) = self.namespaces.get_mut(&pod.namespace) else { return };
        let Some(base) = state.pods.remove(&pod.name) else { return };
        if let Some(group) = state.groups.get_mut(&base) {
            let before = text_len(group);
            group.remove_pod(now);
            state.text_bytes -= before - text_len(group);
        }
        self.reschedule(&(Arc::clone(&pod.namespace), base), now);
    }

    /// Records a new or changed object with the label of managed ConfigMaps; returns false if it is not managed.
    pub(crate) fn config_map(&mut self, meta: &ObjectMeta, now: Instant) -> bool {
        let namespace = &meta.key.namespace;
        if self.is_excepted(namespace) {
            return true;
        }
        let Some(Managed { base, part, is_reminder, is_old, text }) = Managed::read(meta) else {
            // It may have been managed before.
            self.config_map_deleted(&meta.key, now);
            return false;
        };
        let state = self.namespaces.entry(Arc::clone(namespace)).or_default();
        let base: Arc<str> = base.into();
        let group = state.groups.entry(Arc::clone(&base)).or_default();
        if is_old {
            group.is_old = true;
            group.parts = group.parts.max(part + 1);
            if group.text.is_none()
                && state.text_bytes + text.len() + GROUP_BYTES <= TEXT_BYTES_OF_NAMESPACE_MAX
            {
                state.text_bytes += text.len() + GROUP_BYTES;
                group.set_text(text);
            }
            if state.old_due.is_none() {
                state.old_due = Some(now);
                self.due.insert((now, Arc::clone(namespace), None));
            }
        }
        group.observe(part, is_reminder, Some(observed(meta)), now);
        self.reschedule(&(Arc::clone(namespace), base), now);
        true
    }

    /// Records that a managed ConfigMap was deleted.
    pub(crate) fn config_map_deleted(&mut self, key: &ObjectKey, now: Instant) {
        let Some((base, part, is_reminder)) = parse_name(&key.name) else { return };
        let Some(state) = self.namespaces.get_mut(&key.namespace) else { return };
        let base: Arc<str> = base.into();
        let Some(group) = state.groups.get_mut(&base) else { return };
        group.observe(part, is_reminder, None, now);
        self.reschedule(&(Arc::clone(&key.namespace), base), now);
    }

    /// Records that services of these namespaces changed; `all`: one changed that every selection contains.
    pub(crate) fn services_changed(&mut self, changed: &HashSet<Arc<str>>, all: bool, now: Instant) {
        let mut affected = Vec::new();
        for (namespace, state) in &mut self.namespaces {
            let is_own = all || changed.contains(namespace);
            for (base, group) in &mut state.groups {
                if is_own || group.foreign.iter().any(|foreign| changed.contains(foreign)) {
                    group.services_changed();
                    affected.push((Arc::clone(namespace), Arc::clone(base)));
                }
            }
        }
        for key in affected {
            self.reschedule(&key, now);
        }
    }

    /// Queues or schedules the next run of a group, or removes the group if it is obsolete.
    fn reschedule(&mut self, key: &GroupKey, now: Instant) {
        let (namespace, base) = key;
        let Some(state) = self.namespaces.get_mut(namespace) else { return };
        let Some(group) = state.groups.get_mut(base) else { return };
        let has_room = !group.is_busy && self.quotas.record(namespace, base, group.usage());
        if group.is_obsolete() {
            state.text_bytes -= text_len(group);
            if let Some(at) = group.scheduled {
                self.due.remove(&(at, Arc::clone(namespace), Some(Arc::clone(base))));
            }
            state.groups.remove(base);
        } else {
            match group.next_run(now, self.grace) {
                NextRun::Never => {}
                NextRun::At(at) => {
                    if group.scheduled.is_none_or(|scheduled| at < scheduled) {
                        let entry = |at| (at, Arc::clone(namespace), Some(Arc::clone(base)));
                        group.scheduled.map(|scheduled| self.due.remove(&entry(scheduled)));
                        group.scheduled = Some(at);
                        self.due.insert(entry(at));
                    }
                }
                NextRun::Now => {
                    group.is_queued = true;
                    state.ready.push_back(Arc::clone(base));
                    if state.ready.len() == 1 && state.jobs < JOBS_OF_NAMESPACE_MAX {
                        self.ready.push_back(Arc::clone(namespace));
                    }
                }
            }
        }
        if state.is_empty() {
            self.namespaces.remove(namespace);
        } else if has_room {
            self.retry_refused(namespace, now);
        }
    }

    /// Retries refused selections of a namespace that has room again.
    fn retry_refused(&mut self, namespace: &Arc<str>, now: Instant) {
        let Some(state) = self.namespaces.get_mut(namespace) else { return };
        state.reported = None;
        // A running job may have been refused just before the room was freed.
        state.groups.values_mut().filter(|group| group.is_busy).for_each(Group::retry);
        let refused = state.groups.iter_mut().filter(|(_, group)| group.refused.is_some() && !group.is_busy);
        let refused = refused.take(RETRIES_AT_ONCE).map(|(base, group)| {
            group.retry();
            (Arc::clone(namespace), Arc::clone(base))
        });
        for key in refused.collect::<Vec<_>>() {
            self.reschedule(&key, now);
        }
    }

    /// The time at which to call `jobs` again, unless an event comes first.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.due.first().map(|(at, ..)| *at)
    }

    /// Starts the jobs that are due now.
    pub(crate) fn jobs(&mut self, now: Instant) -> Vec<Job> {
        let mut jobs = Vec::new();
        while self.due.first().is_some_and(|(at, ..)| *at <= now) {
            let Some((_, namespace, base)) = self.due.pop_first() else { break };
            match base {
                Some(base) => {
                    let state = self.namespaces.get_mut(&namespace);
                    if let Some(group) = state.and_then(|state| state.groups.get_mut(&base)) {
                        group.scheduled = None;
                    }
                    self.reschedule(&(namespace, base), now);
                }
                None => jobs.extend(self.namespace_job(&namespace, now)),
            }
        }
        while self.jobs < JOBS_MAX {
            let Some(namespace) = self.ready.pop_front() else { break };
            let Some(state) = self.namespaces.get_mut(&namespace) else { continue };
            let Some(base) = state.ready.pop_front() else { continue };
            let group = state.groups.get_mut(&base);
            let work = group.and_then(|group| {
                group.is_queued = false;
                // It may have changed while it was queued.
                if group.next_run(now, self.grace) == NextRun::Now { group.start() } else { None }
            });
            if work.is_some() {
                (self.jobs, state.jobs) = (self.jobs + 1, state.jobs + 1);
            }
            if !state.ready.is_empty() && state.jobs < JOBS_OF_NAMESPACE_MAX {
                self.ready.push_back(Arc::clone(&namespace));
            }
            jobs.extend(work.map(|work| Job::Group((namespace, base), work)));
        }
        jobs
    }

    /// Starts a job for a namespace as a whole, if one is due.
    fn namespace_job(&mut self, namespace: &Arc<str>, now: Instant) -> Option<Job> {
        let state = self.namespaces.get_mut(namespace)?;
        if state.old_due.is_some_and(|due| due <= now) {
            let old = state.groups.iter().filter(|(_, group)| group.is_old);
            let old: Vec<Arc<str>> = old.map(|(base, _)| Arc::clone(base)).collect();
            state.old_due = (!old.is_empty()).then_some(now + self.grace);
            let due = state.old_due?;
            self.due.insert((due, Arc::clone(namespace), None));
            return Some(Job::OldReferences(Arc::clone(namespace), old));
        }
        if state.relist_at.is_some_and(|due| due <= now) {
            state.relist_at = None;
            let has_room = state.text_bytes < TEXT_BYTES_OF_NAMESPACE_MAX / 2;
            if has_room {
                let known = state.pods.keys().cloned().collect();
                return Some(Job::Relist(Arc::clone(namespace), known));
            }
            self.relist_later(namespace, now);
        }
        None
    }

    /// Schedules a list of the pods of a namespace.
    pub(crate) fn relist_later(&mut self, namespace: &Arc<str>, now: Instant) {
        let state = self.namespaces.entry(Arc::clone(namespace)).or_default();
        if state.relist_at.is_none() {
            state.relist_at = Some(now + RELIST_INTERVAL);
            self.due.insert((now + RELIST_INTERVAL, Arc::clone(namespace), None));
        }
    }

    /// Whether a ConfigMap that is not managed has the name of one that is needed.
    pub(crate) fn is_foreign(&self, (namespace, base): &GroupKey) -> bool {
        let group = self.namespaces.get(namespace).and_then(|state| state.groups.get(base));
        group.is_some_and(|group| group.exists > 1)
    }

    /// Records the result of a job; returns the quota if its namespace exceeds it for the first time.
    pub(crate) fn finish(&mut self, key: &GroupKey, outcome: Outcome, now: Instant) -> Option<Exceeded> {
        self.jobs = self.jobs.saturating_sub(1);
        let (namespace, base) = key;
        let state = self.namespaces.get_mut(namespace)?;
        state.jobs = state.jobs.saturating_sub(1);
        if state.jobs == JOBS_OF_NAMESPACE_MAX - 1 && !state.ready.is_empty() {
            self.ready.push_back(Arc::clone(namespace));
        }
        let group = state.groups.get_mut(base)?;
        let is_new = group.finish(outcome, now);
        // Report once each time that a namespace runs out of room.
        let refused = group.refused.filter(|exceeded| is_new && state.reported != Some(*exceeded));
        state.reported = refused.or(state.reported);
        self.reschedule(key, now);
        refused
    }

    /// Records the result of a search for names of release 0.1.0: the pods refer to `named`, and to no others of
    /// `asked`.
    pub(crate) fn old_references(
        &mut self,
        namespace: &Arc<str>,
        asked: &[Arc<str>],
        named: &HashSet<Arc<str>>,
        now: Instant,
    ) {
        for base in asked {
            let group = self.namespaces.get_mut(namespace).and_then(|state| state.groups.get_mut(base));
            if let Some(group) = group {
                group.set_old_references(named.contains(base), now);
            }
            self.reschedule(&(Arc::clone(namespace), Arc::clone(base)), now);
        }
    }

    /// Returns one of the pods that refer to a selection.
    pub(crate) fn any_pod_of(&self, (namespace, base): &GroupKey) -> Option<Arc<str>> {
        let pods = &self.namespaces.get(namespace)?.pods;
        pods.iter().find(|(_, found)| *found == base).map(|(name, _)| Arc::clone(name))
    }
}

fn text_len(group: &Group) -> usize {
    group.text.as_ref().map_or(0, |text| text.len() + GROUP_BYTES)
}

#[cfg(test)]
mod tests;
