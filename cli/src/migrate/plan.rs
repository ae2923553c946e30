//! `Migration`: the next step of a node on its way to Portico, or back to kube-proxy. Pure.
//!
//! ```text
//! to Portico  (no label) verify ─► both: verify, exclude from the DaemonSet ─► portico: stop, remove rules, verify
//! back        portico: verify ─► both: start ─► (no label): the agent removes the table, verify
//! ```
//! A step depends only on what is observed, so a call after an interruption continues. The only state is the
//! verification from the start of this call, with which later ones are compared.

use node_agent::{KubeProxyReport, MigrationReport, RuleRemovalReport, VerificationReport};
use proxy_core::node::ServiceProxy;

use crate::migrate::comparison::regressions;
use crate::migrate::observation::{Observation, ProxyDaemonSet, ProxyPod};

/// Programs that serve services themselves. Their rules cannot be handed over without broken connections.
const OTHER_OWNERS: [&str; 2] = ["kube-router", "Calico eBPF"];
/// A network plugin that serves services only if there is no kube-proxy.
const CILIUM: &str = "Cilium";

const STOP_KUBE_PROXY: &str = "kube-proxy to stop on the node, which is not a pod of the DaemonSet. Stop it there:
  kind, minikube, kubeadm: the DaemonSet has another name: --kube-proxy-daemonset NAMESPACE/NAME
  k3s, RKE2: set disable-kube-proxy: true in /etc/rancher/k3s/config.yaml (rke2/config.yaml), restart the service
  systemd: systemctl disable --now kube-proxy
  static pod: move kube-proxy.yaml out of /etc/kubernetes/manifests";
const START_KUBE_PROXY: &str = "kube-proxy to start on the node, which is not a pod of a DaemonSet. Start it there as it was \
                                stopped; a deleted DaemonSet must be created again";

/// The service proxy that is to serve the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Goal {
    Portico,
    KubeProxy,
}

/// The time of a verification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Before,
    Both,
    After,
}

impl Phase {
    const fn name(self) -> &'static str {
        match self {
            Self::Before => "before",
            Self::Both => "both",
            Self::After => "after",
        }
    }
}

/// A verification fails only after this number of attempts: a backend that restarts fails one.
const ATTEMPTS_MAX: u32 = 3;

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// Request a verification; with the number of the attempt, from 1.
    Verify(Phase, u32),
    /// Set the label of the node, or remove it for `KubeProxy`.
    SetLabel(ServiceProxy),
    /// Make the pods of kube-proxy's DaemonSet avoid nodes with the label `portico`.
    ExcludeFromDaemonSet,
    /// Request the removal of kube-proxy's rules.
    RemoveRules,
    /// Wait for something.
    Wait(String),
    /// The node has reached the goal.
    Done,
    /// The node cannot continue, for these reasons.
    Stop(Vec<String>),
}

/// The move of one node.
#[derive(Debug, Clone)]
pub(super) struct Migration {
    goal: Goal,
    /// Distinguishes the requests of this call from those of earlier ones.
    run: String,
    before: Option<VerificationReport>,
    /// The number of the current attempt of a verification.
    attempt: u32,
}

impl Migration {
    pub(super) fn new(goal: Goal, run: String) -> Self {
        Self { goal, run, before: None, attempt: 1 }
    }

    /// The text of the request for a verification.
    pub(super) fn verification_request(&self, phase: Phase, attempt: u32) -> String {
        format!("{}-{}-{attempt}", self.run, phase.name())
    }

    /// The text of the request to remove rules.
    pub(super) fn removal_request(&self) -> String {
        format!("{}-rules", self.run)
    }

    /// Returns the next step.
    pub(super) fn next(&mut self, observation: &Observation) -> Step {
        let label = match &observation.label {
            Ok(label) => *label,
            Err(text) => {
                return stop(format!("the label portico.dev/service-proxy has the invalid value {text:?}"));
            }
        };
        let report = match &observation.agent {
            Ok(report) => report,
            Err(why) => return wait(&format!("the agent on the node: {why}")),
        };
        if report.label != label.name() {
            return wait("the agent to follow the label of the node");
        }
        if let Some(found) = self.verification(report, Phase::Before, 1) {
            self.before = Some(found.clone());
        }
        match self.goal {
            Goal::Portico => self.next_to_portico(label, report, observation.daemon_set),
            Goal::KubeProxy => self.next_to_kube_proxy(label, report, observation.daemon_set),
        }
    }

    fn next_to_portico(
        &mut self,
        label: ServiceProxy,
        report: &MigrationReport,
        daemon_set: Option<ProxyDaemonSet>,
    ) -> Step {
        let owners = other_owners(report);
        if label != ServiceProxy::Portico && !owners.is_empty() {
            let owners = owners.join(", ");
            return stop(format!(
                "the node's services are served by {owners}, which cannot be replaced without broken connections"
            ));
        }
        match label {
            ServiceProxy::KubeProxy if self.before.is_none() => Step::Verify(Phase::Before, 1),
            ServiceProxy::KubeProxy => Step::SetLabel(ServiceProxy::Both),
            _ if !report.serving => wait("the node's table to be programmed"),
            ServiceProxy::Both => match (self.verified(report, Phase::Both), daemon_set) {
                (Err(step), _) => step,
                (Ok(()), Some(daemon_set)) if !daemon_set.avoids_portico => Step::ExcludeFromDaemonSet,
                (Ok(()), _) => Step::SetLabel(ServiceProxy::Portico),
            },
            ServiceProxy::Portico => self.finish_portico(report, daemon_set),
        }
    }

    /// The steps while the label is `portico`.
    fn finish_portico(&mut self, report: &MigrationReport, daemon_set: Option<ProxyDaemonSet>) -> Step {
        let KubeProxyReport { running, rules, ipvs, ipvs_connections, .. } = &report.kube_proxy;
        match daemon_set {
            Some(daemon_set) if !daemon_set.avoids_portico => return Step::ExcludeFromDaemonSet,
            Some(daemon_set) if daemon_set.pod != ProxyPod::Absent => {
                return wait("the pod of kube-proxy on the node to end");
            }
            _ if *running => return wait(STOP_KUBE_PROXY),
            _ => {}
        }
        if *ipvs_connections > 0 {
            return wait(&format!(
                "{ipvs_connections} connections of IPVS to end: they are not translated by rules, and would break"
            ));
        }
        let has_rules = !rules.is_empty() || *ipvs;
        match self.removal(report) {
            None if has_rules => return Step::RemoveRules,
            Some(RuleRemovalReport { problem: Some(why), retrying: true, .. }) => {
                return wait(&format!("the agent to remove the rules of kube-proxy: {why}"));
            }
            _ => {}
        }
        self.verified(report, Phase::After).map_or_else(|step| step, |()| Step::Done)
    }

    fn next_to_kube_proxy(
        &mut self,
        label: ServiceProxy,
        report: &MigrationReport,
        daemon_set: Option<ProxyDaemonSet>,
    ) -> Step {
        let KubeProxyReport { running, synced, .. } = &report.kube_proxy;
        match label {
            ServiceProxy::Portico if self.before.is_none() => Step::Verify(Phase::Before, 1),
            ServiceProxy::Portico => Step::SetLabel(ServiceProxy::Both),
            ServiceProxy::Both => match daemon_set.map(|daemon_set| daemon_set.pod) {
                Some(ProxyPod::Absent | ProxyPod::NotReady) if !*running => {
                    wait("the pod of kube-proxy on the node to be ready")
                }
                Some(ProxyPod::Ready) if !*running => {
                    wait("the agent to observe kube-proxy, whose pod on the node is ready")
                }
                _ if !*running => wait(START_KUBE_PROXY),
                _ if !*synced => wait("kube-proxy to program its rules"),
                _ => Step::SetLabel(ServiceProxy::KubeProxy),
            },
            ServiceProxy::KubeProxy => match &report.kept {
                Some(why) => wait(&format!("the agent to remove the node's table: {why}")),
                None if report.serving => wait("the agent to remove the node's table"),
                None => self.verified(report, Phase::After).map_or_else(|step| step, |()| Step::Done),
            },
        }
    }

    fn verification<'a>(
        &self,
        report: &'a MigrationReport,
        phase: Phase,
        attempt: u32,
    ) -> Option<&'a VerificationReport> {
        let request = self.verification_request(phase, attempt);
        report.verification.as_ref().filter(|found| found.request == request)
    }

    fn removal<'a>(&self, report: &'a MigrationReport) -> Option<&'a RuleRemovalReport> {
        report.rule_removal.as_ref().filter(|found| found.request == self.removal_request())
    }

    /// Succeeds if the node was verified in this phase. Otherwise returns the step to take.
    fn verified(&mut self, report: &MigrationReport, phase: Phase) -> Result<(), Step> {
        let Some(found) = self.verification(report, phase, self.attempt) else {
            return Err(Step::Verify(phase, self.attempt));
        };
        let problems = regressions(self.before.as_ref(), found);
        if problems.is_empty() {
            self.attempt = 1;
            return Ok(());
        }
        if self.attempt == ATTEMPTS_MAX {
            return Err(Step::Stop(problems));
        }
        self.attempt += 1;
        Err(Step::Verify(phase, self.attempt))
    }

    /// What the agent did with the rules of kube-proxy in this call, and what is left to do.
    pub(super) fn summary(&self, report: &MigrationReport) -> Vec<String> {
        let mut lines = Vec::new();
        if let Some(RuleRemovalReport { removed, problem, .. }) = self.removal(report) {
            if !removed.is_empty() {
                lines.push(format!("removed {removed}"));
            }
            if let Some(problem) = problem {
                lines.push(format!(
                    "rules of kube-proxy are left: {problem}. Remove them on the node: kube-proxy --cleanup, or restart it"
                ));
            }
        }
        lines
    }
}

/// The programs that serve the node's services in place of kube-proxy.
fn other_owners(report: &MigrationReport) -> Vec<&str> {
    let has_kube_proxy = report.kube_proxy.running || !report.kube_proxy.rules.is_empty();
    let is_owner = |name: &&String| {
        OTHER_OWNERS.contains(&name.as_str()) || (name.as_str() == CILIUM && !has_kube_proxy)
    };
    report.others.iter().filter(is_owner).map(String::as_str).collect()
}

fn wait(what: &str) -> Step {
    Step::Wait(what.to_owned())
}

fn stop(why: String) -> Step {
    Step::Stop(vec![why])
}

#[cfg(test)]
mod tests;
