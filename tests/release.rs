//! Bills of materials and notices of the released programs, compared with cargo, CycloneDX and deny.toml.
//!
//! `xtask/tests/release.rs` tests how a release is built.

#[path = "release/bills.rs"]
mod bills;
#[path = "tidy/dependency.rs"]
#[allow(dead_code)]
mod dependency;
#[path = "tidy/manifest.rs"]
#[allow(dead_code)]
mod manifest;
#[path = "tidy/repository.rs"]
#[allow(dead_code)]
mod repository;
