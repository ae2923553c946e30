//! `Limits`: the maximum size of a table that is read.
//!
//! A pod with CAP_NET_ADMIN can add millions of elements to a set, and the kernel's dump of a hash set takes quadratic
//! time. A reader that knows the desired state stops at the first element beyond it: the table has drifted.

use std::collections::BTreeMap;
use std::net::IpAddr;

use proxy_core::address::Family;
use proxy_core::kernel_model::Table;

use crate::nft::names::{per_family, set};
use crate::nft::schema_check::TableSchema;

/// The maximum of elements of a set, if the desired state is unknown.
const ELEMENTS_MAX: usize = 1 << 20;
/// The maximum of sets, of chains and of rules, if the desired state is unknown.
const PARTS_MAX: usize = 1 << 18;
/// The maximum of messages in one dump: a dump of chains lists those of all tables in the network namespace.
pub(crate) const MESSAGES_MAX: usize = 1 << 18;

/// The maximum size of a table that is read.
#[derive(Debug, Clone)]
pub struct Limits {
    /// The maximum of sets, chains and rules.
    pub(crate) parts: [usize; 3],
    /// The maximum of elements by set.
    elements: BTreeMap<String, usize>,
    /// The maximum of elements of any other set.
    other_elements: usize,
}

impl Default for Limits {
    /// Limits that every table of Portico respects.
    fn default() -> Self {
        Self { parts: [PARTS_MAX; 3], elements: BTreeMap::new(), other_elements: ELEMENTS_MAX }
    }
}

impl Limits {
    /// The size of this table.
    #[must_use]
    pub fn of(desired: &Table) -> Self {
        let Some(settings) = desired.settings else { return Self::elements(0) };
        let parts = TableSchema::new(settings, desired.dispatch_keys.iter().copied()).counts();
        let mut elements = BTreeMap::from([
            (set::DISPATCH.to_owned(), desired.dispatch_keys.len()),
            (set::GUESTS.to_owned(), interval_elements(desired.guests.iter().count())),
            (set::CURRENT.to_owned(), Family::BOTH.len()),
        ]);
        for family in Family::BOTH {
            let is_of = |address: IpAddr| Family::of(address) == family;
            let ranges = desired.ranges.iter().filter(|range| is_of(range.addr())).count();
            let counts = [
                (set::PORTALS, desired.portals.keys().filter(|key| is_of(key.address)).count()),
                (set::BACKENDS, desired.backends.keys().filter(|(key, _)| is_of(key.address)).count()),
                (set::IDS, desired.ids.keys().filter(|(key, _)| is_of(key.address)).count()),
                (set::ADDRESSES, desired.addresses.iter().filter(|address| is_of(**address)).count()),
                (set::SOURCES, desired.sources.iter().filter(|(key, _)| is_of(key.address)).count()),
                (set::RANGES, interval_elements(ranges)),
            ];
            elements.extend(counts.map(|(set, count)| (per_family(set, family), count)));
        }
        Self { parts, elements, other_elements: 0 }
    }

    /// The same maximum of elements for every set.
    #[must_use]
    pub fn elements(max: usize) -> Self {
        Self { other_elements: max, ..Self::default() }
    }

    /// The maximum of elements of a set.
    pub(crate) fn of_set(&self, name: &str) -> usize {
        self.elements.get(name).copied().unwrap_or(self.other_elements)
    }
}

/// The number of elements that the kernel lists for intervals: the start and the end of each, and the end before the
/// first one.
fn interval_elements(intervals: usize) -> usize {
    2 * intervals + 1
}
