//! `Report`: the state of the agent, for `portico status` and for metrics.
//!
//! The JSON form is an interface: fields may be added, but the meaning of a field must not change.

use std::collections::BTreeMap;
use std::path::PathBuf;

use agent_ipc::{AttachmentKey, PodName, ProgrammedBy};
use daemon::Histogram;
use dns_server::DnsReport;
use relay::RelayReport;
use serde::{Deserialize, Serialize};

use crate::node_portals::NodeReport;
use crate::traffic::TrafficReport;

/// Numbers of events since the agent started.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Counts {
    /// Transactions that the kernel committed.
    pub applied: u64,
    /// Jobs that failed.
    pub failed: u64,
    /// Drifted network namespaces that were reprogrammed.
    pub repairs: u64,
    /// Audits and checks of network namespaces.
    pub audits: u64,
    /// Attachments, including recovered ones.
    pub attached: u64,
    /// Attachments that ended.
    pub detached: u64,
    /// Outages of the service source.
    pub outages: u64,
    /// Addresses whose on-demand portals were activated.
    pub activated: u64,
    /// Addresses whose on-demand portals were evicted, because they were idle.
    pub evicted: u64,
    /// Services whose annotation `portico.dev/dial` is ignored.
    #[serde(default)]
    pub dial_ignored: u64,
    /// The time from a change to the kernel's acknowledgement.
    pub apply_duration_seconds: Histogram,
}

/// The upper bounds of the buckets of `Counts::apply_duration_seconds`, in seconds.
pub(crate) const APPLY_BOUNDS_S: [f64; 9] = [0.0005, 0.001, 0.005, 0.01, 0.03, 0.1, 0.3, 1.0, 10.0];

/// The audits of network namespaces.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AuditReport {
    /// The interval, in milliseconds.
    pub interval_ms: u64,
    /// The time since the last audit, in milliseconds, if there was one.
    pub last_ms: Option<u64>,
}

/// The memory of tables, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MemoryReport {
    /// The memory limit of the agent, if there is one.
    pub limit: Option<u64>,
    /// The part of the limit that the tables of pods can use.
    pub tables_max: Option<u64>,
    /// The estimated memory of the tables of all pods.
    pub tables: u64,
}

/// The state of the agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// The version of the program.
    pub version: String,
    /// The name of the node, if known.
    pub node: String,
    /// Whether the initial sync is complete.
    pub synced: bool,
    /// Why the service source cannot be read, during an outage.
    pub outage: Option<String>,
    /// The number of rejected objects.
    #[serde(default)]
    pub objects_rejected: usize,
    /// The number of services.
    pub services: usize,
    /// The views in use, by name.
    pub views: BTreeMap<String, ViewReport>,
    /// The attachments, in the order of their keys.
    pub attachments: Vec<AttachmentReport>,
    /// The attachments of pods that Portico does not serve.
    #[serde(default)]
    pub unserved: UnservedReport,
    /// The number of attachment records that could not be written yet.
    #[serde(default)]
    pub records_unwritten: usize,
    /// Numbers of events.
    pub counts: Counts,
    /// The number of refused portals, by reason.
    #[serde(default)]
    pub refused: BTreeMap<String, usize>,
    /// The memory of tables.
    #[serde(default)]
    pub memory: MemoryReport,
    /// The state of the relay.
    #[serde(default)]
    pub relay: RelayReport,
    /// The state of node portals, if they are enabled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_portals: Option<NodeReport>,
    /// The state of DNS in pods, if it is enabled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dns: Option<DnsStatus>,
    /// The audits of network namespaces.
    #[serde(default)]
    pub audit: AuditReport,
    /// Whether all tables count the hits of portals and backends.
    #[serde(default)]
    pub counters: bool,
    /// The traffic of portals, if the request asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traffic: Option<TrafficReport>,
}

impl Report {
    /// The names of pods by the inodes of their network namespaces; the container ID of a pod without a name.
    pub fn pods(&self) -> BTreeMap<u64, String> {
        let names = self.attachments.iter().map(|attachment| {
            let pod = attachment.pod.as_ref().map(ToString::to_string);
            (attachment.netns_inode, pod.unwrap_or_else(|| attachment.key.container_id.clone()))
        });
        names.collect()
    }

    /// The attachments of one pod, or of all pods. A pod is selected by namespace/name, or by a prefix of its container
    /// ID.
    pub fn attachments_of(&self, pod: Option<&str>) -> impl Iterator<Item = &AttachmentReport> {
        self.attachments.iter().filter(move |attachment| {
            let name = || attachment.pod.as_ref().map(ToString::to_string);
            pod.is_none_or(|pod| {
                name().as_deref() == Some(pod) || attachment.key.container_id.starts_with(pod)
            })
        })
    }
}

/// The state of DNS in pods.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DnsStatus {
    /// The state of the server, and of the pods that it answers.
    #[serde(flatten)]
    pub server: DnsReport,
    /// The pods that are left to the cluster's DNS servers.
    pub unserved: Vec<DnsUnservedPod>,
    /// The pods that the server could not serve. It tries again; until then the cluster's DNS servers answer.
    pub failed: Vec<DnsFailedPod>,
}

impl DnsStatus {
    /// Whether the server answers each pod that it is to answer.
    pub fn is_up_to_date(&self) -> bool {
        self.failed.is_empty() && self.server.pods.iter().all(|pod| pod.error.is_none())
    }
}

/// A pod that is left to the cluster's DNS servers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DnsUnservedPod {
    /// The inode of the network namespace.
    pub netns_inode: u64,
    /// Why the agent does not answer.
    pub reason: DnsUnservedReason,
}

/// Why a pod is left to the cluster's DNS servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DnsUnservedReason {
    /// The annotation `portico.dev/dns` of the pod or its namespace.
    Annotation,
    /// No nameserver of the pod is an address of the cluster's DNS.
    Nameservers,
    /// A service mesh redirects DNS in the pod.
    Mesh,
}

impl DnsUnservedReason {
    /// All reasons.
    pub const ALL: [Self; 3] = [Self::Annotation, Self::Nameservers, Self::Mesh];

    /// The name in JSON and in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Annotation => "annotation",
            Self::Nameservers => "nameservers",
            Self::Mesh => "mesh",
        }
    }

    /// The description in output.
    pub const fn description(self) -> &'static str {
        match self {
            Self::Annotation => "portico.dev/dns is off",
            Self::Nameservers => "no nameserver of the pod is an address of the cluster's DNS",
            Self::Mesh => "a service mesh redirects DNS in the pod",
        }
    }
}

/// A pod that the DNS server could not serve.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DnsFailedPod {
    /// The inode of the network namespace.
    pub netns_inode: u64,
    /// The error.
    pub error: String,
}

/// The maximum number of pods in `UnservedReport`.
pub(crate) const UNSERVED_LISTED_MAX: usize = 500;

/// The attachments of pods that Portico does not serve (`portico.dev/portals: off`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UnservedReport {
    /// The number of attachments.
    pub attachments: usize,
    /// The first 500 pods, by an attachment of each.
    pub pods: Vec<UnservedPod>,
}

/// A pod that Portico does not serve.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UnservedPod {
    /// One of its attachments.
    #[serde(flatten)]
    pub key: AttachmentKey,
    /// The pod, if known.
    pub pod: Option<PodName>,
}

/// The state of a view.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ViewReport {
    /// The number of the last change.
    pub revision: u64,
    /// The number of portals.
    pub portals: usize,
}

/// The portals that are programmed in a network namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProgrammedPortals {
    /// All visible portals.
    All,
    /// Portals in use.
    OnDemand,
}

impl ProgrammedPortals {
    /// The name in output.
    pub const fn name(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::OnDemand => "on-demand",
        }
    }
}

/// The state of an attachment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AttachmentReport {
    /// The network, the container and the interface.
    #[serde(flatten)]
    pub key: AttachmentKey,
    /// The pod, if known.
    pub pod: Option<PodName>,
    /// The path of the network namespace.
    pub netns: PathBuf,
    /// The inode of the network namespace.
    #[serde(default)]
    pub netns_inode: u64,
    /// The name of the view.
    pub view: String,
    /// The revision in the kernel, if known.
    pub revision: Option<u64>,
    /// The time since the oldest change that is not applied, in milliseconds; 0 if up to date.
    pub lag_ms: u64,
    /// The last error, until the attachment is up to date again.
    pub error: Option<String>,
    /// The number of repairs.
    pub repairs: u64,
    /// For how long audits skip the attachment because of repeated drift, in milliseconds; 0 if they do not.
    #[serde(default)]
    pub audit_backoff_ms: u64,
    /// Which portals are programmed.
    pub portals: ProgrammedPortals,
    /// The number of portals in the kernel.
    pub programmed: usize,
    /// Who programmed the network namespace first.
    pub programmed_by: ProgrammedBy,
}
