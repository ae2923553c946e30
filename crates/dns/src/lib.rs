//! In-pod DNS, without input and output: time, randomness and messages are arguments.
//!
//! ```text
//! Resolver::query ──► Query ──► Zone::answer ──► the response: a name of the cluster
//!                                    └─► another name: the cache, or actions for the server: Send to an upstream
//! Resolver::receive, tick ──► actions for the server: Respond
//! Snapshot ── Zone::refresh ──► Zone: the names of the cluster at one revision
//! ```
//! Names of the cluster are answered from the same snapshot as the rules, never from a cache. They follow the
//! specification of DNS-based service discovery (kubernetes/dns, docs/specification.md, version 1.1.0).

mod action;
mod answer;
mod cache;
mod client;
mod counters;
mod explain;
mod forwarder;
mod limits;
mod message;
mod query_log;
mod relay;
mod request;
mod resolver;
mod search;
#[cfg(test)]
mod simulation;
mod zone;

pub use action::{Action, ExchangeId, Origin, Source};
pub use answer::{Answered, Existence, External};
pub use cache::CachedAnswer;
pub use client::Client;
pub use counters::{ClientCounters, Outcome};
pub use explain::{Explanation, is_truncated, record_texts};
pub use forwarder::ExchangeCounters;
pub use limits::{Limit, LimitNotice, Rate};
pub use message::{
    Edns, HEADER_LEN, LABEL_BYTES_MAX, Malformed, NAME_BYTES_MAX, Name, Query, Rcode, RecordType,
    TCP_BYTES_MAX, Transport, UDP_BYTES_MAX, encode_query, write_error, write_rejection,
};
pub use query_log::{AnswerSource, QueryLogBatch, QueryLogEntry};
pub use resolver::{Handling, Resolver, ResolverOptions, ResolverUsage, Upstreams};
pub use search::SearchList;
pub use zone::{TTL_DEFAULT_S, Zone, ZoneConfig};
