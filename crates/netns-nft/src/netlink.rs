//! Netlink: constants of the kernel, messages and attributes, batches of nf_tables, and the sockets.
//!
//! These modules know the form of messages; the table and its elements are in `nft`.

pub(crate) mod attributes;
pub(crate) mod batch;
pub(crate) mod membership;
pub(crate) mod multicast;
pub(crate) mod socket;
pub(crate) mod uapi;
