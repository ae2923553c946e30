//! `Report`: what the agent knows, for `portico status` and for metrics.
//!
//! The JSON form is an interface: fields may be added, none may change its meaning. What must not go in
//! here: how it is shown.

use std::collections::BTreeMap;
use std::path::PathBuf;

use agent_ipc::{AttachmentKey, PodName, ProgrammedBy};
use relay::RelayReport;
use serde::{Deserialize, Serialize};

use crate::traffic::TrafficReport;

/// What has happened since the agent started.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Counts {
    /// Transactions that the kernel took.
    pub applied: u64,
    /// Jobs that failed.
    pub failed: u64,
    /// Network namespaces that were found damaged and programmed anew.
    pub repaired: u64,
    /// Looks into network namespaces.
    pub audited: u64,
    /// Attachments since the start, adopted ones included.
    pub attached: u64,
    /// Attachments that ended.
    pub detached: u64,
    /// Outages of the source of services.
    pub troubles: u64,
    /// Addresses whose portals were programmed on demand.
    pub taken_in: u64,
    /// Addresses whose portals went again, because they were not used for long.
    pub let_go: u64,
    /// Services whose annotation to be dialled from the node is ignored.
    #[serde(default)]
    pub dial_ignored: u64,
    /// From a change to the kernel's yes, in seconds: how many took at most so long.
    pub apply_seconds: Histogram,
}

/// How many observations were at most so large.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Histogram {
    /// For each of `BOUNDS_S`, how many were at most that.
    pub buckets: Vec<u64>,
    /// How many there were.
    pub count: u64,
    /// Their sum.
    pub sum: f64,
}

impl Histogram {
    /// The bounds of the buckets.
    pub const BOUNDS_S: [f64; 9] = [0.0005, 0.001, 0.005, 0.01, 0.03, 0.1, 0.3, 1.0, 10.0];

    /// Counts one.
    pub fn observe(&mut self, seconds: f64) {
        self.buckets.resize(Self::BOUNDS_S.len(), 0);
        for (bucket, bound) in self.buckets.iter_mut().zip(Self::BOUNDS_S) {
            *bucket += u64::from(seconds <= bound);
        }
        self.count += 1;
        self.sum += seconds;
    }
}

/// How network namespaces are looked at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AuditReport {
    /// How often, in milliseconds.
    pub interval_ms: u64,
    /// When last, in milliseconds before now; none: not yet.
    pub last_ms: Option<u64>,
}

/// The memory of tables.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MemoryReport {
    /// The memory limit of the agent, in bytes; none: there is none.
    pub limit: Option<u64>,
    /// How much of it is for the tables of pods; none: there is no limit.
    pub tables_max: Option<u64>,
    /// How much the tables of all pods are modelled to take.
    pub tables: u64,
}

/// Everything the agent tells of itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// The program's version.
    pub version: String,
    /// The node, where it is known.
    pub node: String,
    /// Whether services and endpoints are known.
    pub synced: bool,
    /// Why the source of services cannot be read, if it cannot.
    pub trouble: Option<String>,
    /// How many objects of the API server cannot be used.
    #[serde(default)]
    pub objects_refused: usize,
    /// How many services there are.
    pub services: usize,
    /// The views in use, by name.
    pub views: BTreeMap<String, ViewReport>,
    /// The attachments, in the order of their keys.
    pub attachments: Vec<AttachmentReport>,
    /// How many records of attachments could not be written yet.
    #[serde(default)]
    pub records_unwritten: usize,
    /// What has happened.
    pub counts: Counts,
    /// How many portals are refused, by reason.
    #[serde(default)]
    pub refused: BTreeMap<String, usize>,
    /// The memory of tables.
    #[serde(default)]
    pub memory: MemoryReport,
    /// What the relay serves.
    #[serde(default)]
    pub relay: RelayReport,
    /// How network namespaces are looked at.
    #[serde(default)]
    pub audit: AuditReport,
    /// Whether the kernel counts what comes to portals and goes to backends in every table.
    #[serde(default)]
    pub counters: bool,
    /// What came to portals; none: nobody asked, or an agent that does not know it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hits: Option<TrafficReport>,
}

impl Report {
    /// The names of pods by their network namespaces; of one that is not known, its container.
    pub fn pods(&self) -> BTreeMap<u64, String> {
        let named = self.attachments.iter().map(|attachment| {
            let pod = attachment.pod.as_ref().map(ToString::to_string);
            (attachment.netns_inode, pod.unwrap_or_else(|| attachment.key.container_id.clone()))
        });
        named.collect()
    }

    /// The attachments of one pod, or all of them. A pod is meant by namespace/name, or by how the id of its
    /// container begins.
    pub fn attachments_of(&self, pod: Option<&str>) -> impl Iterator<Item = &AttachmentReport> {
        self.attachments.iter().filter(move |attachment| {
            let name = || attachment.pod.as_ref().map(ToString::to_string);
            pod.is_none_or(|pod| {
                name().as_deref() == Some(pod) || attachment.key.container_id.starts_with(pod)
            })
        })
    }
}

/// What is told of a view.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ViewReport {
    /// Counts the changes.
    pub revision: u64,
    /// How many portals it has.
    pub portals: usize,
}

/// Which portals a network namespace gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProgrammedPortals {
    /// All that it sees.
    #[serde(rename = "all")]
    All,
    /// Those that it uses.
    #[serde(rename = "on demand")]
    OnDemand,
}

impl ProgrammedPortals {
    /// The name in output.
    pub const fn name(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::OnDemand => "on demand",
        }
    }
}

/// What is told of an attachment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AttachmentReport {
    /// Which.
    #[serde(flatten)]
    pub key: AttachmentKey,
    /// The pod, where it is known.
    pub pod: Option<PodName>,
    /// Where its network namespace is.
    pub netns: PathBuf,
    /// The inode of its network namespace.
    #[serde(default)]
    pub netns_inode: u64,
    /// Which services it sees.
    pub view: String,
    /// The revision that stands in the kernel; none: not known yet.
    pub revision: Option<u64>,
    /// For how long it has been behind, in milliseconds; 0: it is not.
    pub lag_ms: u64,
    /// What went wrong last, while it is not right again.
    pub error: Option<String>,
    /// How often it was found damaged.
    pub repairs: u64,
    /// For how long audits leave it out since it was found damaged again and again, in milliseconds; 0: they do not.
    #[serde(default)]
    pub audit_backoff_ms: u64,
    /// Which portals it gets.
    pub portals: ProgrammedPortals,
    /// How many of them stand in the kernel.
    pub programmed: usize,
    /// Who programmed it first.
    pub programmer: ProgrammedBy,
}
