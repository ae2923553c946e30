//! `Remembered`: the variables that were prepared for pods, as long as services stay as they are.
//!
//! Pods of one wish come in crowds (a Deployment is scaled, a node drained), and what they get is the same. Any change of
//! a service makes all of it void: what is remembered is never asked whether it is still right. What must not go in here:
//! what is prepared, and how.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use proxy_core::admission::{Prepared, Selection, prepared};
use proxy_core::snapshot::Snapshot;

/// How much memory it may take; with more, all is forgotten.
const BYTES_MAX: usize = 12 << 20;

/// What is remembered, by namespace and selection.
#[derive(Debug, Default)]
pub(crate) struct Remembered(Mutex<Memory>);

#[derive(Debug, Default)]
struct Memory {
    /// Of the snapshot.
    revision: u64,
    bytes: usize,
    prepared: HashMap<String, HashMap<Selection, Arc<Prepared>>>,
}

impl Remembered {
    /// The variables of a selection, prepared as of this snapshot.
    pub(crate) fn prepared(
        &self,
        snapshot: &Snapshot,
        namespace: &str,
        selection: &Selection,
    ) -> Arc<Prepared> {
        if let Some(known) = self.memory().known(snapshot.revision(), namespace, selection) {
            return known;
        }
        // Others need not wait for this.
        let prepared = Arc::new(prepared(snapshot, namespace, selection));
        self.memory().keep(snapshot.revision(), namespace, selection, &prepared);
        prepared
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Memory {
    fn known(&self, revision: u64, namespace: &str, selection: &Selection) -> Option<Arc<Prepared>> {
        let known = self.prepared.get(namespace)?.get(selection)?;
        (self.revision == revision).then(|| Arc::clone(known))
    }

    fn keep(&mut self, revision: u64, namespace: &str, selection: &Selection, prepared: &Arc<Prepared>) {
        let bytes = prepared.bytes() + namespace.len() + size_of::<Selection>();
        if revision < self.revision || bytes > BYTES_MAX {
            return;
        }
        if revision > self.revision || self.bytes + bytes > BYTES_MAX {
            *self = Self { revision, ..Self::default() };
        }
        self.bytes += bytes;
        let of_namespace = self.prepared.entry(namespace.to_owned()).or_default();
        of_namespace.insert(selection.clone(), Arc::clone(prepared));
    }
}

#[cfg(test)]
mod tests {
    use proxy_core::sample::svc;
    use proxy_core::service::ServiceKey;
    use proxy_core::snapshot::Change;

    use super::*;

    fn selection(prefix: &str) -> Selection {
        Selection { prefix: prefix.to_owned(), ..Selection::default() }
    }

    #[test]
    fn what_was_prepared_is_given_again_until_a_service_changes() {
        let mut snapshot = Snapshot::new();
        snapshot.apply(svc("redis").ip("10.0.0.11").tcp("", 6379).into());
        let before = snapshot.clone();
        let remembered = Remembered::default();
        let first = remembered.prepared(&snapshot, "default", &selection(""));
        let same = |snapshot: &Snapshot, namespace, prefix| {
            Arc::ptr_eq(&first, &remembered.prepared(snapshot, namespace, &selection(prefix)))
        };
        assert!(same(&snapshot, "default", ""));
        assert!(!same(&snapshot, "default", "X_") && !same(&snapshot, "team", ""));
        snapshot.apply(Change::ServiceDeleted(ServiceKey::new("elsewhere", "db")));
        assert!(!same(&snapshot, "default", ""));
        // Whoever still has the services of before gets what belongs to these, and it is not kept.
        assert!(!same(&before, "default", ""));
        let now = remembered.prepared(&snapshot, "default", &selection(""));
        assert!(Arc::ptr_eq(&now, &remembered.prepared(&snapshot, "default", &selection(""))));
    }

    #[test]
    fn it_takes_no_more_memory_than_it_may() {
        let mut snapshot = Snapshot::new();
        for number in 0..50 {
            snapshot.apply(svc(&format!("service-{number}")).ip("10.0.0.11").tcp("", 6379).into());
        }
        let remembered = Remembered::default();
        for number in 0..1_000 {
            remembered.prepared(&snapshot, "default", &selection(&format!("X{number}_")));
            let memory = remembered.memory();
            assert!(memory.bytes <= BYTES_MAX);
            let kept = memory.prepared["default"].values().map(|prepared| prepared.bytes()).sum::<usize>();
            assert!(kept <= memory.bytes && kept > 0);
        }
    }
}
