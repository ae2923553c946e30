//! The metrics of node portals.

use daemon::MetricsPage;

use crate::node_portals::NodeReport;
use crate::report::APPLY_BOUNDS_S;

/// Adds the metrics of node portals to the page.
pub(crate) fn add_node_metrics(page: &mut MetricsPage, report: &NodeReport) {
    let flag = |is_set: bool| f64::from(u8::from(is_set));
    let programmed = flag(report.is_up_to_date());
    page.gauge("node_programmed", "1 if the node has the desired table, or is to have none", programmed);
    page.gauge("node_portals", "addresses and ports, and node ports, of services", report.portals as f64);
    page.gauge("node_table_elements", "elements of the node's table", report.elements as f64);
    page.gauge("node_addresses", "addresses on which node ports are served", report.addresses.len() as f64);
    page.gauge(
        "node_portal_conflicts",
        "addresses and ports that a service claims, and an older service has",
        report.conflict_count as f64,
    );
    page.gauge(
        "node_portals_beyond_share",
        "portals that are not served because their namespace exceeds its share of the table",
        report.beyond_share as f64,
    );
    let failing = report.health_checks.iter().filter(|check| check.error.is_some()).count();
    page.gauge("node_health_checks", "health-check ports of services", report.health_checks.len() as f64);
    page.gauge("node_health_checks_failing", "health-check ports that cannot be opened", failing as f64);
    page.gauge(
        "node_anchor",
        "1 if the anchor table is held or not wanted",
        flag(report.anchor_error.is_none()),
    );
    page.counter("node_applied_total", "transactions of the node's table", report.applied);
    page.counter("node_apply_failed_total", "failed attempts to program the node's table", report.failed);
    page.counter("node_repairs_total", "replacements of a node's table that had drifted", report.repairs);
    page.histogram(
        "node_apply_duration_seconds",
        "time from a service change to the acknowledgement of the node's table by the kernel",
        &APPLY_BOUNDS_S,
        &report.apply_duration_seconds,
    );
}
