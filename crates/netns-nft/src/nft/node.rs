//! The table of the node's own network namespace: `proxy_core::ruleset::node` as netlink messages, and back.
//!
//! ```text
//! names ◄── sets, schema, masquerade ◄── encode
//! element ◄─ decode ◄── read
//! ```

pub(crate) mod decode;
pub(crate) mod element;
pub(crate) mod encode;
pub(crate) mod masquerade;
pub(crate) mod names;
pub(crate) mod read;
pub(crate) mod schema;
pub(crate) mod sets;
