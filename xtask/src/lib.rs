//! The library of the repository's own programs: what `cargo xtask` and the tests share.
//!
//! `program` lists the programs of a release. `bills` describes the contents of one: a bill of materials, and licence
//! notices. `reference` renders the pages of docs/reference. No released program links this crate.

pub mod bills;
mod program;
pub mod reference;

pub use program::{PROGRAMS, Program};
