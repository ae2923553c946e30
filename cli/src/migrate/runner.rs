//! Runs the move of one node: observes it, and executes or waits for the next step, until the goal or a timeout.

use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::bail;
use node_agent::MigrationReport;
use proxy_core::node::ServiceProxy;

use crate::migrate::cluster::Cluster;
use crate::migrate::forecast::forecast;
use crate::migrate::observation::Observation;
use crate::migrate::plan::{Goal, Migration, Phase, Step};
use crate::node_status::describe_kube_proxy;

/// The interval between two observations of a node.
const INTERVAL: Duration = Duration::from_millis(250);

/// Moves a node, and prints each step. Each step has this timeout.
pub(super) fn run(
    cluster: &Cluster,
    node: &str,
    goal: Goal,
    timeout: Duration,
    print: &dyn Fn(&str),
) -> anyhow::Result<()> {
    let run = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis().to_string();
    let mut migration = Migration::new(goal, run);
    let (mut current, mut since) = (None, Instant::now());
    loop {
        let observation = cluster.observe(node);
        let step = match &observation {
            Ok(observation) => migration.next(observation),
            Err(error) => Step::Wait(format!("the API server: {error:#}")),
        };
        let is_new = current.as_ref() != Some(&step);
        if is_new {
            print(&description(&step));
            since = Instant::now();
        }
        match &step {
            Step::Done => {
                let report =
                    observation.ok().and_then(|observation| observation.agent.ok()).unwrap_or_default();
                migration.summary(&report).iter().for_each(|line| print(line));
                return cluster.clear_requests(node);
            }
            Step::Stop(reasons) => {
                cluster.clear_requests(node)?;
                bail!("{}", reasons.join("; "));
            }
            // A request was made; its result is not observed yet.
            Step::Wait(_) | Step::Verify(..) | Step::RemoveRules if !is_new => thread::sleep(INTERVAL),
            Step::Wait(_) => thread::sleep(INTERVAL),
            step => {
                if let Err(error) = cluster.execute(node, &migration, step) {
                    print(&format!("failed, will retry: {error:#}"));
                    // The next iteration executes it again.
                    current = None;
                    if since.elapsed() > timeout {
                        return Err(error);
                    }
                    thread::sleep(INTERVAL);
                    continue;
                }
            }
        }
        if since.elapsed() > timeout {
            bail!("timed out after {timeout:?}: {}", description(&step));
        }
        current = Some(step);
    }
}

/// Prints the steps without executing them.
pub(super) fn dry_run(cluster: &Cluster, node: &str, goal: Goal, print: &dyn Fn(&str)) -> anyhow::Result<()> {
    let observation = cluster.observe(node)?;
    print(&summary(&observation));
    let steps = forecast(goal, observation);
    for step in &steps {
        print(&description(step));
    }
    if steps.contains(&Step::ExcludeFromDaemonSet) {
        print(
            "note: the change of the DaemonSet's template restarts kube-proxy once on each node, by its rolling update",
        );
    }
    match steps.last() {
        Some(Step::Stop(reasons)) => bail!("{}", reasons.join("; ")),
        _ => Ok(()),
    }
}

fn summary(observation: &Observation) -> String {
    let label = observation.label.as_ref().map_or_else(String::as_str, |label| label.name());
    let found = match &observation.agent {
        Ok(MigrationReport { kube_proxy, .. }) => describe_kube_proxy(kube_proxy),
        Err(why) => why.clone(),
    };
    format!("label {label}; {found}")
}

fn description(step: &Step) -> String {
    match step {
        Step::Verify(phase, attempt) => {
            let what = match phase {
                Phase::Before => "verify connections to services, to compare with later",
                Phase::Both => "verify that the node's table translates connections",
                Phase::After => "verify that the node is as before",
            };
            if *attempt == 1 { what.to_owned() } else { format!("{what}, attempt {attempt}") }
        }
        Step::SetLabel(ServiceProxy::KubeProxy) => "remove the label portico.dev/service-proxy".to_owned(),
        Step::SetLabel(label) => format!("set the label portico.dev/service-proxy={}", label.name()),
        Step::ExcludeFromDaemonSet => {
            "exclude nodes with the label portico from kube-proxy's DaemonSet (node affinity)".to_owned()
        }
        Step::RemoveRules => "remove the rules of kube-proxy".to_owned(),
        Step::Wait(what) => format!("wait for {what}"),
        Step::Done => "done".to_owned(),
        Step::Stop(reasons) => format!("stopped: {}", reasons.join("; ")),
    }
}
