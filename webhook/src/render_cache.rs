//! `RenderCache`: rendered variables by namespace and selection.
//!
//! Pods with identical settings arrive in bursts (a Deployment is scaled, a node is drained) and get identical variables.
//! Any change of a service invalidates the whole cache.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use proxy_core::admission::{RenderedVariables, Selection, render};
use proxy_core::snapshot::Snapshot;

/// The memory that the cache may use; an entry beyond it clears the cache.
const BYTES_MAX: usize = 12 << 20;
/// The memory of an entry besides its key and its variables.
const ENTRY_BYTES: usize = 128;

/// The cached variables.
#[derive(Debug, Default)]
pub(crate) struct RenderCache(Mutex<Entries>);

/// The entries of one revision of the services.
#[derive(Debug, Default)]
struct Entries {
    revision: u64,
    bytes: usize,
    /// By namespace and text of the selection.
    rendered: HashMap<String, Arc<RenderedVariables>>,
}

impl RenderCache {
    /// Returns the variables of a selection at the revision of this snapshot.
    pub(crate) fn render(
        &self,
        snapshot: &Snapshot,
        namespace: &str,
        selection: &Selection,
    ) -> Arc<RenderedVariables> {
        let (revision, key) = (snapshot.revision(), [namespace, "/", &selection.text()].concat());
        let entries = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let cached = Some(entries()).filter(|entries| entries.revision == revision);
        if let Some(rendered) = cached.and_then(|entries| entries.rendered.get(&key).map(Arc::clone)) {
            return rendered;
        }
        // Other threads do not wait for this.
        let rendered = Arc::new(render(snapshot, namespace, selection));
        let (bytes, mut entries) = (rendered.bytes() + key.len() + ENTRY_BYTES, entries());
        if revision >= entries.revision && bytes <= BYTES_MAX {
            if revision > entries.revision || entries.bytes + bytes > BYTES_MAX {
                *entries = Entries { revision, ..Entries::default() };
            }
            entries.bytes += bytes;
            entries.rendered.insert(key, Arc::clone(&rendered));
        }
        rendered
    }
}

#[cfg(test)]
mod tests {
    use proxy_core::admission::Chosen;
    use proxy_core::sample::svc;
    use proxy_core::service::ServiceKey;
    use proxy_core::snapshot::Change;

    use super::*;

    fn selection(prefix: &str) -> Selection {
        Selection { prefix: prefix.to_owned(), ..Selection::default() }
    }

    #[test]
    fn cached_variables_are_returned_until_a_service_changes() {
        let mut snapshot = Snapshot::new();
        snapshot.apply(svc("redis").ip("10.0.0.11").tcp("", 6379).into());
        let before = snapshot.clone();
        let cache = RenderCache::default();
        let first = cache.render(&snapshot, "default", &selection(""));
        let is_cached = |snapshot: &Snapshot, namespace, prefix| {
            Arc::ptr_eq(&first, &cache.render(snapshot, namespace, &selection(prefix)))
        };
        assert!(is_cached(&snapshot, "default", ""));
        assert!(!is_cached(&snapshot, "default", "X_") && !is_cached(&snapshot, "team", ""));
        snapshot.apply(Change::ServiceDeleted(ServiceKey::new("elsewhere", "db")));
        assert!(!is_cached(&snapshot, "default", ""));
        // A request that still has the previous snapshot gets its variables, and they are not cached.
        assert!(!is_cached(&before, "default", ""));
        let now = cache.render(&snapshot, "default", &selection(""));
        assert!(Arc::ptr_eq(&now, &cache.render(&snapshot, "default", &selection(""))));
    }

    #[test]
    fn cache_respects_the_memory_limit() {
        let mut snapshot = Snapshot::new();
        for number in 0..50 {
            snapshot.apply(svc(&format!("service-{number}")).ip("10.0.0.11").tcp("", 6379).into());
        }
        let missing =
            |number: usize| Chosen { alias: None, service: ServiceKey::new("b", format!("s{number}")) };
        let cache = RenderCache::default();
        for number in 0..1_000 {
            let services = (number % 2 == 0).then(|| (0..1_000).map(missing).collect());
            cache.render(&snapshot, "default", &Selection { services, ..selection(&format!("X{number}_")) });
            let entries = cache.0.lock().unwrap();
            assert!(entries.bytes <= BYTES_MAX);
            let content = entries.rendered.iter().map(|(key, rendered)| key.len() + rendered.bytes());
            let bytes = content.sum::<usize>();
            assert!((1..=entries.bytes).contains(&bytes), "{bytes} of {}", entries.bytes);
        }
    }
}
