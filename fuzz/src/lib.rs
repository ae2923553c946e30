//! Shared code of the fuzz targets: the assertions, and the generation of inputs.
//!
//! ```text
//! read_yaml, read_json: text ─ kube_source::read_str ─► Objects ─► derived (assertions about objects and rules)
//! review, annotations:  bytes, annotations ─► injector ─► injection (assertions about patch and response)
//! plan:                 bytes ─ scenario ─► Changes, batch by batch ─► incremental (incremental = from the start)
//! table:                bytes ─ replies ─► netns_nft::read_recorded ─► TableState (within the limits)
//! dns_message:          bytes ─ queries ─► Zone::answer ─► a response within the limits
//! dns_upstream:         bytes ─ upstream ─► dns::Resolver ─► actions (one response for each query, nothing remains)
//! ```
//! Each assertion has a message with its claim. This crate does not call libFuzzer, so all of it can also be run on a
//! single input.

pub mod derived;
pub mod incremental;
pub mod injection;
pub mod manifest;
pub mod queries;
pub mod replies;
pub mod rng;
pub mod scenario;
pub mod upstream;
