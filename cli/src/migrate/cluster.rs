//! `Cluster`: observes a node by the API server and its agent, and executes the steps of its move.
//!
//! The agent serves its status only on the node, so it is read as an operator would: `kubectl exec` in the agent's pod.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, bail};
use kube_source::ObjectClient;
use node_agent::MigrationReport;
use proxy_core::annotation::{REMOVE_KUBE_PROXY_RULES, SERVICE_PROXY, VERIFY_NODE};
use proxy_core::node::ServiceProxy;
use serde_json::{Value, json};
use tokio::runtime::{Builder, Runtime};

use crate::migrate::affinity::{avoiding_portico, avoids_portico};
use crate::migrate::observation::{Observation, ProxyDaemonSet, ProxyPod};
use crate::migrate::plan::{Migration, Step};

const NODES: &str = "/api/v1/nodes";
/// The labels of the agent's pods in the chart.
const AGENT_LABELS: &str = "app.kubernetes.io/component=agent";
const NO_LABEL_MODE: &str = "node portals are not in the mode label; set agent.nodePortals.enabled=true and \
                             agent.nodePortals.mode=label in the chart";

/// How the cluster is reached, and the names in it.
#[derive(Debug, Clone)]
pub(super) struct ClusterSettings {
    pub(super) kubeconfig: Option<PathBuf>,
    pub(super) kubectl: PathBuf,
    /// The namespace of the agents.
    pub(super) namespace: String,
    /// The namespace and the name of kube-proxy's DaemonSet.
    pub(super) daemon_set: (String, String),
}

/// A cluster. Each thread has its own.
#[derive(Debug)]
pub(super) struct Cluster {
    settings: ClusterSettings,
    client: ObjectClient,
    runtime: Runtime,
}

impl Cluster {
    pub(super) fn connect(settings: ClusterSettings) -> anyhow::Result<Self> {
        let runtime =
            Builder::new_current_thread().enable_all().build().context("failed to start runtime")?;
        let client = runtime.block_on(ObjectClient::new(settings.kubeconfig.as_deref()))?;
        Ok(Self { settings, client, runtime })
    }

    /// The names of all nodes, in order.
    pub(super) fn nodes(&self) -> anyhow::Result<Vec<String>> {
        let nodes = self.list(NODES, "", "")?;
        let mut names: Vec<String> = nodes.iter().map(|node| text(&node["metadata"]["name"])).collect();
        names.sort();
        Ok(names)
    }

    /// Observes a node.
    pub(super) fn observe(&self, name: &str) -> anyhow::Result<Observation> {
        let nodes = self.list(NODES, "", &format!("metadata.name={name}"))?;
        let Some(node) = nodes.first() else { bail!("node {name} not found") };
        let label = node["metadata"]["labels"].get(SERVICE_PROXY.key).and_then(Value::as_str);
        let label = label.map_or(Ok(ServiceProxy::KubeProxy), |value| {
            ServiceProxy::parse(value).ok_or_else(|| value.to_owned())
        });
        let agent = self.agent_report(name).map_err(|error| format!("{error:#}"));
        Ok(Observation { label, agent, daemon_set: self.proxy_daemon_set(name)? })
    }

    /// Executes a step that changes something.
    pub(super) fn execute(&self, node: &str, migration: &Migration, step: &Step) -> anyhow::Result<()> {
        match step {
            Step::SetLabel(label) => {
                let value = (*label != ServiceProxy::KubeProxy).then(|| label.name());
                // An interrupted call can have left a request, which would remove the rules of a kube-proxy that starts.
                let requests = json!({REMOVE_KUBE_PROXY_RULES.key: null});
                self.patch_node(node, &json!({"labels": {SERVICE_PROXY.key: value}, "annotations": requests}))
            }
            Step::Verify(phase, attempt) => {
                let request = migration.verification_request(*phase, *attempt);
                self.patch_node(node, &json!({"annotations": {VERIFY_NODE.key: request}}))
            }
            Step::RemoveRules => {
                let request = migration.removal_request();
                self.patch_node(node, &json!({"annotations": {REMOVE_KUBE_PROXY_RULES.key: request}}))
            }
            Step::ExcludeFromDaemonSet => self.exclude_from_daemon_set(),
            Step::Wait(_) | Step::Done | Step::Stop(_) => Ok(()),
        }
    }

    /// Removes the requests from a node.
    pub(super) fn clear_requests(&self, node: &str) -> anyhow::Result<()> {
        let annotations = json!({VERIFY_NODE.key: null, REMOVE_KUBE_PROXY_RULES.key: null});
        self.patch_node(node, &json!({"annotations": annotations}))
    }

    fn list(&self, path: &str, labels: &str, fields: &str) -> anyhow::Result<Vec<Value>> {
        Ok(self.runtime.block_on(self.client.list(path, labels, fields))?)
    }

    fn patch_node(&self, node: &str, metadata: &Value) -> anyhow::Result<()> {
        let patch = json!({"metadata": metadata});
        self.runtime.block_on(self.client.merge_patch(&format!("{NODES}/{node}"), &patch))?;
        Ok(())
    }

    fn daemon_set(&self) -> anyhow::Result<Option<Value>> {
        let (namespace, name) = &self.settings.daemon_set;
        let path = format!("/apis/apps/v1/namespaces/{namespace}/daemonsets");
        Ok(self.list(&path, "", &format!("metadata.name={name}"))?.into_iter().next())
    }

    fn proxy_daemon_set(&self, node: &str) -> anyhow::Result<Option<ProxyDaemonSet>> {
        let Some(daemon_set) = self.daemon_set()? else { return Ok(None) };
        let (namespace, name) = &self.settings.daemon_set;
        let is_owned = |pod: &&Value| {
            let owners = pod["metadata"]["ownerReferences"].as_array().into_iter().flatten();
            owners.into_iter().any(|owner| owner["kind"] == "DaemonSet" && owner["name"] == **name)
        };
        let pods = self.pods(namespace, "", node)?;
        let pods: Vec<&Value> = pods.iter().filter(is_owned).collect();
        let pod = match (pods.is_empty(), pods.iter().any(|pod| is_ready(pod))) {
            (true, _) => ProxyPod::Absent,
            (false, true) => ProxyPod::Ready,
            (false, false) => ProxyPod::NotReady,
        };
        let affinity = &daemon_set["spec"]["template"]["spec"]["affinity"];
        Ok(Some(ProxyDaemonSet { avoids_portico: avoids_portico(affinity), pod }))
    }

    fn exclude_from_daemon_set(&self) -> anyhow::Result<()> {
        let (namespace, name) = &self.settings.daemon_set;
        let daemon_set =
            self.daemon_set()?.with_context(|| format!("DaemonSet {namespace}/{name} not found"))?;
        let affinity = avoiding_portico(&daemon_set["spec"]["template"]["spec"]["affinity"]);
        // With the version, so that a concurrent change is not overwritten.
        let patch = json!({"metadata": {"resourceVersion": daemon_set["metadata"]["resourceVersion"]},
            "spec": {"template": {"spec": {"affinity": affinity}}}});
        let path = format!("/apis/apps/v1/namespaces/{namespace}/daemonsets/{name}");
        self.runtime.block_on(self.client.merge_patch(&path, &patch))?;
        Ok(())
    }

    /// The pods of a namespace on a node.
    fn pods(&self, namespace: &str, labels: &str, node: &str) -> anyhow::Result<Vec<Value>> {
        let path = format!("/api/v1/namespaces/{namespace}/pods");
        self.list(&path, labels, &format!("spec.nodeName={node}"))
    }

    fn agent_report(&self, node: &str) -> anyhow::Result<MigrationReport> {
        let ClusterSettings { kubeconfig, kubectl, namespace, .. } = &self.settings;
        let pods = self.pods(namespace, AGENT_LABELS, node)?;
        let pod = pods.iter().find(|pod| is_ready(pod));
        let pod = pod.with_context(|| format!("no pod of the agent in namespace {namespace} is ready"))?;
        let mut command = Command::new(kubectl);
        if let Some(kubeconfig) = kubeconfig {
            command.arg("--kubeconfig").arg(kubeconfig);
        }
        command.args(["--request-timeout=30s", "--namespace", namespace, "exec"]);
        command.arg(text(&pod["metadata"]["name"]));
        command.args(["--container", "agent", "--", "/portico", "status", "--output", "json"]);
        let output = command.output().with_context(|| format!("failed to start {}", kubectl.display()))?;
        // The exit code of `portico status` is 1 if a pod is not up to date.
        let Ok(report) = serde_json::from_slice::<Value>(&output.stdout) else {
            let error = String::from_utf8_lossy(&output.stderr);
            bail!("failed to read the status of the agent by kubectl exec: {}", error.trim());
        };
        let migration = &report["nodePortals"]["migration"];
        if migration.is_null() {
            bail!(NO_LABEL_MODE);
        }
        serde_json::from_value(migration.clone()).context("unexpected status of the agent")
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn is_ready(pod: &Value) -> bool {
    let mut conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    let is_ready = conditions.any(|condition| condition["type"] == "Ready" && condition["status"] == "True");
    is_ready && pod["metadata"]["deletionTimestamp"].is_null()
}
