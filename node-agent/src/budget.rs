//! `Budget`: how much kernel memory the tables of all pods may take, and how much they are modelled to take.
//!
//! The kernel charges nf_tables objects to whoever sends the transaction, so the tables of all pods count against the
//! agent's memory limit. The model is a number of bytes for each element, measured and rounded up; it needs no look at
//! the kernel. Half of the limit is for tables, a quarter for the relay, and a quarter for the agent itself. What must
//! not go in here: what is done where the budget is reached.

use proxy_core::portal::PortalLimits;
use proxy_core::ruleset::Settings;

/// An empty table: its chains, rules, maps and sets.
const TABLE_BYTES: usize = 64 << 10;
/// An element with its share of its map.
const ELEMENT_BYTES: usize = 112;
/// What an element takes besides where it counts: the counter itself, and its number on each processor.
const COUNTER_BYTES: usize = 64;
const COUNTER_BYTES_EACH: usize = 16;
/// The part of the limit that is for tables: one half.
const TABLES_PART: usize = 2;
/// What stands in unused tables on demand leaves room for so many pods; a node has 110 by default.
const PODS: usize = 128;

/// How much kernel memory tables may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Budget {
    /// The memory limit of the agent; none: there is none.
    pub(crate) limit: Option<u64>,
    /// How many processors may count.
    pub(crate) processors: usize,
}

impl Budget {
    /// No limit.
    #[cfg(test)]
    pub(crate) const UNLIMITED: Self = Self { limit: None, processors: 1 };

    /// How many bytes all tables together may take; none: there is no limit.
    pub(crate) fn tables(self) -> Option<usize> {
        self.limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX) / TABLES_PART)
    }

    fn element_bytes(self, settings: Settings) -> usize {
        // On demand only portals count, but in a table of which nothing is used most elements are portals.
        let counts = settings.on_demand || settings.counters;
        let counter = if counts { COUNTER_BYTES + COUNTER_BYTES_EACH * self.processors } else { 0 };
        ELEMENT_BYTES + counter
    }

    /// How many bytes a table of so many elements is modelled to take.
    pub(crate) fn table_bytes(self, elements: usize, settings: Settings) -> usize {
        TABLE_BYTES.saturating_add(elements.saturating_mul(self.element_bytes(settings)))
    }

    /// How many elements fit into so many bytes.
    pub(crate) fn elements_in(self, bytes: usize, settings: Settings) -> usize {
        bytes / self.element_bytes(settings)
    }

    /// The bounds with which so many pods fit while nothing is used, whatever services ask for.
    pub(crate) fn bounds(self, bounds: PortalLimits, pods: usize, settings: Settings) -> PortalLimits {
        let Some(tables) = self.tables() else { return bounds };
        let pods = pods.next_power_of_two().max(PODS);
        let on_demand = Settings { on_demand: true, ..settings };
        let each = (tables / pods).saturating_sub(TABLE_BYTES);
        let unused_elements = self.elements_in(each, on_demand).min(bounds.unused_elements);
        PortalLimits { unused_elements, ..bounds }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHART: Budget = Budget { limit: Some(512 << 20), processors: 4 };

    #[test]
    fn with_the_limit_of_the_chart_unused_tables_of_110_pods_fit_whatever_services_ask_for() {
        let settings = Settings { on_demand: true, ..Settings::default() };
        for pods in [1, 110, 128, 250] {
            let bounds = CHART.bounds(PortalLimits::STANDARD, pods, settings);
            let each = CHART.table_bytes(bounds.unused_elements, settings);
            assert!(each * pods <= CHART.tables().expect("there is a limit"), "{pods} pods of {each} bytes");
            assert!(bounds.unused_elements > 2_000, "{} elements for {pods} pods", bounds.unused_elements);
        }
    }

    #[test]
    fn without_a_limit_the_bounds_of_the_operator_stand() {
        let bounds = Budget::UNLIMITED.bounds(PortalLimits::STANDARD, 1_000, Settings::default());
        assert_eq!(bounds, PortalLimits::STANDARD);
    }
}
