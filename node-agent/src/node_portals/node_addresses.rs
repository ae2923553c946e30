//! The addresses at which node ports are served.
//!
//! `follow_addresses` sends the addresses of this network namespace whenever they change. `NodePortAddresses`, the value
//! of `--nodeport-addresses`, selects those of node ports, without I/O:
//!
//! ```text
//! let selection: NodePortAddresses = args.node_port_addresses.iter().copied().collect();
//! tokio::spawn(follow_addresses(move |local| send(Message::Addresses(local))));
//! selection.select(&node, &local)       // again if the node object or `local` changed
//! selection.has_localhost(Family::V4)   // whether the loopback listener serves node ports
//! ```

mod address_selection;
mod address_watch;

pub use address_selection::{AddressSelector, NodePortAddresses};
pub use address_watch::{NODE_ADDRESSES_MAX, follow_addresses};
