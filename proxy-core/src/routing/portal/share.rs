//! Which portals a table has where there is no room for all: each namespace has a fair share of it.
//!
//! While all namespaces together fit, nobody looks at shares. Where they do not, every namespace has at least the same
//! number of elements, and what one does not need is for the others. So a tenant that fills its namespaces takes
//! nothing from a namespace that needs less than its share. The level is rounded down, so it seldom changes. A share
//! goes to the first portals of the namespace in the order of their ranks.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::admit::Rank;
use super::limits::{Cost, Meter, PortalLimits};
use super::{ChangedPortals, Portal, Portals};
use crate::model::service::ServiceKey;

/// A table whose room is shared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TableKind {
    /// A table of all portals.
    Full = 0,
    /// What stands in a table on demand before anything is used.
    OnDemand = 1,
}

impl TableKind {
    const BOTH: [Self; 2] = [Self::Full, Self::OnDemand];

    const fn of(self, cost: Cost) -> usize {
        match self {
            Self::Full => cost.full,
            Self::OnDemand => cost.unused,
        }
    }

    const fn bound(self, limits: PortalLimits) -> usize {
        match self {
            Self::Full => limits.table_elements,
            Self::OnDemand => limits.unused_elements,
        }
    }
}

/// Only the first bits of a level count, so that small changes elsewhere do not move every share.
const LEVEL_BITS: u32 = 4;

/// How many elements each namespace has at least, where all of them need these and there is room for so many; none:
/// all have what they need.
fn level(needs: impl Iterator<Item = usize>, total: usize, room: usize) -> Option<usize> {
    if total <= room {
        return None;
    }
    let mut needs: Vec<usize> = needs.collect();
    needs.sort_unstable();
    let mut left = room;
    let mut level = 0;
    for (place, need) in needs.iter().enumerate() {
        level = left / (needs.len() - place);
        if *need > level {
            break;
        }
        left -= need;
    }
    let bits = usize::BITS - level.leading_zeros();
    Some(level >> bits.saturating_sub(LEVEL_BITS) << bits.saturating_sub(LEVEL_BITS))
}

impl Portals {
    /// Whether this portal is within the share of its namespace.
    #[must_use]
    pub fn fits_share(&self, table: TableKind, portal: &Portal) -> bool {
        if self.levels[table as usize].is_none() {
            return true;
        }
        let allotment = self.namespaces.get(&portal.service.namespace);
        let cut = allotment.and_then(|allotment| allotment.cuts[table as usize].as_ref());
        let created = || self.by_service.get(&portal.service).map(|held| held.created).unwrap_or_default();
        cut.is_none_or(|cut| Rank::of(portal, created()) < *cut)
    }

    /// How many portals are beyond the share of their namespace, by service.
    pub fn beyond_share(&self, table: TableKind) -> impl Iterator<Item = (&ServiceKey, usize)> {
        let services = self.by_service.iter().filter(move |_| self.levels[table as usize].is_some());
        let counted = services.map(move |(key, held)| {
            (key, held.portals.iter().filter(|portal| !self.fits_share(table, portal)).count())
        });
        counted.filter(|(_, count)| *count > 0)
    }

    /// How many elements the portals of a namespace make in a full table.
    #[must_use]
    pub fn namespace_elements(&self, namespace: &str) -> usize {
        self.namespaces.get(namespace).map_or(0, |allotment| allotment.cost.full)
    }

    /// Shares the tables out anew, after these namespaces changed.
    pub(super) fn share_out(
        &mut self,
        limits: PortalLimits,
        changed: &BTreeSet<Arc<str>>,
        mut touched: Option<&mut ChangedPortals>,
    ) {
        for table in TableKind::BOTH {
            let needs = self.namespaces.values().map(|allotment| table.of(allotment.cost));
            let level = level(needs, table.of(self.total), table.bound(limits));
            let before = std::mem::replace(&mut self.levels[table as usize], level);
            if level.is_none() && before.is_none() {
                continue;
            }
            let all: Vec<Arc<str>> = if level == before {
                changed.iter().cloned().collect()
            } else {
                self.namespaces.keys().cloned().collect()
            };
            for namespace in all {
                self.share_of(table, &namespace, level, touched.as_deref_mut());
            }
        }
    }

    fn share_of(
        &mut self,
        table: TableKind,
        namespace: &Arc<str>,
        level: Option<usize>,
        touched: Option<&mut ChangedPortals>,
    ) {
        let Some(allotment) = self.namespaces.get(namespace) else { return };
        let cut = level.filter(|level| table.of(allotment.cost) > *level);
        let cut = cut.and_then(|level| self.cut(table, namespace, level));
        let before = allotment.cuts[table as usize].clone();
        if cut == before {
            return;
        }
        if let Some(touched) = touched {
            let is_in = |cut: &Option<Rank>, rank: &Rank| cut.as_ref().is_none_or(|cut| rank < cut);
            let moved = self
                .ranked(namespace)
                .into_iter()
                .filter(|(rank, ..)| is_in(&before, rank) != is_in(&cut, rank));
            touched.extend(moved.map(|(_, portal, _)| portal.key));
        }
        let mut allotment = allotment.clone();
        allotment.cuts[table as usize] = cut;
        self.namespaces.insert_mut(namespace.clone(), allotment);
    }

    /// The first portal of a namespace that does not fit into so many elements.
    fn cut(&self, table: TableKind, namespace: &Arc<str>, level: usize) -> Option<Rank> {
        let mut used = 0;
        let mut ranked = self.ranked(namespace);
        ranked.sort_by(|one, other| one.0.cmp(&other.0));
        ranked.into_iter().find_map(|(rank, _, cost)| {
            used += table.of(cost);
            (used > level).then_some(rank)
        })
    }

    /// The portals of a namespace, with what each costs.
    fn ranked(&self, namespace: &Arc<str>) -> Vec<(Rank, &Portal, Cost)> {
        let from = ServiceKey::new(namespace.clone(), "");
        let held = self.by_service.range(from..).take_while(|(key, _)| key.namespace == *namespace);
        let mut ranked = Vec::new();
        for (_, held) in held {
            let mut portals: Vec<&Portal> = held.portals.iter().collect();
            portals.sort_unstable_by_key(|portal| (portal.kind, portal.key));
            let mut meter = Meter::new(&self.service_ranges, held.is_special);
            let own = portals
                .into_iter()
                .map(|portal| (Rank::of(portal, held.created), portal, meter.cost(portal)));
            ranked.extend(own);
        }
        ranked
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_that_needs_less_than_its_share_has_all_and_leaves_the_rest_to_others() {
        let of = |needs: &[usize], room| level(needs.iter().copied(), needs.iter().sum(), room);
        assert_eq!(of(&[10, 20, 30], 60), None);
        assert_eq!(of(&[10, 1_000, 1_000], 138), Some(64));
        assert_eq!(of(&[10, 1_000, 1_000], 150), Some(64), "rounded down from 70");
        assert_eq!(of(&[1, 1, 1], 2), Some(0));
    }

    #[test]
    fn what_all_namespaces_have_at_a_level_fits() {
        for room in [0, 1, 7, 100, 999, 40_000] {
            let needs = [3, 1, 500, 20_000, 77, 77, 10_000, 10_000, 10_000];
            let total = needs.iter().sum();
            let level = level(needs.into_iter(), total, room).expect("more is needed than there is room");
            let used: usize = needs.iter().map(|need| need.min(&level)).sum();
            assert!(used <= room && (room < 100 || used > room / 2), "{used} of {room} at level {level}");
        }
    }
}
