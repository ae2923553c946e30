//! In-pod DNS, without input and output: time, randomness and messages are arguments.
//!
//! ```text
//! query ── message ──► Query ── Zone::answer ──► the response: a name of the cluster
//!                                    └─► the name of another zone: forwarded to an upstream
//! Snapshot ── Zone::refresh ──► Zone: the names of the cluster at one revision
//! ```
//! Names of the cluster are answered from the same snapshot as the rules, never from a cache. They follow the
//! specification of DNS-based service discovery (kubernetes/dns, docs/specification.md, version 1.1.0).

mod answer;
mod client;
mod explain;
mod message;
mod zone;

pub use answer::{Answered, Existence, External};
pub use client::Client;
pub use explain::Explanation;
pub use message::{
    Edns, HEADER_LEN, LABEL_BYTES_MAX, Malformed, NAME_BYTES_MAX, Name, Query, Rcode, RecordType,
    TCP_BYTES_MAX, Transport, UDP_BYTES_MAX, encode_query, write_error, write_rejection,
};
pub use zone::{TTL_DEFAULT_S, Zone, ZoneConfig};
