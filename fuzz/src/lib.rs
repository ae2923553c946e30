//! What the fuzz targets share: the claims that must hold, and the making of inputs.
//!
//! ```text
//! read_yaml, read_json: text ─ kube_source::read_str ─► Objects ─► downstream (every claim about them)
//! review, wish:         bytes, annotations ─► injector ─► injected (every claim about patch and answer)
//! plan:                 bytes ─ universe ─► Changes, batch by batch ─► follow (incremental = made anew)
//! table:                bytes ─ answers ─► netns_nft::read_recorded ─► what a pod made of its table (bounded)
//! ```
//! A claim is an assertion that names what it claims. What must not go in here: calls of libFuzzer; so all of
//! this can be run on one input without it.

pub mod answers;
pub mod downstream;
pub mod draw;
pub mod follow;
pub mod injected;
pub mod manifest;
pub mod universe;
