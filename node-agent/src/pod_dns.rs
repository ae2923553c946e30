//! DNS in pods: which pods the agent's DNS server answers, and with which settings.
//!
//! ```text
//! attachments, snapshot ─► DnsState (pure, in the reconciler) ─► Effect::ServeDns, StopDns, SetZone ─► dns_server
//! ```
//! A pod is served if its nameservers include an address of the cluster's DNS. Everything else of the pod's DNS stays
//! as it is.

mod answer_report;
mod args;
mod control;
mod inspect;
mod mesh;
mod metrics;
mod selection;
mod start;
mod state;

pub use answer_report::{DnsAnswerReport, DnsLogReport, DnsQueryReport, DnsResponseReport};
pub(crate) use args::{DESCRIPTORS, DRAIN_TIMEOUT, DnsArgs};
pub(crate) use control::DnsControl;
pub(crate) use inspect::{explain_answer, read_log};
pub use mesh::has_cilium;
pub(crate) use mesh::{CHAINS_MAX, is_mesh_chain};
pub(crate) use metrics::add_dns_metrics;
pub(crate) use selection::{DnsSettings, DnsTarget};
pub(crate) use start::start_server;
pub(crate) use state::DnsState;
