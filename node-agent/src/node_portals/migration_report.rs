//! `MigrationReport`: what a node says about its move between kube-proxy and Portico, for `portico migrate`.
//!
//! The JSON form is an interface: fields may be added, but the meaning of a field must not change.

use serde::{Deserialize, Serialize};

/// The state of the node between kube-proxy and Portico. Only in the mode `label`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MigrationReport {
    /// The label `portico.dev/service-proxy` of the node; `kube-proxy` without a label, empty before the node is known.
    pub label: String,
    /// Whether the node has the desired table.
    pub serving: bool,
    /// Why the node still has its table although the label excludes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kept: Option<String>,
    /// Why the anchor table is kept without the node's table.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub anchor_kept: Option<String>,
    /// The kube-proxy on the node.
    pub kube_proxy: KubeProxyReport,
    /// Other programs that serve services, or that change rules.
    pub others: Vec<String>,
    /// The result of the last request to verify the node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verification: Option<VerificationReport>,
    /// The result of the last request to remove the rules of kube-proxy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule_removal: Option<RuleRemovalReport>,
}

/// The kube-proxy on a node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct KubeProxyReport {
    /// Whether it responds.
    pub running: bool,
    /// Whether it has programmed all families.
    pub synced: bool,
    /// Its mode, if it responds at the port of its metrics: `iptables`, `nftables` or `ipvs`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    /// Its rules in nf_tables; empty if there are none.
    pub rules: String,
    /// The tables of iptables that are not in nf_tables (iptables-legacy). They can contain its rules.
    pub legacy_tables: Vec<String>,
    /// Whether it has services in IPVS.
    pub ipvs: bool,
    /// The number of established connections of IPVS.
    pub ipvs_connections: usize,
}

/// The result of connections from the node to services.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct VerificationReport {
    /// The text of the request.
    pub request: String,
    /// Whether the node had its table.
    pub serving: bool,
    /// Why the table of the node does not translate these connections.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// The connections.
    pub connections: Vec<ConnectionReport>,
}

/// A connection from the node to a service.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ConnectionReport {
    /// The service, as namespace/name.
    pub service: String,
    /// The address and port.
    pub portal: String,
    /// The backend to which the kernel translated the connection, if it did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backend: Option<String>,
    /// Why there was no connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// The result of removing the rules of kube-proxy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RuleRemovalReport {
    /// The text of the request.
    pub request: String,
    /// The removed rules; empty if there were none.
    pub removed: String,
    /// Why nothing was removed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// Whether the agent tries again, because the problem can end.
    pub retrying: bool,
}
