//! Portals that are served in user space: the first design of Kubernetes services, inside the pod.
//!
//! ```text
//! client in the pod ──► portal ── redirect ──► listener in the pod's netns ── choose, dial, copy ──► backend
//!                                              (held by the node's agent)
//! ```
//! A rule in the pod's network namespace sends connections to relayed portals to one port, on which the relay
//! listens there; by the original destination it knows the portal. It tries one backend after the other until one
//! answers. What must not go in here: rules, and where services come from.

mod account;
mod connection;
mod datagram;
mod dial;
mod exchange;
mod flow;
mod limits;
mod listen;
mod lock;
mod opener;
mod pipe;
mod place;
mod queue;
mod ready;
mod relay;
mod report;
mod reserve;
mod seat;
mod stall;
mod udp;
mod worker;

pub use relay::{Error, Options, PortalUse, Relay};
pub use report::{BackendReport, NetnsReport, PortalReport, RefusalCounts, RelayReport, TrafficTotals};
