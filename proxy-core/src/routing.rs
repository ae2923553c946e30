//! Routing: which portals a service has, and which backend a connection to one reaches.
//!
//! It depends on the model only.

pub mod endpoint_selection;
pub mod portal;
pub mod scheduler;
