//! The node agent: programs and maintains the portals of every pod on its node.
//!
//! ```text
//! source ─┐                                            ┌─► jobs in network namespaces
//! plugin ─┼─ Event ─► state (pure) ─► Effects ─ driver ┼─► replies, records, stored ruleset
//! clock ──┘                                            └─► log
//! ```
//! All decisions are made by `state`, without I/O and without a clock.

mod adopt;
mod adopt_watch;
mod allocator;
mod allowed;
mod args;
mod backoff;
mod budget;
mod cleanup;
mod demand;
mod dial;
mod driver;
mod event;
mod event_log;
mod hits;
mod http;
mod member;
mod memory_limit;
mod metrics;
mod mode_arg;
mod namespace;
mod plugin_socket;
mod pool;
mod report;
#[cfg(test)]
mod sample;
mod start;
mod state;
mod succession;
mod unwritten;
mod view;
mod wish;

pub use allowed::AllowedArgs;
pub use args::AgentArgs;
pub use hits::{BackendHits, HitsReport, PlaceHits, PortalHits, Served};
pub use mode_arg::ModeArg;
pub use report::{
    AttachmentReport, AuditReport, Counts, Histogram, MemoryReport, Programmed, Report, ViewReport,
};
pub use start::{reach, run};
