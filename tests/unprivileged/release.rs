//! Bills of materials and notices of the released programs, compared with cargo, CycloneDX and deny.toml.
//!
//! `xtask/tests/release.rs` tests how a release is built.

mod bills;
