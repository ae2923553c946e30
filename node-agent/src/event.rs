//! `Event` and `Effect`: the inputs and outputs of the reconciler.
//!
//! The reconciler is a state machine without I/O and without a clock. The event loop turns requests, changes of
//! services, results of jobs and timers into events, and executes the effects that the reconciler returns.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use agent_ipc::{Attachment, AttachmentKey, Record, Reply};
use dns::Zone;
use ipnet::IpNet;
use netns_nft::NetnsId;
use proxy_core::guest::GuestInterfaces;
use proxy_core::portal::{PortalKey, Portals, RefusalReason, ServiceFilter};
use proxy_core::ruleset::Ruleset;
use proxy_core::service::ServiceKey;

use crate::node_portals::NodeEvent;
use crate::pod_dns::DnsTarget;
use crate::thread_pools::WorkKind;
use crate::view::EncodedBatch;

/// Identifies a request that waits for a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RequestId(pub(crate) u64);

/// An input of the reconciler.
#[derive(Debug)]
pub(crate) enum Event {
    /// An event of the service source.
    Source(kube_source::Event),
    /// The plugin attaches a pod. Its netns is open.
    Attach(RequestId, Attachment, NetnsId),
    /// An attachment was found in a record or in the CNI cache. Its netns is open.
    Recover(Record),
    /// The plugin detaches a pod.
    Detach(RequestId, AttachmentKey),
    /// The plugin asks whether a netns is up to date.
    Check(RequestId, NetnsId),
    /// The plugin lists the remaining attachments of a network.
    Gc(RequestId, String, Vec<AttachmentKey>),
    /// The plugin asks whether the agent can attach pods.
    Ready(RequestId),
    /// A netns no longer exists: its pod was deleted.
    NetnsGone(NetnsId),
    /// A job made the relay listen in a netns, or failed to, for this reason. In that case the job does nothing else.
    RelayListening(NetnsId, Option<String>),
    /// A job in a netns ended.
    JobDone(NetnsId, Outcome),
    /// A record was written (true), or could not be written (false).
    RecordWritten(Box<Record>, bool),
    /// The relay received the first connection of a netns to this portal.
    PortalUsed(NetnsId, PortalKey),
    /// A clean-up of UDP conntrack entries ended. True if it is complete, or if a retry cannot help.
    CleanupDone(NetnsId, bool),
    /// The DNS server cannot serve a netns, for this reason.
    DnsFailed(NetnsId, String),
    /// Whether a service mesh redirects DNS in a netns.
    Mesh(NetnsId, bool),
    /// Time has passed.
    Tick,
}

/// An output of the reconciler. Effects are executed in order.
#[derive(Debug)]
pub(crate) enum Effect {
    /// Run a job in a netns. Its outcome returns as `Event::JobDone`.
    Run(NetnsId, Job),
    /// Delete conntrack entries of UDP flows to other backends than these. The end returns as `Event::CleanupDone`.
    DeleteStaleUdp(NetnsId, UdpBackends),
    /// Reply to a request.
    Reply(RequestId, Reply),
    /// Write the record of an attachment.
    WriteRecord(Record),
    /// Remove the record of an attachment.
    RemoveRecord(AttachmentKey),
    /// Drop the handle of a netns.
    CloseNetns(NetnsId),
    /// Find deleted network namespaces and unknown attachments.
    Sweep,
    /// Store the ruleset of all services for the plugin, which uses it while no agent is running.
    StoreRuleset(StoredRuleset),
    /// Update the portals of a view in the relay.
    SetRelayPortals(ServiceFilter, Portals),
    /// Remove an unused view from the relay.
    RemoveRelayView(ServiceFilter),
    /// Pass changes on to node portals.
    UpdateNode(NodeEvent),
    /// Replace the names of the cluster.
    SetZone(Box<Zone>),
    /// Answer the DNS queries of a netns. A failure returns as `Event::DnsFailed`.
    ServeDns(NetnsId, DnsTarget),
    /// Leave the DNS queries of a netns to the cluster's DNS servers.
    StopDns(NetnsId),
    /// Write a log message.
    Log(LogEvent),
}

/// UDP portals, and the backends to which their flows may lead.
pub(crate) type UdpBackends = Arc<BTreeMap<PortalKey, Arc<[SocketAddr]>>>;

/// The number of connections to each portal of an on-demand table.
pub(crate) type HitCounts = BTreeMap<PortalKey, u64>;

/// The ruleset that the plugin uses while no agent is running.
#[derive(Debug)]
pub(crate) struct StoredRuleset {
    pub(crate) revision: u64,
    pub(crate) ranges: Arc<[IpNet]>,
    pub(crate) ruleset: Ruleset,
}

/// An interface of a pod and its addresses. Service addresses without a route are routed over it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Egress {
    pub(crate) interface: String,
    pub(crate) addresses: Vec<IpAddr>,
}

/// A job in a netns.
#[derive(Debug)]
pub(crate) struct Job {
    /// The thread pool that runs it.
    pub(crate) kind: WorkKind,
    /// The routes to ensure first: the interfaces, and the service ranges.
    pub(crate) routes: Option<(Vec<Egress>, Arc<[IpNet]>)>,
    /// The view for which the relay must listen in the netns first.
    pub(crate) relay: Option<ServiceFilter>,
    /// The interfaces of the pod behind which guests are.
    pub(crate) guests: GuestInterfaces,
    pub(crate) operation: Operation,
}

/// The main part of a job.
#[derive(Debug, Clone)]
pub(crate) enum Operation {
    /// Send a transaction.
    Apply(Arc<EncodedBatch>),
    /// Verify that the table equals this ruleset. With a generation: only if the kernel has another generation.
    Verify(Ruleset, Option<u32>),
    /// Read the hits of on-demand portals. The table has at most this number of portals.
    CountHits(usize),
    /// Nothing: the job only ensures routes, or makes the relay listen.
    RoutesOnly,
}

/// The outcome of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The kernel committed the transaction. The generation is known unless another process changed the ruleset at
    /// the same time.
    Applied(Option<u32>),
    /// The table is up to date.
    Matches(Option<u32>),
    /// The table differs from the desired state, in this way.
    Drifted(String),
    /// The hits of on-demand portals.
    Counted(HitCounts),
    /// The relay cannot listen in the netns; the operation was not started.
    RelayUnavailable,
    /// The job failed and changed nothing.
    Failed {
        message: String,
        /// Whether a retry can succeed.
        transient: bool,
    },
}

/// An event of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LogEvent {
    /// The initial sync is complete.
    Synced { services: usize, portals: usize },
    /// A revision was applied to all network namespaces of its view.
    Applied {
        revision: u64,
        view: String,
        namespaces: usize,
        failed: usize,
        operations: usize,
        took: Duration,
    },
    /// A pod was attached.
    Attached { attachment: AttachmentKey, pod: Option<String>, how: &'static str },
    /// An attachment ended.
    Detached { attachment: AttachmentKey, why: &'static str },
    /// The operator should check the configuration of a network.
    SuspiciousConfig { attachment: AttachmentKey, what: String },
    /// A netns differs from the desired state and is programmed again. With a back-off, audits skip it for that time.
    Drift { netns: NetnsId, why: String, backoff: Option<Duration> },
    /// The on-demand mode is unavailable, for this reason; all portals are programmed.
    OnDemandUnavailable(&'static str),
    /// Portals of a service are refused: the reasons, and the number of portals for each.
    PortalsRefused { service: ServiceKey, reasons: Vec<(RefusalReason, usize)> },
    /// Pods with full tables were switched to on-demand portals, because tables exceed their memory budget.
    MovedOnDemand { pods: usize, used_bytes: usize, max_bytes: usize },
    /// The DNS server cannot serve a netns, which uses the cluster's DNS servers.
    DnsFailed { netns: NetnsId, error: String },
    /// The relay cannot listen in a netns. Relayed portals refuse connections there, all others work.
    RelayUnavailable { netns: NetnsId, message: String },
    /// The annotation that makes the relay dial backends of this service from the node is ignored.
    DialIgnored(ServiceKey),
    /// A job failed and will be retried.
    JobFailed { netns: NetnsId, message: String, retry_in: Duration },
    /// The service source cannot be read.
    SourceOutage(String),
    /// The service source can be read again.
    SourceRecovered,
    /// An object was rejected; its last valid state stays in effect.
    ObjectRejected { reason: String, count: usize },
}
