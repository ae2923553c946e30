//! The node agent: programs and maintains the portals of every pod on its node.
//!
//! ```text
//! services ─┐                                               ┌─► jobs in network namespaces
//! plugin ───┼─ Event ─► Reconciler (pure) ─► Effects ─ EventLoop ┼─► replies, records, stored ruleset
//! timers ───┘                                               └─► log
//! ```
//! The reconciler makes all decisions, without I/O and without a clock. The event loop executes its effects.

mod allocator;
mod allowed;
mod args;
mod audit_backoff;
mod budget;
mod cni_watch;
mod dial_from_node;
mod event;
mod event_log;
mod event_loop;
mod handover;
mod http;
mod memory_limit;
mod message;
mod metrics;
mod mode_arg;
mod netns_state;
mod netns_worker;
pub mod node_portals;
mod on_demand;
mod pod_dns;
mod reconciler;
mod record_retries;
mod recovery;
mod report;
mod reporter;
mod rpc_server;
mod run;
#[cfg(test)]
mod test_builders;
mod thread_pools;
mod traffic;
mod udp_cleanup;
mod view;
mod view_name;

pub use allowed::AllowedArgs;
pub use args::AgentArgs;
pub use dns_server::{DnsPodReport, DnsReport};
pub use mode_arg::ModeArg;
pub use node_portals::{
    ConflictReport, ConnectionReport, HealthCheckPort, KubeProxyReport, MigrationReport, NodeReport,
    NodeSettingsReport, RuleRemovalReport, VerificationReport,
};
pub use pod_dns::{DnsAnswerReport, DnsLogReport, DnsQueryReport, DnsResponseReport, has_cilium};
pub use report::{
    AttachmentReport, AuditReport, Counts, DnsFailedPod, DnsStatus, DnsUnservedPod, DnsUnservedReason,
    MemoryReport, ProgrammedPortals, Report, UnservedPod, UnservedReport, ViewReport,
};
pub use run::{probe_api_server, run};
pub use traffic::{BackendHits, NetnsTraffic, PortalHits, ServedBy, TrafficReport};
