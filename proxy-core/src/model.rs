//! The model: the objects of a cluster, and a snapshot of all of them.
//!
//! This is the lowest group: it depends on no other one.

pub mod address;
pub mod annotation;
pub mod digest;
pub mod dns;
pub mod endpoint;
pub mod guest;
pub mod node;
pub(crate) mod portal_key;
pub mod portals_request;
pub mod service;
pub(crate) mod sha256;
pub mod snapshot;
