//! `Quotas`: the number and size of the managed ConfigMaps of each namespace, and their limits.
//!
//! A job reserves room before it writes, so that running jobs count.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The number and size of the ConfigMaps of a selection, or their limits in a namespace.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    /// The number of ConfigMaps.
    pub(crate) count: usize,
    /// The size of their keys and values.
    pub(crate) bytes: usize,
}

/// The quota that a namespace would exceed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub(crate) enum Exceeded {
    /// The number of ConfigMaps.
    #[error("the namespace would have more than {0} managed ConfigMaps")]
    Count(usize),
    /// Their size.
    #[error("the managed ConfigMaps of the namespace would hold more than {0} bytes")]
    Bytes(usize),
}

impl Exceeded {
    /// The value of the label in metrics.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Count(_) => "count",
            Self::Bytes(_) => "bytes",
        }
    }
}

/// By namespace, then by the name of the first ConfigMap.
type UsageByNamespace = HashMap<Arc<str>, HashMap<Arc<str>, Usage>>;

/// The usage and the limits of all namespaces. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Quotas {
    max: Usage,
    used: Arc<Mutex<UsageByNamespace>>,
}

impl Quotas {
    /// Quotas with this limit for each namespace.
    pub(crate) fn new(max: Usage) -> Self {
        Self { max, used: Arc::default() }
    }

    /// Reserves room for the ConfigMaps of a selection. If they need no more than before, it is never refused.
    pub(crate) fn reserve(
        &self,
        namespace: &Arc<str>,
        base: &Arc<str>,
        usage: Usage,
    ) -> Result<(), Exceeded> {
        let mut used = self.lock();
        let of_namespace = used.entry(Arc::clone(namespace)).or_default();
        let before = of_namespace.get(base).copied().unwrap_or_default();
        let others = of_namespace.iter().filter(|(name, _)| *name != base);
        let (count, bytes) =
            others.fold((0, 0), |(count, bytes), (_, usage)| (count + usage.count, bytes + usage.bytes));
        if usage.count > before.count && count + usage.count > self.max.count {
            return Err(Exceeded::Count(self.max.count));
        }
        if usage.bytes > before.bytes && bytes + usage.bytes > self.max.bytes {
            return Err(Exceeded::Bytes(self.max.bytes));
        }
        of_namespace.insert(Arc::clone(base), usage);
        Ok(())
    }

    /// Records the usage of a selection; returns whether it is less than before.
    pub(crate) fn record(&self, namespace: &Arc<str>, base: &Arc<str>, usage: Usage) -> bool {
        let mut used = self.lock();
        let of_namespace = used.entry(Arc::clone(namespace)).or_default();
        let before = if usage == Usage::default() {
            of_namespace.remove(base)
        } else {
            of_namespace.insert(Arc::clone(base), usage)
        };
        if of_namespace.is_empty() {
            used.remove(namespace);
        }
        let before = before.unwrap_or_default();
        usage.count < before.count || usage.bytes < before.bytes
    }

    fn lock(&self) -> MutexGuard<'_, UsageByNamespace> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespace_gets_its_quota_and_others_are_not_affected() {
        let quotas = Quotas::new(Usage { count: 2, bytes: 100 });
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        let of = |count, bytes| Usage { count, bytes };
        let reserve = |namespace, base: &str, usage| quotas.reserve(namespace, &base.into(), usage);
        assert_eq!(reserve(&a, "x", of(1, 60)), Ok(()));
        assert_eq!(reserve(&a, "y", of(1, 60)), Err(Exceeded::Bytes(100)));
        assert_eq!(reserve(&a, "y", of(1, 40)), Ok(()));
        assert_eq!(reserve(&a, "z", of(1, 0)), Err(Exceeded::Count(2)));
        assert_eq!(reserve(&b, "z", of(2, 100)), Ok(()));
        // Existing ConfigMaps can shrink or be written again, even above the quota.
        assert_eq!(reserve(&a, "x", of(1, 60)), Ok(()));
        assert!(quotas.record(&a, &"y".into(), Usage::default()), "there is room again");
        assert_eq!(reserve(&a, "z", of(1, 40)), Ok(()));
        assert!(!quotas.record(&b, &"z".into(), of(5, 900)));
        assert_eq!(reserve(&b, "z", of(5, 800)), Ok(()));
        assert_eq!(reserve(&b, "z", of(5, 801)), Err(Exceeded::Bytes(100)));
    }
}
