//! The kernel side of Portico: a plan becomes one nf_tables netlink transaction in a network namespace, all
//! or nothing, and what a network namespace holds is read back as a value.
//!
//! ```text
//! Plan ── encode ──► Batch (bytes, the same for every namespace) ── Socket::apply ──► kernel
//!                                                    TableState ◄── Socket::read_table ────────────┘
//! ```
//! Synchronous, without an `nft` binary and without tokio: the CNI plugin uses it as it is. Nothing here
//! knows what a service is.

mod attribute;
mod conntrack;
mod encode;
mod error;
mod expression;
mod kernel;
mod layout;
mod netns;
mod read;
mod route;
mod shape;
mod socket;
mod stored;

pub use encode::{Batch, encode, encode_fresh};
pub use error::Error;
pub use netns::{Netns, NetnsId};
pub use read::{Counters, Limits, TableState, read_recorded, recorded_replies};
pub use route::{add_service_routes, has_route};
pub use socket::Socket;
pub use stored::{RulesetSnapshot, SnapshotError};
