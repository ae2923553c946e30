//! Releases: what a bill of materials says is what is built, and scripts/release never leaves anything half-done.
//!
//! What must not go in here: building a release, which takes minutes; `scripts/release --verify` does it twice.

#[path = "release/bills.rs"]
mod bills;
#[path = "tidy/dependency.rs"]
#[allow(dead_code)]
mod dependency;
#[path = "tidy/manifest.rs"]
#[allow(dead_code)]
mod manifest;
#[path = "release/refusals.rs"]
mod refusals;
#[path = "tidy/repository.rs"]
#[allow(dead_code)]
mod repository;
