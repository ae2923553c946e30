//! What a release says about itself: which crates are in a program, and under which terms.
//!
//! ```text
//! cargo tree, cargo metadata, Cargo.lock ─► Crates ─► bill()     CycloneDX, one for each program
//! the crates' own licence files ──────────────────► notices()   one text for all of them
//! ```
//! The same sources give the same bytes: no clock, no chance. What must not go in here: building programs, or
//! anything that is linked into one.

mod cargo;
mod crates;
mod cyclonedx;
mod error;
mod libraries;
mod notices;

pub use cargo::crates_of;
pub use crates::{Crate, CrateKey, Crates, Origin};
pub use cyclonedx::{Build, bill};
pub use error::ReleaseError;
pub use libraries::{Library, libraries};
pub use notices::{LicenceText, licence_texts, notices};
