//! The shares of namespaces in a table: which portals it contains if they do not all fit.
//!
//! While the portals of all namespaces fit into a table, there are no shares. Otherwise each namespace is guaranteed
//! the same number of elements, the level, and elements that one namespace does not need are available to the others.
//! So a tenant that fills its namespaces takes nothing from a namespace that needs less than its share. The level is
//! rounded down, so it seldom changes. Within its share, a namespace has its first portals in the order of ranks.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::admit::Rank;
use super::limits::{Cost, Meter, PortalLimits};
use super::{ChangedPortals, Portal, Portals};
use crate::model::service::ServiceKey;

/// A kind of table, with a limit of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TableKind {
    /// A full table.
    Full = 0,
    /// An on-demand table without active portals.
    OnDemand = 1,
}

impl TableKind {
    const BOTH: [Self; 2] = [Self::Full, Self::OnDemand];

    const fn cost(self, cost: Cost) -> usize {
        match self {
            Self::Full => cost.full,
            Self::OnDemand => cost.unused,
        }
    }

    const fn elements_max(self, limits: PortalLimits) -> usize {
        match self {
            Self::Full => limits.table_elements,
            Self::OnDemand => limits.unused_elements,
        }
    }
}

/// The number of significant bits of a level, so that small changes of other namespaces do not change every share.
const LEVEL_BITS: u32 = 4;

/// Returns the number of elements that each namespace is guaranteed, from the needs of all namespaces and their total.
/// `None` means that everything fits.
fn level(needs: impl Iterator<Item = usize>, total: usize, elements_max: usize) -> Option<usize> {
    if total <= elements_max {
        return None;
    }
    let mut needs: Vec<usize> = needs.collect();
    needs.sort_unstable();
    let mut left = elements_max;
    let mut level = 0;
    for (index, need) in needs.iter().enumerate() {
        level = left / (needs.len() - index);
        if *need > level {
            break;
        }
        left -= need;
    }
    let bits = usize::BITS - level.leading_zeros();
    Some(level >> bits.saturating_sub(LEVEL_BITS) << bits.saturating_sub(LEVEL_BITS))
}

impl Portals {
    /// Whether a portal is within the share of its namespace.
    #[must_use]
    pub fn fits_share(&self, table: TableKind, portal: &Portal) -> bool {
        if self.levels[table as usize].is_none() {
            return true;
        }
        let usage = self.namespaces.get(&portal.service.namespace);
        let cut = usage.and_then(|usage| usage.cuts[table as usize].as_ref());
        let created =
            || self.by_service.get(&portal.service).map(|service| service.created).unwrap_or_default();
        cut.is_none_or(|cut| Rank::of(portal, created()) < *cut)
    }

    /// Returns the number of portals beyond the share of their namespace, by service.
    pub fn beyond_share(&self, table: TableKind) -> impl Iterator<Item = (&ServiceKey, usize)> {
        let services = self.by_service.iter().filter(move |_| self.levels[table as usize].is_some());
        let counted = services.map(move |(key, service)| {
            (key, service.portals.iter().filter(|portal| !self.fits_share(table, portal)).count())
        });
        counted.filter(|(_, count)| *count > 0)
    }

    /// Returns the number of elements of a namespace in a full table.
    #[must_use]
    pub fn namespace_elements(&self, namespace: &str) -> usize {
        self.namespaces.get(namespace).map_or(0, |usage| usage.cost.full)
    }

    /// Computes the shares again, after these namespaces changed.
    pub(super) fn update_shares(
        &mut self,
        limits: PortalLimits,
        changed: &BTreeSet<Arc<str>>,
        mut changed_portals: Option<&mut ChangedPortals>,
    ) {
        for table in TableKind::BOTH {
            let needs = self.namespaces.values().map(|usage| table.cost(usage.cost));
            let level = level(needs, table.cost(self.total), table.elements_max(limits));
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
                self.update_share(table, &namespace, level, changed_portals.as_deref_mut());
            }
        }
    }

    fn update_share(
        &mut self,
        table: TableKind,
        namespace: &Arc<str>,
        level: Option<usize>,
        changed_portals: Option<&mut ChangedPortals>,
    ) {
        let Some(usage) = self.namespaces.get(namespace) else { return };
        let cut = level.filter(|level| table.cost(usage.cost) > *level);
        let cut = cut.and_then(|level| self.cut(table, namespace, level));
        let before = usage.cuts[table as usize].clone();
        if cut == before {
            return;
        }
        if let Some(changed_portals) = changed_portals {
            let fits = |cut: &Option<Rank>, rank: &Rank| cut.as_ref().is_none_or(|cut| rank < cut);
            let moved = self
                .ranked(namespace)
                .into_iter()
                .filter(|(rank, ..)| fits(&before, rank) != fits(&cut, rank));
            changed_portals.extend(moved.map(|(_, portal, _)| portal.key));
        }
        let mut usage = usage.clone();
        usage.cuts[table as usize] = cut;
        self.namespaces.insert_mut(namespace.clone(), usage);
    }

    /// Returns the first portal of a namespace that exceeds the level.
    fn cut(&self, table: TableKind, namespace: &Arc<str>, level: usize) -> Option<Rank> {
        let mut used = 0;
        let mut ranked = self.ranked(namespace);
        ranked.sort_by(|(left, ..), (right, ..)| left.cmp(right));
        ranked.into_iter().find_map(|(rank, _, cost)| {
            used += table.cost(cost);
            (used > level).then_some(rank)
        })
    }

    /// Returns the portals of a namespace with their ranks and costs.
    fn ranked(&self, namespace: &Arc<str>) -> Vec<(Rank, &Portal, Cost)> {
        let from = ServiceKey::new(namespace.clone(), "");
        let service = self.by_service.range(from..).take_while(|(key, _)| key.namespace == *namespace);
        let mut ranked = Vec::new();
        for (_, service) in service {
            let mut portals: Vec<&Portal> = service.portals.iter().collect();
            portals.sort_unstable_by_key(|portal| (portal.kind, portal.key));
            let mut meter = Meter::new(&self.service_ranges, service.needs_kernel);
            let own = portals
                .into_iter()
                .map(|portal| (Rank::of(portal, service.created), portal, meter.cost(portal)));
            ranked.extend(own);
        }
        ranked
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespace_below_the_level_leaves_the_rest_to_others() {
        let level_of = |needs: &[usize], room| level(needs.iter().copied(), needs.iter().sum(), room);
        assert_eq!(level_of(&[10, 20, 30], 60), None);
        assert_eq!(level_of(&[10, 1_000, 1_000], 138), Some(64));
        assert_eq!(level_of(&[10, 1_000, 1_000], 150), Some(64), "rounded down from 70");
        assert_eq!(level_of(&[1, 1, 1], 2), Some(0));
    }

    #[test]
    fn elements_at_the_level_fit_into_the_table() {
        for room in [0, 1, 7, 100, 999, 40_000] {
            let needs = [3, 1, 500, 20_000, 77, 77, 10_000, 10_000, 10_000];
            let total = needs.iter().sum();
            let level = level(needs.into_iter(), total, room).expect("more is needed than there is room");
            let used: usize = needs.iter().map(|need| need.min(&level)).sum();
            assert!(used <= room && (room < 100 || used > room / 2), "{used} of {room} at level {level}");
        }
    }
}
