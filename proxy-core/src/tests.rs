//! Property tests of the whole core, from the snapshot to the plan, on random clusters and changes.
//!
//! `generators` generates clusters and changes, `oracle` is an independent model of kube-proxy, and `properties` and
//! `on_demand` state what holds for all of them.

mod generators;
mod on_demand;
mod oracle;
mod properties;
