//! The kernel side of Portico: a plan becomes one nf_tables netlink transaction in a network namespace, all
//! or nothing, and what a network namespace holds is read back as a value.
//!
//! ```text
//! Plan ── encode ──► Batch (bytes, the same for every namespace) ── Socket::apply ──► kernel
//!                                                    Found ◄── Socket::find ────────────┘
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
pub use read::{Counted, Found, Limits, answers_of, found_in};
pub use route::{has_route, route_services};
pub use socket::Socket;
pub use stored::{Stored, StoredError};
