//! `portico migrate`: moves nodes from kube-proxy to Portico, and back, without a drain.
//!
//! ```text
//! Cluster (API server, kubectl exec) ─ Observation ─► Migration (pure) ─ Step ─► Cluster
//! ```
//! The command keeps no state: a call continues from what it observes. The agent of a node programs and verifies the
//! node, and removes rules; the command writes the node's label and annotations, and the affinity of kube-proxy's
//! DaemonSet.

mod affinity;
mod cluster;
mod comparison;
mod forecast;
mod observation;
mod plan;
mod runner;

use std::io::Write;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::Duration;

use anyhow::Context;
use clap::Args;

use crate::manifests::print_error;
use crate::migrate::cluster::{Cluster, ClusterSettings};
use crate::migrate::plan::Goal;

/// Arguments of `portico migrate`.
#[derive(Debug, Args)]
pub(crate) struct MigrateArgs {
    /// Node to move.
    #[arg(value_name = "NODE", required_unless_present = "all", conflicts_with = "all")]
    node: Option<String>,
    /// Move all nodes, in the order of their names. Stop at the first one that is not as before.
    #[arg(long)]
    all: bool,
    /// With --all, the number of nodes that move at the same time.
    #[arg(long, value_name = "NUMBER", default_value = "1")]
    max_unavailable: NonZeroUsize,
    /// Move back to kube-proxy.
    #[arg(long)]
    back: bool,
    /// Print the steps without executing them.
    #[arg(long)]
    dry_run: bool,
    /// Path to a kubeconfig (default: ~/.kube/config, or in a pod its service account).
    #[arg(long, value_name = "FILE", env = "KUBECONFIG")]
    kubeconfig: Option<PathBuf>,
    /// Path to kubectl, which reads the status of agents.
    #[arg(long, value_name = "PATH", default_value = "kubectl")]
    kubectl: PathBuf,
    /// Namespace of the agents.
    #[arg(short, long, value_name = "NAMESPACE", default_value = "portico-system")]
    namespace: String,
    /// kube-proxy's DaemonSet.
    #[arg(long, value_name = "NAMESPACE/NAME", default_value = "kube-system/kube-proxy", value_parser = object_name)]
    kube_proxy_daemonset: (String, String),
    /// Timeout of each step, in seconds.
    #[arg(long, value_name = "S", default_value_t = 300)]
    timeout: u64,
}

fn object_name(text: &str) -> Result<(String, String), String> {
    match text.split_once('/') {
        Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
            Ok((namespace.to_owned(), name.to_owned()))
        }
        _ => Err("must be NAMESPACE/NAME".to_owned()),
    }
}

/// What happens to each node.
#[derive(Debug, Clone, Copy)]
struct Task {
    goal: Goal,
    is_dry_run: bool,
    timeout: Duration,
}

/// Runs `portico migrate`. Returns whether every node reached the goal.
pub(crate) fn run(args: &MigrateArgs, out: &mut impl Write) -> anyhow::Result<bool> {
    let settings = ClusterSettings {
        kubeconfig: args.kubeconfig.clone().or_else(default_kubeconfig),
        kubectl: args.kubectl.clone(),
        namespace: args.namespace.clone(),
        daemon_set: args.kube_proxy_daemonset.clone(),
    };
    let goal = if args.back { Goal::KubeProxy } else { Goal::Portico };
    let task = Task { goal, is_dry_run: args.dry_run, timeout: Duration::from_secs(args.timeout) };
    let nodes = match &args.node {
        Some(node) => vec![node.clone()],
        None => Cluster::connect(settings.clone())?.nodes()?,
    };
    let mut moved = 0;
    for batch in nodes.chunks(args.max_unavailable.get()) {
        let failed = run_batch(&settings, batch, task, out)?;
        if failed.is_empty() {
            moved += batch.len();
            continue;
        }
        for (node, error) in &failed {
            print_error(&format!("node {node}: {error:#}"));
        }
        if !task.is_dry_run {
            write_ways(goal, &nodes[..moved], &failed[0].0, out)?;
        }
        return Ok(false);
    }
    Ok(true)
}

/// Writes how the operator continues, and the way back.
fn write_ways(goal: Goal, moved: &[String], failed: &str, out: &mut impl Write) -> anyhow::Result<()> {
    let (again, back) = match goal {
        Goal::Portico => ("", " --back"),
        Goal::KubeProxy => (" --back", ""),
    };
    writeln!(out, "to continue: portico migrate {failed}{again}")?;
    writeln!(out, "the way back: portico migrate {failed}{back}")?;
    if !moved.is_empty() {
        writeln!(out, "moved before, and as before: {}", moved.join(", "))?;
    }
    Ok(())
}

/// The kubeconfig of kubectl, unless this process runs in a pod.
fn default_kubeconfig() -> Option<PathBuf> {
    if std::env::var_os("KUBERNETES_SERVICE_HOST").is_some() {
        return None;
    }
    Some(PathBuf::from(std::env::var_os("HOME")?).join(".kube/config"))
}

/// Runs the task on some nodes at the same time, and prints what they do. Returns the nodes that failed.
fn run_batch(
    settings: &ClusterSettings,
    nodes: &[String],
    task: Task,
    out: &mut impl Write,
) -> anyhow::Result<Vec<(String, anyhow::Error)>> {
    thread::scope(|scope| {
        let (lines, printed) = channel();
        let threads: Vec<_> = nodes
            .iter()
            .map(|node| {
                let lines = lines.clone();
                (node, scope.spawn(move || run_node(settings.clone(), node, task, &lines)))
            })
            .collect();
        drop(lines);
        for line in printed {
            writeln!(out, "{line}").context("failed to write output")?;
            out.flush().context("failed to write output")?;
        }
        let mut failed = Vec::new();
        for (node, thread) in threads {
            if let Err(error) = thread.join().map_err(|_| anyhow::anyhow!("panicked")).flatten() {
                failed.push((node.clone(), error));
            }
        }
        Ok(failed)
    })
}

fn run_node(settings: ClusterSettings, node: &str, task: Task, lines: &Sender<String>) -> anyhow::Result<()> {
    let Task { goal, is_dry_run, timeout } = task;
    // The receiver is dropped if the output cannot be written; the move is not interrupted.
    let print = |line: &str| drop(lines.send(format!("{node}: {line}")));
    let cluster = Cluster::connect(settings)?;
    if is_dry_run {
        runner::dry_run(&cluster, node, goal, &print)
    } else {
        runner::run(&cluster, node, goal, timeout, &print)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn daemon_set_is_named_with_its_namespace() {
        assert_eq!(object_name("a/b"), Ok(("a".to_owned(), "b".to_owned())));
        for invalid in ["a", "/b", "a/", "a/b/c"] {
            assert!(object_name(invalid).is_err(), "{invalid}");
        }
    }
}
