//! `Limits`: how much of a table is read at most.
//!
//! A pod with CAP_NET_ADMIN may write millions of elements into a set, and the kernel's dump of a hash set takes
//! quadratic time. Who knows what should be there stops reading at one element more: that is the answer. What must not
//! go in here: what a table should hold.

use std::collections::BTreeMap;

use proxy_core::address::Family;
use proxy_core::guest::GUESTS_SET;
use proxy_core::kernel_model::Table;

use crate::layout::{CURRENT, named};
use crate::shape::Shape;

/// Without anything to compare with, no set of ours is larger than this.
const ELEMENTS_MAX: usize = 1 << 20;
/// Without anything to compare with, no table of ours has more sets, chains or rules than this.
const PARTS_MAX: usize = 1 << 18;
/// The chains of all tables of a network namespace are listed together; more than these are not read.
pub(super) const ANSWERS_MAX: usize = 1 << 18;

/// How much of a table is read at most.
#[derive(Debug, Clone)]
pub struct Limits {
    /// The most sets, chains and rules.
    pub(super) parts: [usize; 3],
    /// The most elements of each set.
    elements: BTreeMap<String, usize>,
    /// The most elements of a set that has no number of its own.
    others: usize,
}

impl Default for Limits {
    /// What suits every table, for a reader that does not know what should be there.
    fn default() -> Self {
        Self { parts: [PARTS_MAX; 3], elements: BTreeMap::new(), others: ELEMENTS_MAX }
    }
}

impl Limits {
    /// As much as this table holds.
    #[must_use]
    pub fn of(wanted: &Table) -> Self {
        let Some(settings) = wanted.settings else { return Self::elements(0) };
        let parts = Shape::new(settings, wanted.dispatch_keys.iter().copied()).counts();
        // As for ranges below.
        let guests = (GUESTS_SET.to_owned(), 2 * wanted.guests.iter().count() + 1);
        let current = (CURRENT.to_owned(), Family::BOTH.len());
        let mut elements =
            BTreeMap::from([("picks".to_owned(), wanted.dispatch_keys.len()), guests, current]);
        for family in Family::BOTH {
            let is_of = |address: std::net::IpAddr| Family::of(address) == family;
            let ranges = wanted.ranges.iter().filter(|range| is_of(range.addr())).count();
            let counts = [
                ("portals", wanted.portals.keys().filter(|key| is_of(key.address)).count()),
                ("backends", wanted.backends.keys().filter(|(key, _)| is_of(key.address)).count()),
                ("ids", wanted.ids.keys().filter(|(key, _)| is_of(key.address)).count()),
                ("addresses", wanted.addresses.iter().filter(|address| is_of(**address)).count()),
                ("sources", wanted.sources.iter().filter(|(key, _)| is_of(key.address)).count()),
                // The kernel lists where an interval begins and where it ends, and where the first one begins.
                ("ranges", 2 * ranges + 1),
            ];
            elements.extend(counts.map(|(set, count)| (named(set, family), count)));
        }
        Self { parts, elements, others: 0 }
    }

    /// The same number of elements for every set.
    #[must_use]
    pub fn elements(most: usize) -> Self {
        Self { others: most, ..Self::default() }
    }

    /// The most elements of this set.
    pub(super) fn of_set(&self, name: &str) -> usize {
        self.elements.get(name).copied().unwrap_or(self.others)
    }
}
