//! `Rejections`: which rejected objects were reported, and the count that was reported last.
//!
//! Each rejected object is reported by name once. The number of names in memory is bounded: names of objects that are
//! no longer rejected are evicted first. The `ObjectIndex` of a kind counts its rejected objects.

use std::collections::BTreeSet;

use crate::cluster::object::ObjectKey;
use crate::event::RejectedObjects;

/// The maximum number of rejected objects that are reported by name; the others are only counted.
const NAMES_MAX: usize = 100;

/// The rejected objects that were reported. `K` identifies the kind of an object.
#[derive(Debug)]
pub(super) struct Rejections<K> {
    named: BTreeSet<(K, Option<ObjectKey>)>,
    /// The count that was reported last.
    count: usize,
}

impl<K: Ord + Copy> Rejections<K> {
    pub(super) fn new() -> Self {
        Self { named: BTreeSet::new(), count: 0 }
    }

    /// Records a newly rejected object. Returns the reason to report, unless its name was reported before.
    pub(super) fn add(
        &mut self,
        object: (K, Option<ObjectKey>),
        reason: String,
        is_rejected: impl Fn(K, Option<&ObjectKey>) -> bool,
    ) -> Option<String> {
        if self.named.contains(&object) {
            return None;
        }
        if self.named.len() >= NAMES_MAX {
            self.named.retain(|(kind, key)| is_rejected(*kind, key.as_ref()));
        }
        if self.named.len() >= NAMES_MAX {
            return None;
        }
        self.named.insert(object);
        let is_last = self.named.len() == NAMES_MAX;
        Some(if is_last { format!("{reason}; further objects are counted, not named") } else { reason })
    }

    /// Returns the report if the count changed or there is a reason.
    pub(super) fn report(&mut self, count: usize, reason: Option<String>) -> Option<RejectedObjects> {
        let is_new = self.count != count || reason.is_some();
        self.count = count;
        is_new.then_some(RejectedObjects { count, reason })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: usize) -> Option<ObjectKey> {
        Some(ObjectKey { namespace: "d".into(), name: number.to_string().into() })
    }

    #[test]
    fn each_rejected_object_is_named_once_and_the_names_are_bounded() {
        let mut rejections = Rejections::new();
        let add = |rejections: &mut Rejections<u8>, number| {
            rejections.add((0, key(number)), format!("{number} is broken"), |_, _| true)
        };
        assert_eq!(add(&mut rejections, 0).as_deref(), Some("0 is broken"));
        assert_eq!(add(&mut rejections, 0), None);
        let named = (1..1000).filter(|number| add(&mut rejections, *number).is_some());
        assert_eq!(named.count(), NAMES_MAX - 1);
        assert_eq!(rejections.named.len(), NAMES_MAX);
    }

    #[test]
    fn names_of_objects_that_are_no_longer_rejected_are_evicted() {
        let mut rejections = Rejections::new();
        for number in 0..NAMES_MAX {
            rejections.add((0, key(number)), String::new(), |_, _| true);
        }
        let is_rejected = |_, object: Option<&ObjectKey>| object != key(7).as_ref();
        assert!(rejections.add((0, key(5000)), String::new(), is_rejected).is_some());
        assert!(rejections.add((0, key(5001)), String::new(), is_rejected).is_none());
    }

    #[test]
    fn unchanged_count_is_reported_once() {
        let mut rejections = Rejections::<u8>::new();
        assert_eq!(rejections.report(0, None), None);
        assert_eq!(rejections.report(1, None), Some(RejectedObjects { count: 1, reason: None }));
        assert_eq!(rejections.report(1, None), None);
        assert_eq!(rejections.report(0, None), Some(RejectedObjects { count: 0, reason: None }));
    }
}
