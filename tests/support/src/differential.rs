//! Portico's node portals compared with kube-proxy: random clusters, and what each proxy does with every packet.
//!
//! ```text
//!                       ┌─ kube-proxy ── its tables ── interpreter ─┐
//! RandomCluster ── API ─┤                                           ├─ PacketOutcome of each Probe: equal
//!                       └─ WatchedNode ── NodeRuleset ── tracer ────┘
//! ```
//! The namespace tests run the real kube-proxy, and write a part of its outcomes to a recording. The unprivileged tests
//! compare Portico with the recording.

pub mod comparison;
pub mod deviation;
pub mod node_profile;
pub mod outcome;
pub mod probe;
pub mod random_cluster;
mod random_endpoints;
pub mod recording;
pub mod watched_node;
