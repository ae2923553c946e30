//! `Budget`: the kernel memory that the tables of all pods can use, and an estimate of what they use.
//!
//! The kernel charges nf_tables objects to the process that sends the transaction, so the tables of all pods count
//! against the agent's memory limit. The estimate is a number of bytes for each element, measured and rounded up. Half
//! of the limit is for tables, a quarter for the relay, and a quarter for the agent itself.

use proxy_core::portal::PortalLimits;
use proxy_core::ruleset::Settings;

/// An empty table with its chains, rules, maps and sets.
const TABLE_BYTES: usize = 64 << 10;
/// An element and its share of the map.
const ELEMENT_BYTES: usize = 112;
/// The counter of an element, and its value on each CPU.
const COUNTER_BYTES: usize = 64;
const COUNTER_BYTES_EACH: usize = 16;
/// Tables can use the limit divided by this.
const TABLES_DIVISOR: usize = 2;
/// The minimum number of pods for which on-demand tables without used portals must fit; a node has 110 by default.
const PODS_MIN: usize = 128;

/// The memory budget of tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Budget {
    /// The memory limit of the agent, if there is one.
    pub(crate) limit: Option<u64>,
    /// The number of CPUs, each of which has a value of each counter.
    pub(crate) processors: usize,
}

impl Budget {
    /// A budget without a limit.
    #[cfg(test)]
    pub(crate) const UNLIMITED: Self = Self { limit: None, processors: 1 };

    /// The number of bytes that all tables together can use, if there is a limit.
    pub(crate) fn tables(self) -> Option<usize> {
        self.limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX) / TABLES_DIVISOR)
    }

    fn element_bytes(self, settings: Settings) -> usize {
        // On demand, only portals have counters, but most elements of a table without used portals are portals.
        let counts = settings.on_demand || settings.counters;
        let counter = if counts { COUNTER_BYTES + COUNTER_BYTES_EACH * self.processors } else { 0 };
        ELEMENT_BYTES + counter
    }

    /// The estimated memory of a table with this number of elements, in bytes.
    pub(crate) fn table_bytes(self, elements: usize, settings: Settings) -> usize {
        TABLE_BYTES.saturating_add(elements.saturating_mul(self.element_bytes(settings)))
    }

    /// The number of elements that fit into this number of bytes.
    pub(crate) fn elements_in(self, bytes: usize, settings: Settings) -> usize {
        bytes / self.element_bytes(settings)
    }

    /// The limits with which on-demand tables of this number of pods fit as long as no portal is used, regardless of
    /// the services.
    pub(crate) fn portal_limits(self, limits: PortalLimits, pods: usize, settings: Settings) -> PortalLimits {
        let Some(tables) = self.tables() else { return limits };
        let pods = pods.next_power_of_two().max(PODS_MIN);
        let on_demand = Settings { on_demand: true, ..settings };
        let each = (tables / pods).saturating_sub(TABLE_BYTES);
        let unused_elements = self.elements_in(each, on_demand).min(limits.unused_elements);
        PortalLimits { unused_elements, ..limits }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHART: Budget = Budget { limit: Some(512 << 20), processors: 4 };

    #[test]
    fn on_demand_tables_of_all_pods_fit_the_memory_limit_of_the_chart() {
        let settings = Settings { on_demand: true, ..Settings::default() };
        for pods in [1, 110, 128, 250] {
            let limits = CHART.portal_limits(PortalLimits::STANDARD, pods, settings);
            let each = CHART.table_bytes(limits.unused_elements, settings);
            assert!(each * pods <= CHART.tables().expect("there is a limit"), "{pods} pods of {each} bytes");
            assert!(limits.unused_elements > 2_000, "{} elements for {pods} pods", limits.unused_elements);
        }
    }

    #[test]
    fn without_a_memory_limit_the_configured_limits_apply() {
        let limits = Budget::UNLIMITED.portal_limits(PortalLimits::STANDARD, 1_000, Settings::default());
        assert_eq!(limits, PortalLimits::STANDARD);
    }
}
