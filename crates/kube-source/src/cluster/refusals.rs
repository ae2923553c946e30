//! `Refusals`: which refused objects have been named, and how many were reported last.
//!
//! The tables of a consumer count what is refused; a report names each such object once. The names in memory have a
//! bound: those of objects that are no longer refused make room first. What must not go in here: why an object is
//! refused.

use std::collections::BTreeSet;

use crate::cluster::object::ObjectKey;
use crate::event::RejectedObjects;

/// How many refused objects are named at a time; the rest is only counted.
const NAMED_MAX: usize = 100;

/// Which refused objects have been named; `K` tells kinds apart.
#[derive(Debug)]
pub(super) struct Refusals<K> {
    named: BTreeSet<(K, Option<ObjectKey>)>,
    /// What was reported last.
    count: usize,
}

impl<K: Ord + Copy> Refusals<K> {
    pub(super) fn new() -> Self {
        Self { named: BTreeSet::new(), count: 0 }
    }

    /// An object is refused now that was not before: its reason, if it is to be named.
    pub(super) fn name(
        &mut self,
        object: (K, Option<ObjectKey>),
        reason: String,
        is_refused: impl Fn(K, Option<&ObjectKey>) -> bool,
    ) -> Option<String> {
        if self.named.contains(&object) {
            return None;
        }
        if self.named.len() >= NAMED_MAX {
            self.named.retain(|(kind, key)| is_refused(*kind, key.as_ref()));
        }
        if self.named.len() >= NAMED_MAX {
            return None;
        }
        self.named.insert(object);
        let is_last = self.named.len() == NAMED_MAX;
        Some(if is_last { format!("{reason}; further objects are counted, not named") } else { reason })
    }

    /// What is to be reported, if anything is new.
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
    fn each_refused_object_is_named_once_and_the_names_are_bounded() {
        let mut refusals = Refusals::new();
        let name = |refusals: &mut Refusals<u8>, number| {
            refusals.name((0, key(number)), format!("{number} is broken"), |_, _| true)
        };
        assert_eq!(name(&mut refusals, 0).as_deref(), Some("0 is broken"));
        assert_eq!(name(&mut refusals, 0), None);
        let named = (1..1000).filter(|number| name(&mut refusals, *number).is_some());
        assert_eq!(named.count(), NAMED_MAX - 1);
        assert_eq!(refusals.named.len(), NAMED_MAX);
    }

    #[test]
    fn names_of_objects_that_are_no_longer_refused_make_room() {
        let mut refusals = Refusals::new();
        for number in 0..NAMED_MAX {
            refusals.name((0, key(number)), String::new(), |_, _| true);
        }
        let is_refused = |_, object: Option<&ObjectKey>| object != key(7).as_ref();
        assert!(refusals.name((0, key(5000)), String::new(), is_refused).is_some());
        assert!(refusals.name((0, key(5001)), String::new(), is_refused).is_none());
    }

    #[test]
    fn a_count_that_stays_is_reported_once() {
        let mut refusals = Refusals::<u8>::new();
        assert_eq!(refusals.report(0, None), None);
        assert_eq!(refusals.report(1, None), Some(RejectedObjects { count: 1, reason: None }));
        assert_eq!(refusals.report(1, None), None);
        assert_eq!(refusals.report(0, None), Some(RejectedObjects { count: 0, reason: None }));
    }
}
