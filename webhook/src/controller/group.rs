//! `Group`: the ConfigMaps of one selection in one namespace, the pods that refer to them, and what is to be done.
//!
//! What must not go in here: other groups.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proxy_core::admission::{Content, Selection};

use crate::controller::object::Found;
use crate::controller::quota::{Exceeded, Usage};

/// The first pause after a failure; it doubles with each further one.
const RETRY_MIN: Duration = Duration::from_millis(200);
/// The pause in which a watch tells what somebody else has done.
const CONFLICT_PAUSE: Duration = Duration::from_millis(100);
/// The pause after a refusal.
const REFUSED_PAUSE: Duration = Duration::from_secs(60);
/// The longest pause after failures.
const RETRY_MAX: Duration = Duration::from_secs(60);

/// As many failures count for a ConfigMap that exists and that no watch has told of.
const EXISTS_FAILURES: u32 = 5;

/// As many times count for a ConfigMap that holds something else.
const DISAGREE_TIMES: u32 = 3;
/// After so long somebody else's writes are forgotten.
const RIVAL_MEMORY: Duration = Duration::from_secs(120);

/// Work for the API server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Work {
    /// Bring the ConfigMaps to what they are to be.
    Provide(Provide),
    /// Delete them: nobody refers to them any more.
    Collect(BTreeMap<usize, Found>, BTreeMap<usize, Found>),
}

/// What is known of the ConfigMaps that are to be provided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Provide {
    /// The text of the selection.
    pub(crate) text: Arc<str>,
    /// How many there must be.
    pub(crate) parts: usize,
    /// Those that there are.
    pub(crate) found: BTreeMap<usize, Found>,
    /// The reminders that there are.
    pub(crate) reminders: BTreeMap<usize, Found>,
    /// Release 0.1.0 gave the names.
    pub(crate) is_old: bool,
    /// Somebody has written to one, so each is written again.
    pub(crate) rewrites: bool,
}

/// How work ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// These are there now, and with them what each is to hold; all others are not.
    Provided(BTreeMap<usize, Found>, BTreeMap<usize, Found>),
    /// One is there that was not seen yet: another replica has made it, or somebody else.
    Exists,
    /// Somebody was faster: one is not as it was.
    Conflict,
    /// The namespace has used up a quota.
    Refused(Exceeded),
    /// The API server refuses or does not answer; what it says was logged.
    Failed,
}

/// The ConfigMaps of one selection.
#[derive(Debug, Default)]
pub(crate) struct Group {
    /// The text of the selection; none while no pod is known that refers to them.
    pub(crate) text: Option<Arc<str>>,
    pub(crate) is_old: bool,
    /// How many pods refer to them.
    pub(crate) pods: usize,
    /// Of those with an old name: pods were found that refer to them, when these were looked through last.
    pub(crate) is_old_used: bool,
    /// None were found.
    is_old_unused: bool,
    /// How many there must be: pods do not start without.
    pub(crate) parts: usize,
    pub(crate) found: BTreeMap<usize, Found>,
    pub(crate) reminders: BTreeMap<usize, Found>,
    /// What each was to hold when it was provided last.
    wanted: BTreeMap<usize, Option<Content>>,
    /// The namespaces of others whose services it names.
    pub(crate) foreign: Vec<Arc<str>>,
    /// Since when nobody refers to them.
    pub(crate) unused_since: Option<Instant>,
    pub(crate) is_dirty: bool,
    rewrites: bool,
    pub(crate) is_queued: bool,
    pub(crate) is_busy: bool,
    /// What was seen while work was under way.
    meanwhile: Vec<(usize, bool, Option<Found>)>,
    failures: u32,
    /// How often somebody else wrote to it, and when last.
    rivals: u32,
    rival_at: Option<Instant>,
    pub(crate) exists: u32,
    pub(crate) refused: Option<Exceeded>,
    /// The namespace got room while work was under way.
    has_new_room: bool,
    /// No work before that, after a failure.
    retry_at: Option<Instant>,
    /// When it will be looked at again, if nothing happens before.
    pub(crate) scheduled: Option<Instant>,
}

/// When to work at a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    Now,
    At(Instant),
    /// Something must happen before.
    Never,
}

impl Group {
    /// Whether its ConfigMaps must be there, or be waited for.
    pub(crate) fn is_used(&self) -> bool {
        self.pods > 0 || self.is_old_used
    }

    /// Whether nothing is left to keep it for.
    pub(crate) fn is_gone(&self) -> bool {
        !self.is_used() && !self.is_busy && self.found.is_empty() && self.reminders.is_empty()
    }

    /// What its ConfigMaps take.
    pub(crate) fn usage(&self) -> Usage {
        let bytes = self.found.values().filter_map(|found| Some(found.content.as_ref()?.bytes)).sum();
        Usage { count: self.found.len() + self.reminders.len(), bytes }
    }

    /// A pod refers to it.
    pub(crate) fn refer(&mut self, text: &str, parts: usize) {
        self.pods += 1;
        self.unused_since = None;
        if self.text.is_none() {
            self.know(text);
        }
        // What nobody referred to was not kept fresh.
        self.is_dirty |= self.pods == 1 || parts > self.parts;
        self.parts = self.parts.max(parts);
    }

    /// Keeps the text of its selection.
    pub(crate) fn know(&mut self, text: &str) {
        let selection = Selection::from_text(text).unwrap_or_default();
        let services = selection.services.iter().flatten().map(|one| &one.service).chain(&selection.wait_for);
        self.foreign = services.map(|key| Arc::clone(&key.namespace)).collect();
        self.foreign.sort();
        self.foreign.dedup();
        self.text = Some(text.into());
    }

    /// A pod does not refer to it any more.
    pub(crate) fn release(&mut self, now: Instant) {
        self.pods = self.pods.saturating_sub(1);
        if !self.is_used() {
            self.unused_since = Some(now);
            self.refused = None;
            if !self.is_old {
                (self.text, self.parts) = (None, 0);
            }
        }
    }

    /// Services changed.
    pub(crate) fn services_changed(&mut self) {
        self.is_dirty |= self.is_used();
        (self.failures, self.retry_at) = (0, None);
    }

    /// There may be room for it now.
    pub(crate) fn retry(&mut self) {
        self.has_new_room = self.is_busy;
        self.retry_at = None;
    }

    /// A ConfigMap or a reminder was seen, or is gone. Where that is not as it should be, it will be.
    pub(crate) fn saw(&mut self, part: usize, is_reminder: bool, seen: Option<Found>, now: Instant) {
        if self.is_busy {
            self.meanwhile.push((part, is_reminder, seen));
            return;
        }
        let place = if is_reminder { &mut self.reminders } else { &mut self.found };
        let before = match seen.clone() {
            Some(found) => place.insert(part, found),
            None => place.remove(&part),
        };
        if std::mem::take(&mut self.exists) > 0 {
            (self.retry_at, self.failures) = (None, 0);
        }
        let Some(wanted) = self.wanted.get(&part) else {
            // It was not provided here, so it is to be looked at.
            self.is_dirty |= self.is_used();
            return;
        };
        let (Some(content), false) = (wanted, is_reminder) else { return };
        let Some(seen) = seen else {
            // Pods do not start without it.
            self.is_dirty |= self.is_used();
            return;
        };
        let is_same = before.as_ref().is_some_and(|before| before.version == seen.version);
        if is_same || !self.is_used() {
            return;
        }
        let was_there = before.is_some_and(|before| before.content == seen.content);
        if was_there {
            // Somebody wrote to it and to nothing that stands for its data.
            (self.is_dirty, self.rewrites) = (true, true);
            if self.retry_at.is_none() && self.rival(now) > 1 {
                self.pause(self.rivals, now);
            }
        } else if seen.content.as_ref() != Some(content) {
            // Another replica may know of services already that this one will know soon: two that write at once would
            // not come to an end.
            self.is_dirty = true;
            if self.retry_at.is_none() {
                let times = self.rival(now).max(DISAGREE_TIMES);
                self.pause(times, now);
            }
        }
    }

    /// When to work at it.
    pub(crate) fn look(&mut self, now: Instant, grace: Duration) -> Look {
        let due = if self.is_busy || self.is_queued {
            return Look::Never;
        } else if self.is_used() {
            if !self.is_dirty {
                return Look::Never;
            }
            self.retry_at.unwrap_or(now)
        } else {
            let due = *self.unused_since.get_or_insert(now) + grace;
            if self.is_old && !self.is_old_unused {
                return Look::Never;
            }
            self.retry_at.map_or(due, |retry| retry.max(due))
        };
        if due <= now { Look::Now } else { Look::At(due) }
    }

    /// What is to be done now.
    pub(crate) fn work(&mut self) -> Option<Work> {
        (self.is_busy, self.has_new_room) = (true, false);
        self.retry_at = None;
        if !self.is_used() {
            return Some(Work::Collect(self.found.clone(), self.reminders.clone()));
        }
        self.is_dirty = false;
        Some(Work::Provide(Provide {
            text: self.text.clone()?,
            parts: self.parts,
            found: self.found.clone(),
            reminders: self.reminders.clone(),
            is_old: self.is_old,
            rewrites: std::mem::take(&mut self.rewrites),
        }))
    }

    /// Whether pods refer to it by an old name, as was just looked up.
    pub(crate) fn old_references(&mut self, are_there: bool, now: Instant) {
        self.is_dirty |= are_there && !self.is_old_used;
        self.is_old_used = are_there;
        self.is_old_unused = !are_there;
        if self.is_used() {
            self.unused_since = None;
        } else {
            self.unused_since.get_or_insert(now);
        }
    }

    /// Work has ended so; the answer says whether it was refused for the first time.
    pub(crate) fn done(&mut self, outcome: Outcome, now: Instant) -> bool {
        self.is_busy = false;
        let was_refused = self.refused.take();
        let mut is_new = false;
        match outcome {
            Outcome::Provided(found, reminders) => self.provided(found, reminders, now),
            Outcome::Exists => {
                self.exists += 1;
                self.is_dirty = true;
                self.catch_up(now);
                if self.found.is_empty() {
                    // Some seconds, in which the watch tells of it.
                    self.failures = (self.failures + 1).max(EXISTS_FAILURES);
                    self.pause(self.failures, now);
                }
            }
            Outcome::Refused(why) => {
                is_new = was_refused != Some(why);
                self.refused = Some(why);
                self.is_dirty = true;
                self.catch_up(now);
                // Room is looked for at once where some was made, and otherwise now and then.
                self.retry_at = (!self.has_new_room).then_some(now + REFUSED_PAUSE);
            }
            Outcome::Conflict => {
                self.is_dirty = true;
                self.catch_up(now);
                if self.retry_at.is_none() {
                    self.retry_at = Some(now + CONFLICT_PAUSE);
                }
            }
            Outcome::Failed => {
                self.failures += 1;
                self.is_dirty = true;
                self.catch_up(now);
                self.pause(self.failures, now);
            }
        }
        is_new
    }

    fn provided(&mut self, found: BTreeMap<usize, Found>, reminders: BTreeMap<usize, Found>, now: Instant) {
        (self.failures, self.exists) = (0, 0);
        self.wanted = found.iter().map(|(part, found)| (*part, found.content.clone())).collect();
        let before = [
            (false, std::mem::replace(&mut self.found, found)),
            (true, std::mem::replace(&mut self.reminders, reminders)),
        ];
        let version = |map: Option<&BTreeMap<usize, Found>>, part| Some(map?.get(&part)?.version.clone());
        let mut told: Vec<(usize, bool)> = Vec::new();
        // What was seen meanwhile was this work, or what was before it, or came after it.
        for (part, is_reminder, seen) in std::mem::take(&mut self.meanwhile) {
            let earlier = before.iter().find(|(is, _)| *is == is_reminder).map(|(_, map)| map);
            let now_there = version(Some(if is_reminder { &self.reminders } else { &self.found }), part);
            let was_there = version(earlier, part);
            let is_after = match &seen {
                Some(seen) => {
                    Some(&seen.version) != now_there.as_ref() && Some(&seen.version) != was_there.as_ref()
                }
                None => now_there == was_there || told.contains(&(part, is_reminder)),
            };
            told.push((part, is_reminder));
            if is_after {
                self.saw(part, is_reminder, seen, now);
            }
        }
    }

    /// Takes what was seen while work failed.
    fn catch_up(&mut self, now: Instant) {
        for (part, is_reminder, seen) in std::mem::take(&mut self.meanwhile) {
            self.saw(part, is_reminder, seen, now);
        }
    }

    /// Somebody else wrote to it; the answer is how often.
    fn rival(&mut self, now: Instant) -> u32 {
        let is_recent = |at: Instant| now.saturating_duration_since(at) < RIVAL_MEMORY;
        if !self.rival_at.is_some_and(is_recent) {
            self.rivals = 0;
        }
        self.rival_at = Some(now);
        self.rivals = self.rivals.saturating_add(1);
        self.rivals
    }

    /// Waits before it is worked at again, the longer the more often it was to no avail.
    fn pause(&mut self, times: u32, now: Instant) {
        let doubled = RETRY_MIN.saturating_mul(1 << times.saturating_sub(1).min(16));
        self.retry_at = Some(now + doubled.min(RETRY_MAX));
        self.is_dirty = true;
    }
}
