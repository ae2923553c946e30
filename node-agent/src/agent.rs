//! The agent: keeps the portals of every pod on this node right.
//!
//! ```text
//! source ─┐                                            ┌─► jobs in network namespaces
//! plugin ─┼─ Event ─► state (pure) ─► Effects ─ driver ┼─► answers, records, stored ruleset
//! clock ──┘                                            └─► log
//! ```
//! What must not go in here: decisions; they are `state`'s.

mod adopt;
mod adopt_watch;
mod allocator;
mod args;
mod backoff;
mod budget;
mod cleanup;
mod demand;
mod dial;
mod driver;
mod event;
mod hits;
mod http;
mod log;
mod member;
mod memory_limit;
mod metrics;
mod namespace;
mod plugin_socket;
mod pool;
mod report;
#[cfg(test)]
mod sample;
mod start;
mod state;
mod stop;
mod succession;
mod unwritten;
mod view;
mod wish;

pub(crate) use args::{AgentArgs, LogFormat};
pub(crate) use hits::{BackendHits, PortalHits, Served};
#[cfg(test)]
pub(crate) use hits::{HitsReport, PlaceHits};
pub(crate) use log::start as start_log;
pub(crate) use report::{AttachmentReport, Report};
pub(crate) use start::{reach, run};
pub(crate) use stop::Stop;
