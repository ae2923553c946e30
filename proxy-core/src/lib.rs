//! The pure core of Portico: values and functions, no IO, no clock, no chance.
//!
//! ```text
//! Change* -> Snapshot -> portals(&snapshot, &standpoint) -> Portals -> Ruleset -> plan(&applied, &desired) -> Plan
//!               └─────── environment(&snapshot, namespace) -> variables
//! ```
//! What changed is carried along as keys (`Changed`, then `Touched`), so that a change costs the change
//! and not the cluster. Reading objects is `kube-source`'s work, talking to the kernel `netns-nft`'s.

pub mod address;
pub mod annotation;
mod base64;
mod digest;
pub mod endpoint;
pub mod env;
pub mod explain;
pub mod guest;
pub mod inject;
pub mod iptables;
pub mod nft;
pub mod node;
pub mod pick;
pub mod plan;
pub mod portal;
pub mod review;
pub mod ruleset;
#[cfg(any(test, feature = "sample"))]
pub mod sample;
pub mod schedule;
pub mod select;
pub mod service;
mod sha256;
pub mod snapshot;
pub mod table;
pub mod trace;
