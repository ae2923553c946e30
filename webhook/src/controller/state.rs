//! `State`: all that the controller knows, and what it is to do next.
//!
//! A pure state machine: pods, ConfigMaps and services come in as they are seen, and jobs come out, one for each
//! selection of a namespace. Namespaces take turns, and each has so many jobs at a time, so that none delays another.
//! What must not go in here: an API server, or a clock other than `now`.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kube_source::{ObjectKey, ObjectMeta};
use proxy_core::admission::{Record, RecordError};
use proxy_core::annotation::VARIABLES;

use crate::controller::group::{Group, Look, Outcome, Work};
use crate::controller::object::{Managed, found, names};
use crate::controller::quota::{Exceeded, Quotas};

/// How many jobs of a namespace may be under way.
const JOBS_OF_NAMESPACE_MAX: usize = 8;
/// How many jobs may be under way in all.
const JOBS_MAX: usize = 256;
/// How long the selections of a namespace may be together that are kept.
const TEXT_BYTES_OF_NAMESPACE_MAX: usize = 1 << 20;
/// What a group takes besides the text of its selection.
const GROUP_BYTES: usize = 256;
/// How many selections that were refused are tried again when there is room.
const RETRIES_AT_ONCE: usize = 32;
/// How often pods that there was no room for are looked for again.
const RECALL_INTERVAL: Duration = Duration::from_secs(10);

/// A namespace and the name of the first ConfigMap of a selection.
pub(crate) type GroupKey = (Arc<str>, Arc<str>);

/// Something to do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Job {
    /// For the ConfigMaps of one selection.
    Group(GroupKey, Work),
    /// Look through the pods of a namespace for references to ConfigMaps with these old names.
    OldReferences(Arc<str>, Vec<Arc<str>>),
    /// List the pods of a namespace again, but for these: some were seen when there was no room to keep their selections.
    Recall(Arc<str>, HashSet<Arc<str>>),
}

/// One namespace.
#[derive(Debug, Default)]
struct Space {
    /// To which selection each pod refers.
    pods: HashMap<Arc<str>, Arc<str>>,
    groups: HashMap<Arc<str>, Group>,
    /// How long their selections are.
    text_bytes: usize,
    ready: VecDeque<Arc<str>>,
    jobs: usize,
    /// Pods were seen that are not kept, and when to look for them again.
    recall: Option<Instant>,
    /// Which refusal was told last.
    told: Option<Exceeded>,
    /// When to look through the pods for old names; none: it is under way, or there are no old names.
    old_due: Option<Instant>,
}

impl Space {
    fn is_empty(&self) -> bool {
        self.pods.is_empty() && self.groups.is_empty() && self.jobs == 0 && self.recall.is_none()
    }
}

/// All that the controller knows.
#[derive(Debug)]
pub(crate) struct State {
    grace: Duration,
    quotas: Quotas,
    excepted: BTreeSet<String>,
    spaces: HashMap<Arc<str>, Space>,
    /// Namespaces that have something to do, in turn.
    turns: VecDeque<Arc<str>>,
    jobs: usize,
    /// When to look at what again.
    due: BTreeSet<(Instant, Arc<str>, Option<Arc<str>>)>,
}

impl State {
    pub(crate) fn new(grace: Duration, quotas: Quotas, excepted: BTreeSet<String>) -> Self {
        Self {
            grace,
            quotas,
            excepted,
            spaces: HashMap::new(),
            turns: VecDeque::new(),
            jobs: 0,
            due: BTreeSet::new(),
        }
    }

    /// Whether a namespace is left alone.
    pub(crate) fn is_excepted(&self, namespace: &str) -> bool {
        self.excepted.contains(namespace)
    }

    /// A pod came or changed. An error says why its record is of no use.
    pub(crate) fn pod(&mut self, meta: &ObjectMeta, now: Instant) -> Result<(), RecordError> {
        let ObjectKey { namespace, name } = &meta.key;
        if self.is_excepted(namespace) {
            return Ok(());
        }
        let label = meta.labels.get(VARIABLES.key).map(|label| &**label);
        let read = Record::read(label, |key| meta.annotations.get(key).map(|text| &**text));
        let record = read.as_ref().ok().and_then(Option::as_ref);
        let before = self.spaces.get(namespace).and_then(|space| space.pods.get(name)).cloned();
        if before.as_deref() != record.map(|record| record.base.as_str()) {
            if before.is_some() {
                self.pod_gone(&meta.key, now);
            }
            if let Some(record) = record {
                self.refer(&meta.key, record, now);
            }
        }
        read.map(drop)
    }

    fn refer(&mut self, pod: &ObjectKey, record: &Record, now: Instant) {
        let ObjectKey { namespace, name } = pod;
        let space = self.spaces.entry(Arc::clone(namespace)).or_default();
        let base: Arc<str> = record.base.as_str().into();
        let has_text = space.groups.get(&base).is_some_and(|group| group.text.is_some());
        if !has_text {
            if space.text_bytes + record.text.len() + GROUP_BYTES > TEXT_BYTES_OF_NAMESPACE_MAX {
                self.recall_later(namespace, now);
                return;
            }
            space.text_bytes += record.text.len() + GROUP_BYTES;
        }
        space.groups.entry(Arc::clone(&base)).or_default().refer(&record.text, record.parts);
        space.pods.insert(Arc::clone(name), Arc::clone(&base));
        self.look_at(&(Arc::clone(namespace), base), now);
    }

    /// A pod is gone, or has ended.
    pub(crate) fn pod_gone(&mut self, pod: &ObjectKey, now: Instant) {
        let Some(space) = self.spaces.get_mut(&pod.namespace) else { return };
        let Some(base) = space.pods.remove(&pod.name) else { return };
        if let Some(group) = space.groups.get_mut(&base) {
            let before = text_len(group);
            group.release(now);
            space.text_bytes -= before - text_len(group);
        }
        self.look_at(&(Arc::clone(&pod.namespace), base), now);
    }

    /// An object with the label of managed ConfigMaps came or changed; false: it is not one.
    pub(crate) fn config_map(&mut self, meta: &ObjectMeta, now: Instant) -> bool {
        let namespace = &meta.key.namespace;
        if self.is_excepted(namespace) {
            return true;
        }
        let Some(Managed { base, part, is_reminder, is_old, text }) = Managed::read(meta) else {
            // It may have been one before.
            self.config_map_gone(&meta.key, now);
            return false;
        };
        let space = self.spaces.entry(Arc::clone(namespace)).or_default();
        let base: Arc<str> = base.into();
        let group = space.groups.entry(Arc::clone(&base)).or_default();
        if is_old {
            group.is_old = true;
            group.parts = group.parts.max(part + 1);
            if group.text.is_none()
                && space.text_bytes + text.len() + GROUP_BYTES <= TEXT_BYTES_OF_NAMESPACE_MAX
            {
                space.text_bytes += text.len() + GROUP_BYTES;
                group.know(text);
            }
            if space.old_due.is_none() {
                space.old_due = Some(now);
                self.due.insert((now, Arc::clone(namespace), None));
            }
        }
        group.saw(part, is_reminder, Some(found(meta)), now);
        self.look_at(&(Arc::clone(namespace), base), now);
        true
    }

    /// A managed ConfigMap is gone.
    pub(crate) fn config_map_gone(&mut self, key: &ObjectKey, now: Instant) {
        let Some((base, part, is_reminder)) = names(&key.name) else { return };
        let Some(space) = self.spaces.get_mut(&key.namespace) else { return };
        let base: Arc<str> = base.into();
        let Some(group) = space.groups.get_mut(&base) else { return };
        group.saw(part, is_reminder, None, now);
        self.look_at(&(Arc::clone(&key.namespace), base), now);
    }

    /// Services of these namespaces changed; `all`: one changed that every selection has.
    pub(crate) fn services_changed(&mut self, namespaces: &HashSet<Arc<str>>, all: bool, now: Instant) {
        let mut changed = Vec::new();
        for (namespace, space) in &mut self.spaces {
            let is_own = all || namespaces.contains(namespace);
            for (base, group) in &mut space.groups {
                if is_own || group.foreign.iter().any(|foreign| namespaces.contains(foreign)) {
                    group.services_changed();
                    changed.push((Arc::clone(namespace), Arc::clone(base)));
                }
            }
        }
        for key in changed {
            self.look_at(&key, now);
        }
    }

    /// Looks at one group: whether it is to be worked at, now or later, or is gone.
    fn look_at(&mut self, key: &GroupKey, now: Instant) {
        let (namespace, base) = key;
        let Some(space) = self.spaces.get_mut(namespace) else { return };
        let Some(group) = space.groups.get_mut(base) else { return };
        let has_room = !group.is_busy && self.quotas.record(namespace, base, group.usage());
        if group.is_gone() {
            space.text_bytes -= text_len(group);
            if let Some(at) = group.scheduled {
                self.due.remove(&(at, Arc::clone(namespace), Some(Arc::clone(base))));
            }
            space.groups.remove(base);
        } else {
            match group.look(now, self.grace) {
                Look::Never => {}
                Look::At(at) => {
                    if group.scheduled.is_none_or(|scheduled| at < scheduled) {
                        let entry = |at| (at, Arc::clone(namespace), Some(Arc::clone(base)));
                        group.scheduled.map(|scheduled| self.due.remove(&entry(scheduled)));
                        group.scheduled = Some(at);
                        self.due.insert(entry(at));
                    }
                }
                Look::Now => {
                    group.is_queued = true;
                    space.ready.push_back(Arc::clone(base));
                    if space.ready.len() == 1 && space.jobs < JOBS_OF_NAMESPACE_MAX {
                        self.turns.push_back(Arc::clone(namespace));
                    }
                }
            }
        }
        if space.is_empty() {
            self.spaces.remove(namespace);
        } else if has_room {
            self.retry_refused(namespace, now);
        }
    }

    /// There is room in a namespace: what was refused is tried again.
    fn retry_refused(&mut self, namespace: &Arc<str>, now: Instant) {
        let Some(space) = self.spaces.get_mut(namespace) else { return };
        space.told = None;
        // A job under way may have asked for room just before there was some.
        space.groups.values_mut().filter(|group| group.is_busy).for_each(Group::retry);
        let refused = space.groups.iter_mut().filter(|(_, group)| group.refused.is_some() && !group.is_busy);
        let refused = refused.take(RETRIES_AT_ONCE).map(|(base, group)| {
            group.retry();
            (Arc::clone(namespace), Arc::clone(base))
        });
        for key in refused.collect::<Vec<_>>() {
            self.look_at(&key, now);
        }
    }

    /// When to call `jobs` again, if nothing happens before.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.due.first().map(|(at, ..)| *at)
    }

    /// What is to be done now.
    pub(crate) fn jobs(&mut self, now: Instant) -> Vec<Job> {
        let mut jobs = Vec::new();
        while self.due.first().is_some_and(|(at, ..)| *at <= now) {
            let Some((_, namespace, base)) = self.due.pop_first() else { break };
            match base {
                Some(base) => {
                    let space = self.spaces.get_mut(&namespace);
                    if let Some(group) = space.and_then(|space| space.groups.get_mut(&base)) {
                        group.scheduled = None;
                    }
                    self.look_at(&(namespace, base), now);
                }
                None => jobs.extend(self.namespace_job(&namespace, now)),
            }
        }
        while self.jobs < JOBS_MAX {
            let Some(namespace) = self.turns.pop_front() else { break };
            let Some(space) = self.spaces.get_mut(&namespace) else { continue };
            let Some(base) = space.ready.pop_front() else { continue };
            let group = space.groups.get_mut(&base);
            let work = group.and_then(|group| {
                group.is_queued = false;
                // It may have changed while it waited for its turn.
                if group.look(now, self.grace) == Look::Now { group.work() } else { None }
            });
            if work.is_some() {
                (self.jobs, space.jobs) = (self.jobs + 1, space.jobs + 1);
            }
            if !space.ready.is_empty() && space.jobs < JOBS_OF_NAMESPACE_MAX {
                self.turns.push_back(Arc::clone(&namespace));
            }
            jobs.extend(work.map(|work| Job::Group((namespace, base), work)));
        }
        jobs
    }

    /// What is to be done for a namespace as a whole.
    fn namespace_job(&mut self, namespace: &Arc<str>, now: Instant) -> Option<Job> {
        let space = self.spaces.get_mut(namespace)?;
        if space.old_due.is_some_and(|due| due <= now) {
            let old = space.groups.iter().filter(|(_, group)| group.is_old);
            let old: Vec<Arc<str>> = old.map(|(base, _)| Arc::clone(base)).collect();
            space.old_due = (!old.is_empty()).then_some(now + self.grace);
            let due = space.old_due?;
            self.due.insert((due, Arc::clone(namespace), None));
            return Some(Job::OldReferences(Arc::clone(namespace), old));
        }
        if space.recall.is_some_and(|due| due <= now) {
            space.recall = None;
            let has_room = space.text_bytes < TEXT_BYTES_OF_NAMESPACE_MAX / 2;
            if has_room {
                let known = space.pods.keys().cloned().collect();
                return Some(Job::Recall(Arc::clone(namespace), known));
            }
            self.recall_later(namespace, now);
        }
        None
    }

    /// The pods of a namespace are to be listed again, in a while.
    pub(crate) fn recall_later(&mut self, namespace: &Arc<str>, now: Instant) {
        let space = self.spaces.entry(Arc::clone(namespace)).or_default();
        if space.recall.is_none() {
            space.recall = Some(now + RECALL_INTERVAL);
            self.due.insert((now + RECALL_INTERVAL, Arc::clone(namespace), None));
        }
    }

    /// Whether a ConfigMap stands in the way that somebody else has made.
    pub(crate) fn is_foreign(&self, (namespace, base): &GroupKey) -> bool {
        let group = self.spaces.get(namespace).and_then(|space| space.groups.get(base));
        group.is_some_and(|group| group.exists > 1)
    }

    /// A job for a group has ended. The answer is what was refused for the first time.
    pub(crate) fn done(&mut self, key: &GroupKey, outcome: Outcome, now: Instant) -> Option<Exceeded> {
        self.jobs = self.jobs.saturating_sub(1);
        let (namespace, base) = key;
        let space = self.spaces.get_mut(namespace)?;
        space.jobs = space.jobs.saturating_sub(1);
        if space.jobs == JOBS_OF_NAMESPACE_MAX - 1 && !space.ready.is_empty() {
            self.turns.push_back(Arc::clone(namespace));
        }
        let group = space.groups.get_mut(base)?;
        let is_new = group.done(outcome, now);
        // Once for each time that a namespace runs out of room.
        let refused = group.refused.filter(|why| is_new && space.told != Some(*why));
        space.told = refused.or(space.told);
        self.look_at(key, now);
        refused
    }

    /// Pods refer to ConfigMaps with these old names, and to no others.
    pub(crate) fn old_references(
        &mut self,
        namespace: &Arc<str>,
        asked: &[Arc<str>],
        named: &HashSet<Arc<str>>,
        now: Instant,
    ) {
        for base in asked {
            let group = self.spaces.get_mut(namespace).and_then(|space| space.groups.get_mut(base));
            if let Some(group) = group {
                group.old_references(named.contains(base), now);
            }
            self.look_at(&(Arc::clone(namespace), Arc::clone(base)), now);
        }
    }

    /// The pods that refer to a selection, one of them, to tell its owner of something.
    pub(crate) fn a_pod_of(&self, (namespace, base): &GroupKey) -> Option<Arc<str>> {
        let pods = &self.spaces.get(namespace)?.pods;
        pods.iter().find(|(_, found)| *found == base).map(|(name, _)| Arc::clone(name))
    }
}

fn text_len(group: &Group) -> usize {
    group.text.as_ref().map_or(0, |text| text.len() + GROUP_BYTES)
}

#[cfg(test)]
mod tests;
