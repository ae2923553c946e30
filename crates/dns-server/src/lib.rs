//! The DNS server of the node agent: answers the queries of pods on sockets inside their network namespaces.
//!
//! ```text
//! client in the pod ─► DNS address ─ table, armed for 10 s ─► socket of the agent in the pod's netns ─► worker thread
//!                          │ not armed                                        Resolver: zone, cache, upstreams ◄┘
//!                          └─► portal of the cluster's DNS
//! ```
//! Worker threads renew the redirect of each pod as long as they answer; the kernel removes the table of a pod if this
//! process ends. Which answer a query gets is decided in the crate `dns`, without I/O.

mod arming;
mod asked;
mod command;
mod datagram_batch;
mod handover;
mod pod_sockets;
mod probe;
mod report;
mod served_pod;
mod server;
mod slab;
mod tcp_connection;
mod upstream_socket;
mod worker;

pub use asked::Asked;
pub use pod_sockets::OpenError;
pub use report::{DnsPodReport, DnsReport};
pub use server::{DnsPod, DnsServer, Options};
