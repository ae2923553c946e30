//! Shared code of the fuzz targets: the assertions, and the generation of inputs.
//!
//! ```text
//! read_yaml, read_json: text ─ kube_source::read_str ─► Objects ─► downstream (assertions about them)
//! review, annotations:  bytes, annotations ─► injector ─► injected (assertions about patch and response)
//! plan:                 bytes ─ universe ─► Changes, batch by batch ─► follow (incremental = from the start)
//! table:                bytes ─ replies ─► netns_nft::read_recorded ─► TableState (within the limits)
//! ```
//! Each assertion has a message with its claim. This crate does not call libFuzzer, so all of it can also be run on a
//! single input.

pub mod downstream;
pub mod draw;
pub mod follow;
pub mod injected;
pub mod manifest;
pub mod replies;
pub mod universe;
