//! The relay: a user-space proxy for portals, with its sockets inside each pod's network namespace.
//!
//! ```text
//! client in the pod ──► portal ── redirect ──► listener in the pod's netns ── select, dial, copy ──► backend
//!                                              (a socket of the node's agent)
//! ```
//! A rule in the pod's network namespace redirects connections to relayed portals to one port, on which the relay
//! listens there. The original destination of a connection is its portal. The relay selects a backend with the
//! portal's scheduler, and retries others until one accepts. It neither writes rules nor reads services:
//! `Relay::set_portals` passes the portals in. On the node it serves node ports at the loopback addresses likewise.

mod connection;
mod copy_bidirectional;
mod datagram_queue;
mod dial;
mod emergency_fd;
mod limits;
mod listener_sockets;
mod load_balancer;
mod netns_socket_factory;
mod permit;
mod pipe;
mod pod_relay;
mod poll_io;
mod relay;
mod report;
mod served_netns;
mod socket_pool;
mod stall;
mod udp_listener;
mod udp_session;
mod udp_socket;
mod worker;

pub use relay::{Error, Options, PortalUse, Relay};
pub use report::{BackendReport, NetnsReport, PortalReport, RefusalCounts, RelayReport, TrafficTotals};
