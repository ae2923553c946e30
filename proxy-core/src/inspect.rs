//! What a ruleset does to a packet, and why.
//!
//! This group depends on the model, routing and rulesets; only tests depend on it.

pub mod explain;
pub mod trace;
