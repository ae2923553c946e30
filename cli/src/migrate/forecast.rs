//! The expected effect of each step, for `--dry-run`: what the agent, kube-proxy and the operator do if nothing fails.

use node_agent::{MigrationReport, RuleRemovalReport, VerificationReport};
use proxy_core::node::ServiceProxy;

use crate::migrate::observation::{Observation, ProxyDaemonSet, ProxyPod};
use crate::migrate::plan::{Goal, Migration, Step};

/// The rules of a kube-proxy that started.
const RULES: &str = "table ip kube-proxy, table ip6 kube-proxy";
/// More steps than any node needs.
const STEPS_MAX: usize = 50;

/// Returns the steps from this observation to the goal, or to the step that stops.
pub(super) fn forecast(goal: Goal, observation: Observation) -> Vec<Step> {
    let mut migration = Migration::new(goal, "forecast".to_owned());
    let (mut observation, mut steps) = (observation, Vec::new());
    while steps.len() < STEPS_MAX {
        let step = migration.next(&observation);
        let is_last = matches!(step, Step::Done | Step::Stop(_));
        if observation.agent.is_ok() || is_last {
            observation = expected(&migration, goal, observation, &step);
        }
        steps.push(step);
        if is_last || observation.agent.is_err() {
            break;
        }
    }
    steps
}

/// Returns the observation after a step.
pub(super) fn expected(migration: &Migration, goal: Goal, before: Observation, step: &Step) -> Observation {
    let mut after = before;
    let Ok(report) = &mut after.agent else { return after };
    match step {
        Step::SetLabel(label) => {
            after.label = Ok(*label);
            label.name().clone_into(&mut report.label);
        }
        Step::Verify(phase, attempt) => {
            let request = migration.verification_request(*phase, *attempt);
            let serving = report.serving;
            report.verification =
                Some(VerificationReport { request, serving, ..VerificationReport::default() });
        }
        Step::ExcludeFromDaemonSet => {
            after.daemon_set =
                after.daemon_set.map(|daemon_set| ProxyDaemonSet { avoids_portico: true, ..daemon_set });
        }
        Step::RemoveRules => {
            let removed = std::mem::take(&mut report.kube_proxy.rules);
            let request = migration.removal_request();
            report.rule_removal =
                Some(RuleRemovalReport { request, removed, ..RuleRemovalReport::default() });
            report.kube_proxy.ipvs = false;
        }
        Step::Wait(_) => settle(goal, after.label.as_ref().ok().copied(), report, &mut after.daemon_set),
        Step::Done | Step::Stop(_) => {}
    }
    after
}

/// Fulfils what a node with this label waits for.
fn settle(
    goal: Goal,
    label: Option<ServiceProxy>,
    report: &mut MigrationReport,
    daemon_set: &mut Option<ProxyDaemonSet>,
) {
    let kube_proxy = &mut report.kube_proxy;
    match (label, goal) {
        (Some(ServiceProxy::Portico), _) if report.serving => {
            (kube_proxy.running, kube_proxy.synced, kube_proxy.ipvs_connections) = (false, false, 0);
            *daemon_set = daemon_set.map(|daemon_set| ProxyDaemonSet { pod: ProxyPod::Absent, ..daemon_set });
        }
        (Some(ServiceProxy::Both), Goal::KubeProxy) => {
            (kube_proxy.running, kube_proxy.synced) = (true, true);
            RULES.clone_into(&mut kube_proxy.rules);
            *daemon_set = daemon_set.map(|daemon_set| ProxyDaemonSet { pod: ProxyPod::Ready, ..daemon_set });
        }
        (Some(ServiceProxy::KubeProxy), _) => (report.serving, report.kept) = (false, None),
        _ => report.serving = true,
    }
}
