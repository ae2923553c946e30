//! `Group`: the ConfigMaps of one selection in one namespace, the pods that refer to them, and the next work on them.
//!
//! A pure state machine: observations and results come in with the current time, and `next_run` and `start` return
//! when and what to do. Observations that arrive while work is running are deferred until its result is known,
//! because only then it is clear whether they show that work or a write of another client.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proxy_core::admission::{Content, Selection};
use support::Backoff;

use crate::controller::object::Observed;
use crate::controller::quota::{Exceeded, Usage};

/// The delay after failures, and after writes of another client.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(60));
/// The delay in which the watch delivers the change that caused a conflict.
const CONFLICT_DELAY: Duration = Duration::from_millis(100);
/// The delay after a refusal by the quota.
const REFUSED_DELAY: Duration = Duration::from_secs(60);

/// A ConfigMap that exists and that the watch has not delivered counts as this many failures.
const EXISTS_FAILURES: u32 = 5;

/// A ConfigMap with other contents than wanted counts as this many writes of another client.
const DISAGREEMENT_WRITES: u32 = 3;
/// Writes of another client count for this long.
const FOREIGN_WRITE_MEMORY: Duration = Duration::from_secs(120);

/// Work for the API server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Work {
    /// Create and update the ConfigMaps as needed.
    Ensure(Ensure),
    /// Delete the ConfigMaps and reminders, which no pod refers to.
    Delete(BTreeMap<usize, Observed>, BTreeMap<usize, Observed>),
}

/// The known state of the ConfigMaps that must exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ensure {
    /// The text of the selection.
    pub(crate) text: Arc<str>,
    /// The number of ConfigMaps that must exist.
    pub(crate) parts: usize,
    /// The ConfigMaps that exist, by part.
    pub(crate) found: BTreeMap<usize, Observed>,
    /// The reminders that exist, by part.
    pub(crate) reminders: BTreeMap<usize, Observed>,
    /// The names are those of release 0.1.0.
    pub(crate) is_old: bool,
    /// Another client has written to one, so all are written again.
    pub(crate) must_rewrite: bool,
}

/// The result of work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Exactly these ConfigMaps and reminders exist now.
    Applied(BTreeMap<usize, Observed>, BTreeMap<usize, Observed>),
    /// A ConfigMap exists that the watch has not delivered: another replica or another client created it.
    Exists,
    /// An object was changed or deleted meanwhile.
    Conflict,
    /// The namespace exceeds a quota.
    Refused(Exceeded),
    /// The API server rejected a request or did not respond; the error was logged.
    Failed,
}

/// The ConfigMaps of one selection.
#[derive(Debug, Default)]
pub(crate) struct Group {
    /// The text of the selection; none while no pod is known that refers to them.
    pub(crate) text: Option<Arc<str>>,
    pub(crate) is_old: bool,
    /// The number of pods that refer to them.
    pub(crate) pods: usize,
    /// For names of release 0.1.0: the last search found pods that refer to them.
    pub(crate) is_old_used: bool,
    /// The last search found none.
    is_old_unused: bool,
    /// The number of ConfigMaps that pods need to start.
    pub(crate) parts: usize,
    pub(crate) found: BTreeMap<usize, Observed>,
    pub(crate) reminders: BTreeMap<usize, Observed>,
    /// The contents of each after the last successful work.
    applied: BTreeMap<usize, Option<Content>>,
    /// The other namespaces whose services the selection names.
    pub(crate) foreign: Vec<Arc<str>>,
    /// The time since which no pod refers to them.
    pub(crate) unused_since: Option<Instant>,
    pub(crate) is_dirty: bool,
    must_rewrite: bool,
    pub(crate) is_queued: bool,
    pub(crate) is_busy: bool,
    /// Observations that arrived while work was running.
    deferred: Vec<(usize, bool, Option<Observed>)>,
    failures: u32,
    /// The number of recent writes of other clients, and the time of the last one.
    foreign_writes: u32,
    foreign_write_at: Option<Instant>,
    pub(crate) exists: u32,
    pub(crate) refused: Option<Exceeded>,
    /// The namespace got room while work was running.
    has_new_room: bool,
    /// The earliest time of the next work.
    retry_at: Option<Instant>,
    /// The time for which the next run is scheduled.
    pub(crate) scheduled: Option<Instant>,
}

/// When to start work on a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NextRun {
    Now,
    At(Instant),
    /// Not before another event.
    Never,
}

impl Group {
    /// Whether pods need the ConfigMaps.
    pub(crate) fn is_used(&self) -> bool {
        self.pods > 0 || self.is_old_used
    }

    /// Whether the group has no pods, no objects and no running work.
    pub(crate) fn is_obsolete(&self) -> bool {
        !self.is_used() && !self.is_busy && self.found.is_empty() && self.reminders.is_empty()
    }

    /// The number and size of the ConfigMaps that exist.
    pub(crate) fn usage(&self) -> Usage {
        let bytes = self.found.values().filter_map(|found| Some(found.content.as_ref()?.bytes)).sum();
        Usage { count: self.found.len() + self.reminders.len(), bytes }
    }

    /// Adds a pod that refers to the ConfigMaps.
    pub(crate) fn add_pod(&mut self, text: &str, parts: usize) {
        self.pods += 1;
        self.unused_since = None;
        if self.text.is_none() {
            self.set_text(text);
        }
        // Unused ConfigMaps are not updated when services change.
        self.is_dirty |= self.pods == 1 || parts > self.parts;
        self.parts = self.parts.max(parts);
    }

    /// Sets the text of the selection.
    pub(crate) fn set_text(&mut self, text: &str) {
        let selection = Selection::from_text(text).unwrap_or_default();
        let services = selection.services.iter().flatten().map(|one| &one.service).chain(&selection.wait_for);
        self.foreign = services.map(|key| Arc::clone(&key.namespace)).collect();
        self.foreign.sort();
        self.foreign.dedup();
        self.text = Some(text.into());
    }

    /// Removes a pod that referred to the ConfigMaps.
    pub(crate) fn remove_pod(&mut self, now: Instant) {
        self.pods = self.pods.saturating_sub(1);
        if !self.is_used() {
            self.unused_since = Some(now);
            self.refused = None;
            if !self.is_old {
                (self.text, self.parts) = (None, 0);
            }
        }
    }

    /// Marks the group for an update because services changed.
    pub(crate) fn services_changed(&mut self) {
        self.is_dirty |= self.is_used();
        (self.failures, self.retry_at) = (0, None);
    }

    /// Marks the group for an attempt at once because the namespace may have room.
    pub(crate) fn retry(&mut self) {
        self.has_new_room = self.is_busy;
        self.retry_at = None;
    }

    /// Records that a ConfigMap or a reminder was observed, or was deleted. If it differs from what was applied, the
    /// group is marked for work.
    pub(crate) fn observe(&mut self, part: usize, is_reminder: bool, seen: Option<Observed>, now: Instant) {
        if self.is_busy {
            self.deferred.push((part, is_reminder, seen));
            return;
        }
        let known = if is_reminder { &mut self.reminders } else { &mut self.found };
        let before = match seen.clone() {
            Some(found) => known.insert(part, found),
            None => known.remove(&part),
        };
        if std::mem::take(&mut self.exists) > 0 {
            (self.retry_at, self.failures) = (None, 0);
        }
        let Some(applied) = self.applied.get(&part) else {
            // This process did not write it, so it is unknown whether it is up to date.
            self.is_dirty |= self.is_used();
            return;
        };
        let (Some(content), false) = (applied, is_reminder) else { return };
        let Some(seen) = seen else {
            // Pods do not start without it.
            self.is_dirty |= self.is_used();
            return;
        };
        let is_same = before.as_ref().is_some_and(|before| before.version == seen.version);
        if is_same || !self.is_used() {
            return;
        }
        let has_same_content = before.is_some_and(|before| before.content == seen.content);
        if has_same_content {
            // Another client wrote to it, but not to the annotation with the digest of its data.
            (self.is_dirty, self.must_rewrite) = (true, true);
            if self.retry_at.is_none() && self.count_foreign_write(now) > 1 {
                self.back_off(self.foreign_writes, now);
            }
        } else if seen.content.as_ref() != Some(content) {
            // Another replica may already know services that this one will know soon. Without a delay two such
            // writers would overwrite each other forever.
            self.is_dirty = true;
            if self.retry_at.is_none() {
                let writes = self.count_foreign_write(now).max(DISAGREEMENT_WRITES);
                self.back_off(writes, now);
            }
        }
    }

    /// Returns when to start work.
    pub(crate) fn next_run(&mut self, now: Instant, grace: Duration) -> NextRun {
        let due = if self.is_busy || self.is_queued {
            return NextRun::Never;
        } else if self.is_used() {
            if !self.is_dirty {
                return NextRun::Never;
            }
            self.retry_at.unwrap_or(now)
        } else {
            let due = *self.unused_since.get_or_insert(now) + grace;
            if self.is_old && !self.is_old_unused {
                return NextRun::Never;
            }
            self.retry_at.map_or(due, |retry| retry.max(due))
        };
        if due <= now { NextRun::Now } else { NextRun::At(due) }
    }

    /// Starts work, and returns it.
    pub(crate) fn start(&mut self) -> Option<Work> {
        (self.is_busy, self.has_new_room) = (true, false);
        self.retry_at = None;
        if !self.is_used() {
            return Some(Work::Delete(self.found.clone(), self.reminders.clone()));
        }
        self.is_dirty = false;
        Some(Work::Ensure(Ensure {
            text: self.text.clone()?,
            parts: self.parts,
            found: self.found.clone(),
            reminders: self.reminders.clone(),
            is_old: self.is_old,
            must_rewrite: std::mem::take(&mut self.must_rewrite),
        }))
    }

    /// Records whether a search found pods that refer to names of release 0.1.0.
    pub(crate) fn set_old_references(&mut self, exist: bool, now: Instant) {
        self.is_dirty |= exist && !self.is_old_used;
        self.is_old_used = exist;
        self.is_old_unused = !exist;
        if self.is_used() {
            self.unused_since = None;
        } else {
            self.unused_since.get_or_insert(now);
        }
    }

    /// Records the result of work; returns whether it was refused for the first time.
    pub(crate) fn finish(&mut self, outcome: Outcome, now: Instant) -> bool {
        self.is_busy = false;
        let was_refused = self.refused.take();
        let mut is_new = false;
        match outcome {
            Outcome::Applied(found, reminders) => self.applied(found, reminders, now),
            Outcome::Exists => {
                self.exists += 1;
                self.is_dirty = true;
                self.observe_deferred(now);
                if self.found.is_empty() {
                    // Wait some seconds for the watch to deliver it.
                    self.failures = (self.failures + 1).max(EXISTS_FAILURES);
                    self.back_off(self.failures, now);
                }
            }
            Outcome::Refused(why) => {
                is_new = was_refused != Some(why);
                self.refused = Some(why);
                self.is_dirty = true;
                self.observe_deferred(now);
                // If room was freed meanwhile, retry at once.
                self.retry_at = (!self.has_new_room).then_some(now + REFUSED_DELAY);
            }
            Outcome::Conflict => {
                self.is_dirty = true;
                self.observe_deferred(now);
                if self.retry_at.is_none() {
                    self.retry_at = Some(now + CONFLICT_DELAY);
                }
            }
            Outcome::Failed => {
                self.failures += 1;
                self.is_dirty = true;
                self.observe_deferred(now);
                self.back_off(self.failures, now);
            }
        }
        is_new
    }

    fn applied(
        &mut self,
        found: BTreeMap<usize, Observed>,
        reminders: BTreeMap<usize, Observed>,
        now: Instant,
    ) {
        (self.failures, self.exists) = (0, 0);
        self.applied = found.iter().map(|(part, found)| (*part, found.content.clone())).collect();
        let before = [
            (false, std::mem::replace(&mut self.found, found)),
            (true, std::mem::replace(&mut self.reminders, reminders)),
        ];
        let version = |map: Option<&BTreeMap<usize, Observed>>, part| Some(map?.get(&part)?.version.clone());
        let mut observed: Vec<(usize, bool)> = Vec::new();
        // A deferred observation shows this work, the state before it, or a later change; only the last one counts.
        for (part, is_reminder, seen) in std::mem::take(&mut self.deferred) {
            let earlier = before.iter().find(|(is, _)| *is == is_reminder).map(|(_, map)| map);
            let current = version(Some(if is_reminder { &self.reminders } else { &self.found }), part);
            let previous = version(earlier, part);
            let is_later = match &seen {
                Some(seen) => {
                    Some(&seen.version) != current.as_ref() && Some(&seen.version) != previous.as_ref()
                }
                None => current == previous || observed.contains(&(part, is_reminder)),
            };
            observed.push((part, is_reminder));
            if is_later {
                self.observe(part, is_reminder, seen, now);
            }
        }
    }

    /// Records the observations that arrived while work was running and failed.
    fn observe_deferred(&mut self, now: Instant) {
        for (part, is_reminder, seen) in std::mem::take(&mut self.deferred) {
            self.observe(part, is_reminder, seen, now);
        }
    }

    /// Counts a write of another client, and returns the number of recent ones.
    fn count_foreign_write(&mut self, now: Instant) -> u32 {
        let is_recent = |at: Instant| now.saturating_duration_since(at) < FOREIGN_WRITE_MEMORY;
        if !self.foreign_write_at.is_some_and(is_recent) {
            self.foreign_writes = 0;
        }
        self.foreign_write_at = Some(now);
        self.foreign_writes = self.foreign_writes.saturating_add(1);
        self.foreign_writes
    }

    /// Delays the next work, the longer the more attempts failed.
    fn back_off(&mut self, failures: u32, now: Instant) {
        self.retry_at = Some(now + BACKOFF.delay_after(failures));
        self.is_dirty = true;
    }
}
