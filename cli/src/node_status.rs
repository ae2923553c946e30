//! The part of `portico status` about node portals.

use std::io::Write;

use node_agent::NodeReport;

use crate::table::{HEALTHY, UNHEALTHY};

/// Writes the state of node portals, and their problems.
pub(crate) fn write_node_portals(report: &NodeReport, out: &mut impl Write) -> anyhow::Result<()> {
    let NodeReport { portals, elements, addresses, repairs, applied, failed, .. } = report;
    let addresses = if addresses.is_empty() { "no address".to_owned() } else { addresses.join(", ") };
    let (style, state) = match (&report.error, report.programmed) {
        (Some(error), _) => (UNHEALTHY, error.as_str()),
        (None, true) => (HEALTHY, "programmed"),
        (None, false) => (UNHEALTHY, "not programmed yet"),
    };
    writeln!(
        out,
        "node: {portals} portals ({elements} elements), node ports on {addresses}; {style}{state}{style:#}; \
         {applied} transactions, {failed} failed, {repairs} repairs"
    )?;
    if let Some(error) = &report.anchor_error {
        writeln!(out, "node: no anchor table: {error}")?;
    }
    if report.conflict_count > 0 {
        writeln!(out, "node: {} conflicts between services", report.conflict_count)?;
    }
    for conflict in &report.conflicts {
        let (portal, owner, refused) = (&conflict.portal, &conflict.owner, &conflict.refused);
        writeln!(out, "  {portal}: refused for {refused}, because {owner} is older")?;
    }
    for check in report.health_checks.iter().filter(|check| check.error.is_some()) {
        let error = check.error.as_deref().unwrap_or_default();
        writeln!(
            out,
            "{UNHEALTHY}health-check port {} of {}: {error}{UNHEALTHY:#}",
            check.port, check.service
        )?;
    }
    Ok(())
}

/// Whether the node has the desired table.
pub(crate) fn is_node_healthy(report: &NodeReport) -> bool {
    report.programmed && report.error.is_none()
}
