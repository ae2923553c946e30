//! The part of `portico status` about node portals.

use std::io::Write;

use node_agent::{KubeProxyReport, MigrationReport, NodeReport};

use crate::table::{HEALTHY, UNHEALTHY};

/// Writes the state of node portals, and their problems.
pub(crate) fn write_node_portals(report: &NodeReport, out: &mut impl Write) -> anyhow::Result<()> {
    let NodeReport { portals, elements, addresses, repairs, applied, failed, .. } = report;
    let addresses = if addresses.is_empty() { "no address".to_owned() } else { addresses.join(", ") };
    let (style, state) = match (&report.error, report.programmed) {
        (Some(error), _) => (UNHEALTHY, error.as_str()),
        (None, true) => (HEALTHY, "programmed"),
        (None, false) if report.is_up_to_date() => (HEALTHY, "not programmed, because of the node's label"),
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
    if let Some(migration) = &report.migration {
        write_migration(migration, out)?;
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

/// Writes the state of the node between kube-proxy and Portico.
fn write_migration(report: &MigrationReport, out: &mut impl Write) -> anyhow::Result<()> {
    let MigrationReport { label, kept, anchor_kept, kube_proxy, others, .. } = report;
    writeln!(out, "node: label portico.dev/service-proxy is {label}; {}", describe_kube_proxy(kube_proxy))?;
    if let Some(why) = kept {
        writeln!(
            out,
            "{UNHEALTHY}node: the table is kept although the label excludes it: {why}{UNHEALTHY:#}"
        )?;
    }
    if let Some(why) = anchor_kept {
        writeln!(out, "node: the anchor table is kept: {why}")?;
    }
    if !others.is_empty() {
        writeln!(out, "node: other programs that affect services: {}", others.join(", "))?;
    }
    Ok(())
}

/// Describes the kube-proxy of a node.
pub(crate) fn describe_kube_proxy(report: &KubeProxyReport) -> String {
    let KubeProxyReport { running, synced, mode, rules, .. } = report;
    let state = match (running, synced) {
        (false, _) => "not running",
        (true, false) => "running, not synced yet",
        (true, true) => "running",
    };
    let mode = mode.as_ref().map(|mode| format!(" in mode {mode}")).unwrap_or_default();
    let rules = if rules.is_empty() { "no rules" } else { rules };
    format!("kube-proxy: {state}{mode}, {rules}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_of_kube_proxy_is_healthy_and_a_kept_table_is_not() {
        let report = |kept: Option<&str>| {
            let label = "kube-proxy".to_owned();
            let migration =
                MigrationReport { label, kept: kept.map(str::to_owned), ..MigrationReport::default() };
            NodeReport { migration: Some(migration), ..NodeReport::default() }
        };
        let text = |report: &NodeReport| {
            let mut out = Vec::new();
            write_node_portals(report, &mut out).expect("a buffer");
            String::from_utf8(out).expect("UTF-8")
        };
        let handed_back = report(None);
        assert!(handed_back.is_up_to_date() && text(&handed_back).contains("because of the node's label"));
        let kept = report(Some("no kube-proxy responds on the node"));
        assert!(!kept.is_up_to_date() && text(&kept).contains("no kube-proxy responds"), "{}", text(&kept));
    }
}
