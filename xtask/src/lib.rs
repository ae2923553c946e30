//! The library of the repository's own programs: what `cargo xtask` and the tests share.
//!
//! `bills` describes the contents of a released program: a bill of materials, and licence notices. `reference` renders
//! the pages of docs/reference. No released program links this crate.

pub mod bills;
pub mod reference;
