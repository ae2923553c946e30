//! In-pod DNS, without input and output: time, randomness and messages are arguments.
//!
//! ```text
//! query ── message ──► Query ── Zone::answer ──► the response: a name of the cluster
//!                                    └─► the name of another zone: forwarded to an upstream
//! Snapshot ── Zone::refresh ──► Zone: the names of the cluster at one revision
//! ```
//! Names of the cluster are answered from the same snapshot as the rules, never from a cache. They follow the
//! specification of DNS-based service discovery (kubernetes/dns, docs/specification.md, version 1.1.0).

mod client;
mod message;

pub use client::Client;
pub use message::{
    Edns, HEADER_LEN, LABEL_BYTES_MAX, Malformed, NAME_BYTES_MAX, Name, Owner, Query, Rcode, RecordData,
    RecordType, Response, Section, TCP_BYTES_MAX, Transport, UDP_BYTES_MAX, write_error, write_rejection,
};
