//! `ObjectIndex`: the keys, versions and hashes of the objects of one kind, to detect differences.
//!
//! The index stores no objects: the consumer has them. An object can match several selections (label selectors) of its
//! kind, and move from one to another; it exists as long as one selection has it.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hasher};
use std::io::{self, Write};
use std::num::NonZeroU32;

use serde::Serialize;

use crate::cluster::object::ObjectKey;

/// The maximum number of selections of a kind.
pub(super) const SELECTIONS_MAX: usize = 2;

/// The number of a list of a selection, from 1.
type ListNumber = NonZeroU32;

/// The last known state of an object.
#[derive(Debug, Clone, Default)]
struct Entry {
    /// For each selection, the last of its lists that contained the object. `None` if the selection does not have it.
    listed_in: [Option<ListNumber>; SELECTIONS_MAX],
    version: Option<u64>,
    /// The hash of the content that was reported. `None` if none was reported.
    hash: Option<u64>,
    /// Whether the API server's last version of the object was rejected.
    is_rejected: bool,
}

impl Entry {
    fn exists(&self) -> bool {
        self.listed_in.iter().any(Option::is_some)
    }
}

/// The state of one selection.
#[derive(Debug, Default)]
struct Selection {
    /// The number of the list that was started last. `None` before the first list.
    list: Option<ListNumber>,
    /// Whether the selection has objects without a name.
    has_nameless: bool,
    /// Whether the unfinished list has such objects.
    list_has_nameless: bool,
}

impl Selection {
    /// Returns the number of the current list. An object that arrives before the first list counts as part of it.
    fn current_list(&self) -> ListNumber {
        self.list.unwrap_or(ListNumber::MIN)
    }
}

/// The known objects of one kind.
#[derive(Debug, Default)]
pub(super) struct ObjectIndex {
    entries: HashMap<ObjectKey, Entry>,
    selections: [Selection; SELECTIONS_MAX],
    /// The number of rejected objects that have a name.
    rejected: usize,
}

/// How an object differs from the content that was reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Delta {
    /// New or different.
    Changed,
    /// The same.
    Unchanged,
    /// Older than the reported version.
    Stale,
}

impl ObjectIndex {
    /// Starts a list of a selection.
    pub(super) fn begin_list(&mut self, selection: usize) {
        let selection = &mut self.selections[selection];
        selection.list = Some(selection.list.map_or(ListNumber::MIN, |list| list.saturating_add(1)));
        selection.list_has_nameless = false;
    }

    /// Finishes a list of a selection. Returns the keys of the objects that no selection has any more, and whether each
    /// was reported.
    pub(super) fn finish_list(&mut self, selection: usize) -> Vec<(ObjectKey, bool)> {
        let state = &mut self.selections[selection];
        state.has_nameless = state.list_has_nameless;
        if state.has_nameless {
            // Each of the missing objects can be the one without a name.
            self.retain_all(selection);
        }
        let current = self.selections[selection].list;
        let mut removed = Vec::new();
        self.entries.retain(|key, entry| {
            if entry.listed_in[selection] != current {
                entry.listed_in[selection] = None;
            }
            if !entry.exists() {
                removed.push((key.clone(), entry.hash.is_some()));
                self.rejected -= usize::from(entry.is_rejected);
            }
            entry.exists()
        });
        removed.sort_unstable();
        removed
    }

    /// Records an object of a selection. The highest version wins, except that a list of the only selection that has
    /// the object always wins: the API server may have been restored from a backup.
    pub(super) fn upsert(
        &mut self,
        selection: usize,
        key: &ObjectKey,
        version: Option<u64>,
        hash: Option<u64>,
        is_listed: bool,
    ) -> Delta {
        let current = self.selections[selection].current_list();
        let entry = self.entries.entry(key.clone()).or_default();
        entry.listed_in[selection] = Some(current);
        let is_only_selection = entry.listed_in.iter().flatten().count() == 1;
        let is_older = version.zip(entry.version).is_some_and(|(new, known)| new < known);
        if is_older && !(is_listed && is_only_selection) {
            return Delta::Stale;
        }
        entry.version = version;
        self.rejected -= usize::from(std::mem::take(&mut entry.is_rejected));
        if entry.hash == hash {
            return Delta::Unchanged;
        }
        entry.hash = hash;
        Delta::Changed
    }

    /// Records a rejected object of a selection; its reported content stays in force. Returns whether the object was
    /// not rejected before.
    pub(super) fn reject(&mut self, selection: usize, key: Option<&ObjectKey>) -> bool {
        let state = &mut self.selections[selection];
        let Some(key) = key else {
            state.list_has_nameless = true;
            return !std::mem::replace(&mut state.has_nameless, true);
        };
        let entry = self.entries.entry(key.clone()).or_default();
        entry.listed_in[selection] = Some(state.current_list());
        let is_new = !std::mem::replace(&mut entry.is_rejected, true);
        self.rejected += usize::from(is_new);
        is_new
    }

    /// Returns the number of rejected objects. Those without a name count as one per selection.
    pub(super) fn rejected_count(&self) -> usize {
        self.rejected + self.selections.iter().filter(|selection| selection.has_nameless).count()
    }

    /// Whether the last version of an object was rejected.
    pub(super) fn is_rejected(&self, key: Option<&ObjectKey>) -> bool {
        match key {
            Some(key) => self.entries.get(key).is_some_and(|entry| entry.is_rejected),
            None => self.selections.iter().any(|selection| selection.has_nameless),
        }
    }

    /// Marks all objects of a selection as part of its current list.
    fn retain_all(&mut self, selection: usize) {
        let current = self.selections[selection].list;
        for entry in self.entries.values_mut().filter(|entry| entry.listed_in[selection].is_some()) {
            entry.listed_in[selection] = current;
        }
    }

    /// Removes an object from a selection. If no other selection has it, returns whether it was reported.
    pub(super) fn remove(&mut self, selection: usize, key: &ObjectKey) -> Option<bool> {
        let entry = self.entries.get_mut(key)?;
        entry.listed_in[selection] = None;
        if entry.exists() {
            return None;
        }
        let entry = self.entries.remove(key)?;
        self.rejected -= usize::from(entry.is_rejected);
        Some(entry.hash.is_some())
    }
}

/// Returns a hash of the content of an object.
pub(super) fn content_hash(content: &impl Serialize) -> u64 {
    let mut writer = HashWriter(DefaultHasher::new());
    // Core types are plain values, so serialisation cannot fail.
    let _ = serde_json::to_writer(&mut writer, content);
    writer.0.finish()
}

struct HashWriter(DefaultHasher);

impl Write for HashWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
