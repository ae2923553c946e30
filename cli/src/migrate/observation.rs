//! `Observation`: what is known about a node while it moves between kube-proxy and Portico.
//!
//! A move keeps no state of its own: every call continues from what it observes.

use node_agent::MigrationReport;
use proxy_core::node::ServiceProxy;

/// The pod of kube-proxy's DaemonSet on the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ProxyPod {
    /// There is no such pod.
    Absent,
    /// It exists and is not ready, or is being deleted.
    NotReady,
    /// It is ready.
    Ready,
}

/// kube-proxy's DaemonSet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ProxyDaemonSet {
    /// Whether its pods avoid nodes with the label `portico`.
    pub(super) avoids_portico: bool,
    /// The pod on the node.
    pub(super) pod: ProxyPod,
}

/// A node at one time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Observation {
    /// The label of the node; the text if it is not valid.
    pub(super) label: Result<ServiceProxy, String>,
    /// The agent's report, or why it is not available.
    pub(super) agent: Result<MigrationReport, String>,
    /// `None` if the cluster has no such DaemonSet, as with an embedded or static kube-proxy.
    pub(super) daemon_set: Option<ProxyDaemonSet>,
}
