//! Portals in the node's network namespace: for traffic that arrives from outside, and for the node's own processes.
//!
//! The parts do not depend on each other. `node_addresses` follows the addresses at which node ports are served, and
//! `health_check` answers load balancers and tools.

pub mod health_check;
pub mod node_addresses;
