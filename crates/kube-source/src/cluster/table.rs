//! `Table`: what has been told of the objects of one kind: their keys and versions, and a hash of what they said.
//!
//! The objects themselves are the consumer's; this is what it takes to tell a difference. Services come from two
//! selections of the server, and an object that moves from the one to the other is there as long as one of them has
//! it. What must not go in here: what is done with a difference.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hasher};
use std::io::{self, Write};

use serde::Serialize;

use crate::cluster::object::ObjectKey;

/// How many selections of one kind there are at most.
pub(super) const SELECTIONS: usize = 2;

/// What is known of an object.
#[derive(Debug, Clone, Default)]
struct Held {
    /// In which of its lists each selection had it last; 0: it does not have it.
    lists: [u32; SELECTIONS],
    version: Option<u64>,
    /// Of what was told; none: nothing was.
    hash: Option<u64>,
    /// The server's last version of it cannot be used.
    is_refused: bool,
}

impl Held {
    fn is_held(&self) -> bool {
        self.lists != [0; SELECTIONS]
    }
}

/// What has been told of the objects of one kind.
#[derive(Debug, Default)]
pub(super) struct Table {
    held: HashMap<ObjectKey, Held>,
    /// How many lists each selection has begun.
    lists: [u32; SELECTIONS],
    /// How many objects with a name cannot be used.
    refused: usize,
    /// Whether each selection has objects without a name.
    nameless: [bool; SELECTIONS],
    /// Whether its list that is being read has.
    nameless_listed: [bool; SELECTIONS],
}

/// What an object is, compared with what was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum News {
    /// New or different.
    Different,
    /// What was told.
    Same,
    /// Older than what was told.
    Old,
}

impl Table {
    /// A selection begins a list.
    pub(super) fn begin(&mut self, selection: usize) {
        self.lists[selection] += 1;
        self.nameless_listed[selection] = false;
    }

    /// A selection has all of its list: the keys that no selection has any more, with whether they were told.
    pub(super) fn end(&mut self, selection: usize) -> Vec<(ObjectKey, bool)> {
        let current = self.lists[selection];
        self.nameless[selection] = self.nameless_listed[selection];
        if self.nameless[selection] {
            // Any of those that seem gone may be the one that has lost its name.
            self.keep_all(selection);
        }
        let mut gone = Vec::new();
        self.held.retain(|key, held| {
            if held.lists[selection] != current {
                held.lists[selection] = 0;
            }
            if !held.is_held() {
                gone.push((key.clone(), held.hash.is_some()));
                self.refused -= usize::from(held.is_refused);
            }
            held.is_held()
        });
        gone.sort_unstable();
        gone
    }

    /// A selection has an object. In a list of its own its word counts; else the higher version does.
    pub(super) fn put(
        &mut self,
        selection: usize,
        key: &ObjectKey,
        version: Option<u64>,
        hash: Option<u64>,
        is_listed: bool,
    ) -> News {
        let current = self.lists[selection].max(1);
        let held = self.held.entry(key.clone()).or_default();
        held.lists[selection] = current;
        let is_alone = held.lists.iter().filter(|list| **list != 0).count() == 1;
        let is_older = version.zip(held.version).is_some_and(|(new, had)| new < had);
        if is_older && !(is_listed && is_alone) {
            return News::Old;
        }
        held.version = version;
        self.refused -= usize::from(std::mem::take(&mut held.is_refused));
        if held.hash == hash {
            return News::Same;
        }
        held.hash = hash;
        News::Different
    }

    /// A selection has an object that cannot be used, and what was told of it stays. Whether that is new.
    pub(super) fn refuse(&mut self, selection: usize, key: Option<&ObjectKey>) -> bool {
        let Some(key) = key else {
            self.nameless_listed[selection] = true;
            return !std::mem::replace(&mut self.nameless[selection], true);
        };
        let current = self.lists[selection].max(1);
        let held = self.held.entry(key.clone()).or_default();
        held.lists[selection] = current;
        let is_new = !std::mem::replace(&mut held.is_refused, true);
        self.refused += usize::from(is_new);
        is_new
    }

    /// How many objects cannot be used; all without a name count as one.
    pub(super) fn refused(&self) -> usize {
        self.refused + self.nameless.iter().filter(|is_there| **is_there).count()
    }

    /// Whether the last version of an object cannot be used.
    pub(super) fn is_refused(&self, key: Option<&ObjectKey>) -> bool {
        match key {
            Some(key) => self.held.get(key).is_some_and(|held| held.is_refused),
            None => self.nameless.contains(&true),
        }
    }

    /// Keeps all that a selection has, whether its list had it or not.
    fn keep_all(&mut self, selection: usize) {
        let current = self.lists[selection];
        for held in self.held.values_mut().filter(|held| held.lists[selection] != 0) {
            held.lists[selection] = current;
        }
    }

    /// A selection no longer has an object: whether it was told, if no other selection has it.
    pub(super) fn remove(&mut self, selection: usize, key: &ObjectKey) -> Option<bool> {
        let held = self.held.get_mut(key)?;
        held.lists[selection] = 0;
        if held.is_held() {
            return None;
        }
        let held = self.held.remove(key)?;
        self.refused -= usize::from(held.is_refused);
        Some(held.hash.is_some())
    }
}

/// A hash of what an object says.
pub(super) fn hash(content: &impl Serialize) -> u64 {
    let mut hashing = Hashing(DefaultHasher::new());
    // Core types are plain values: they can always be written.
    let _ = serde_json::to_writer(&mut hashing, content);
    hashing.0.finish()
}

struct Hashing(DefaultHasher);

impl Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
