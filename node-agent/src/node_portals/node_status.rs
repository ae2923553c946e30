//! `NodeStatus`: the state of node portals for the agent's report, shared between the worker and the event loop.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use daemon::Histogram;
use proxy_core::node::ServiceProxy;
use proxy_core::portal::{Portals, TableKind};
use proxy_core::ruleset::node::{NodeRuleset, PodDetection};
use serde::{Deserialize, Serialize};

use crate::node_portals::health_check::{HealthCheckReport, HealthChecks};
use crate::node_portals::migration_report::MigrationReport;
use crate::report::APPLY_BOUNDS_S;

/// The maximum of conflicts in a report.
const CONFLICTS_MAX: usize = 100;

/// Two services that claim one address and port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConflictReport {
    /// The address, protocol and port.
    pub portal: String,
    /// The service that has it.
    pub owner: String,
    /// The service that does not.
    pub refused: String,
}

/// A health-check port of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HealthCheckPort {
    /// The port.
    pub port: u16,
    /// The service.
    pub service: String,
    /// The number of its ready endpoints on this node.
    pub local_endpoints: usize,
    /// Why the node does not answer, if attempts to listen failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// The settings of node portals that clients notice.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeSettingsReport {
    /// The addresses on which node ports are served, or would be served.
    pub node_port_addresses: Vec<String>,
    /// Whether node ports are served at the loopback addresses.
    pub localhost: bool,
    /// Whether clients of cluster addresses that are not pods are masqueraded.
    pub detects_pods: bool,
    /// Whether all connections are masqueraded.
    pub masquerade_all: bool,
}

/// The state of node portals.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeReport {
    /// Whether the kernel has had a complete table since the start.
    pub programmed: bool,
    /// Why the last attempt to program the table failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The number of portals: addresses and ports, and node ports.
    pub portals: usize,
    /// The number of elements of the table.
    pub elements: usize,
    /// The addresses on which node ports are served.
    pub addresses: Vec<String>,
    /// Services that claim an address and port of an older service; at most 100.
    #[serde(default)]
    pub conflicts: Vec<ConflictReport>,
    /// The number of conflicts.
    #[serde(default)]
    pub conflict_count: usize,
    /// The health-check ports of services.
    #[serde(default)]
    pub health_checks: Vec<HealthCheckPort>,
    /// The number of portals beyond the share of their namespace.
    #[serde(default)]
    pub beyond_share: usize,
    /// Committed transactions.
    pub applied: u64,
    /// Failed attempts.
    pub failed: u64,
    /// Replacements of a table that another process changed.
    pub repairs: u64,
    /// Whether the anchor table exists; if not, why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub anchor_error: Option<String>,
    /// The settings, also if the node has no table.
    #[serde(default)]
    pub settings: NodeSettingsReport,
    /// The state of the node between kube-proxy and Portico, in the mode `label`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub migration: Option<MigrationReport>,
    /// The time from a change to the kernel's acknowledgement.
    pub apply_duration_seconds: Histogram,
}

impl NodeReport {
    /// Whether the node has the desired table, or is to have none.
    #[must_use]
    pub fn is_up_to_date(&self) -> bool {
        let is_withdrawn = self.migration.as_ref().is_some_and(|migration| {
            migration.label == ServiceProxy::KubeProxy.name() && migration.kept.is_none()
        });
        self.error.is_none() && (self.programmed || is_withdrawn)
    }
}

/// The report, and the values from which the rest of it is computed on request. Clones of these are cheap.
#[derive(Debug, Default)]
struct State {
    report: NodeReport,
    table: Option<(Portals, NodeRuleset)>,
    /// The table that the node has, or would have.
    desired: NodeRuleset,
    /// Why the table, and the anchor table, are kept.
    kept: Option<String>,
    anchor_kept: Option<String>,
}

/// The shared state.
#[derive(Debug, Clone, Default)]
pub(crate) struct NodeStatus(Arc<Mutex<State>>);

impl NodeStatus {
    pub(crate) fn record_applied(&self) {
        self.state().report.applied += 1;
    }

    pub(crate) fn record_repair(&self) {
        self.state().report.repairs += 1;
    }

    pub(crate) fn record_failure(&self, error: String) {
        let mut state = self.state();
        state.report.failed += 1;
        state.report.error = Some(error);
    }

    pub(crate) fn set_anchor_error(&self, error: Option<String>) {
        self.state().report.anchor_error = error;
    }

    /// Records that the kernel has this table. `took` is the time since the first change that is new in it.
    pub(crate) fn record_state(&self, portals: &Portals, ruleset: &NodeRuleset, took: Option<Duration>) {
        let mut state = self.state();
        state.table = Some((portals.clone(), ruleset.clone()));
        let report = &mut state.report;
        (report.programmed, report.error) = (true, None);
        if let Some(took) = took {
            report.apply_duration_seconds.observe(&APPLY_BOUNDS_S, took.as_secs_f64());
        }
    }

    /// Records the table that the node is to have, or would have.
    pub(crate) fn set_desired(&self, desired: &NodeRuleset) {
        self.state().desired = desired.clone();
    }

    /// Records that the table was removed, because another proxy serves the node.
    pub(crate) fn record_withdrawal(&self) {
        let mut state = self.state();
        (state.table, state.kept) = (None, None);
        (state.report.programmed, state.report.error) = (false, None);
    }

    /// Records why the table is kept although the label of the node excludes it.
    pub(crate) fn set_kept(&self, why: Option<String>) {
        self.state().kept = why;
    }

    /// Records why the anchor table is kept without the table.
    pub(crate) fn set_anchor_kept(&self, why: Option<String>) {
        self.state().anchor_kept = why;
    }

    /// Records what the observer of other proxies found.
    pub(crate) fn set_migration(&self, migration: MigrationReport) {
        self.state().report.migration = Some(migration);
    }

    /// Records the state of the health-check ports, and the services that claim one of another service.
    pub(crate) fn set_health_checks(&self, servers: Vec<HealthCheckReport>, checks: &HealthChecks) {
        let conflicts = checks.conflicts().map(|conflict| ConflictReport {
            portal: format!("health-check port {}", conflict.port),
            owner: conflict.owner.to_string(),
            refused: conflict.refused.to_string(),
        });
        let ports = servers.into_iter().map(|server| HealthCheckPort {
            port: server.port,
            service: server.service.to_string(),
            local_endpoints: server.local_endpoints,
            error: server.error,
        });
        let mut state = self.state();
        state.report.health_checks = ports.collect();
        state.report.conflicts = conflicts.take(CONFLICTS_MAX).collect();
    }

    /// Returns the report.
    pub(crate) fn report(&self) -> NodeReport {
        let (mut report, table, desired) = {
            let state = self.state();
            let mut report = state.report.clone();
            if let Some(migration) = &mut report.migration {
                (migration.kept, migration.anchor_kept) = (state.kept.clone(), state.anchor_kept.clone());
            }
            (report, state.table.clone(), state.desired.clone())
        };
        report.settings = settings_report(&desired);
        report.conflict_count = report.conflicts.len();
        let Some((portals, ruleset)) = table else { return report };
        report.portals = ruleset.frontend_count();
        report.elements = ruleset.size();
        report.addresses = ruleset.environment().addresses.iter().map(ToString::to_string).collect();
        // Without conflicts, each claim has a frontend: comparing all portals would delay the event loop.
        let has_conflicts = portals.claim_count() != ruleset.frontend_count();
        for (portal, owner) in has_conflicts.then(|| portals.conflicts()).into_iter().flatten() {
            report.conflict_count += 1;
            if report.conflicts.len() < CONFLICTS_MAX {
                report.conflicts.push(ConflictReport {
                    portal: portal.key.to_string(),
                    owner: owner.service.to_string(),
                    refused: portal.service.to_string(),
                });
            }
        }
        report.beyond_share = portals.beyond_share(TableKind::Full).map(|(_, count)| count).sum();
        report
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn settings_report(desired: &NodeRuleset) -> NodeSettingsReport {
    let settings = desired.settings().unwrap_or_default();
    NodeSettingsReport {
        node_port_addresses: desired.environment().addresses.iter().map(ToString::to_string).collect(),
        localhost: settings.loopback_port != 0,
        detects_pods: settings.detects_pods != PodDetection::NONE,
        masquerade_all: settings.masquerade_all,
    }
}

#[cfg(test)]
mod tests {
    use proxy_core::portal::{NodeContext, Place, portals};
    use proxy_core::ruleset::node::{NodeEnvironment, NodeSettings};
    use proxy_core::sample::{node_context, snapshot, svc};

    use super::*;

    #[test]
    fn report_names_the_owner_and_the_refused_service_of_a_conflict() {
        let service = |name: &str, address: &str| svc(name).ip(address).tcp("", 80).external("192.0.2.9");
        let first = service("first", "10.96.0.1").created("2026-01-01T00:00:00Z");
        let second = service("second", "10.96.0.2").created("2026-02-01T00:00:00Z");
        let context = NodeContext { place: Place::Node, ..node_context() };
        let report = |services: Vec<proxy_core::snapshot::Change>| {
            let portals = portals(&snapshot(services), &context);
            let ruleset = NodeRuleset::new(&portals, NodeSettings::default(), NodeEnvironment::default());
            let status = NodeStatus::default();
            status.record_state(&portals, &ruleset, None);
            status.report()
        };
        let report_of_both = report(vec![second.into(), first.clone().into()]);
        assert_eq!(report_of_both.conflict_count, 1);
        let conflict = &report_of_both.conflicts[0];
        assert_eq!((&*conflict.owner, &*conflict.refused), ("default/first", "default/second"));
        assert_eq!(report(vec![first.into()]).conflict_count, 0);
    }
}
