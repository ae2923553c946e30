//! The kernel side of Portico: applies a plan as one nf_tables transaction in a network namespace, and reads the table
//! back as a value.
//!
//! ```text
//! Plan ── encode ──► Batch (bytes, the same for every namespace) ── Socket::apply ──► kernel
//!                                       TableState ◄── Socket::read_table ──────────────┘
//! ```
//! The crate is synchronous and needs neither an `nft` binary nor tokio, because the CNI plugin uses it as well. It
//! does not know services.

mod conntrack;
mod error;
mod netlink;
mod netns;
mod nft;
mod route;

pub use error::Error;
pub use netlink::batch::{Batch, BatchOp};
pub use netlink::socket::Socket;
pub use netns::{Netns, NetnsId, enter_netns};
pub use nft::anchor::Anchor;
pub use nft::chain_list::ChainSummary;
pub use nft::counters::Counters;
pub use nft::dns_table::{DNS_ARMED_TIME, DNS_BYPASS_PRIORITY, DnsRedirect, DnsTable, DnsTableSettings};
pub use nft::encode::{encode, encode_fresh};
pub use nft::generation_span::{GenerationRuns, GenerationSpan};
pub use nft::kube_proxy::KubeProxyRules;
pub use nft::monitor::{Changes, Monitor, TableChange};
pub use nft::node::encode::{encode_node, encode_node_fresh};
pub use nft::node::names::NODE_TABLE;
pub use nft::node::read::NodeTableState;
pub use nft::read::{Limits, TableState, read_recorded, recorded_replies};
pub use nft::snapshot_file::{RulesetSnapshot, SnapshotError};
pub use route::{add_node_routes, add_service_routes, has_route, ranges_of_others};
