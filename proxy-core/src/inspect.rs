//! What a ruleset does with a packet, and why.
//!
//! This group depends on the model, routing and rulesets. No other group depends on it.

pub mod explain;
pub mod node_trace;
pub mod trace;
