//! The core of Portico: values and pure functions, without I/O, clocks and randomness.
//!
//! ```text
//! Change* -> Snapshot -> portals(&snapshot, &node_context) -> Portals -> Ruleset -> plan(&applied, &desired) -> Plan
//!               └─────── environment(&snapshot, namespace) -> variables
//! ```
//! Changes travel along this pipeline as sets of keys (`ChangedServices`, then `ChangedPortals`), so the cost of a change
//! depends on its size and not on the size of the cluster. `kube-source` reads objects, and `netns-nft` programs the
//! kernel.
//!
//! The modules are in groups, each of which depends only on groups before it: `model`, `routing`, `ruleset`, then
//! `render` and `inspect`; `env` depends on `model`, and `admission` on `env`. Other crates use the modules
//! without the name of their group.

pub mod admission;
pub mod env;
mod inspect;
mod model;
mod render;
mod routing;
pub mod ruleset;
#[cfg(any(test, feature = "sample"))]
pub mod sample;
#[cfg(test)]
mod tests;

pub use inspect::{explain, node_trace, trace};
pub use model::{
    address, annotation, digest, dns, endpoint, guest, node, portals_request, service, snapshot,
};
pub use render::{iptables, nft, node_nft};
pub use routing::{endpoint_selection, portal, scheduler};
pub use ruleset::{dispatch, kernel_model, plan};
