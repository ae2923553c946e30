//! The contents of a released program: its crates, libraries and licences.
//!
//! ```text
//! cargo tree, cargo metadata, Cargo.lock ─► Crates ─► bill()     CycloneDX, one for each program
//! licence files of the crates ────────────────────► notices()   one text for all programs
//! ```
//! The same sources give the same bytes, so nothing here depends on the time. `cargo xtask release` builds the programs.

mod cargo;
mod crates;
mod cyclonedx;
mod error;
mod libraries;
mod notices;

pub use cargo::crates_of;
pub use crates::{Crate, CrateKey, Crates, Origin};
pub use cyclonedx::{Build, bill};
pub use error::BillError;
pub use libraries::{Library, libraries};
pub use notices::{LicenceText, licence_texts, notices};
