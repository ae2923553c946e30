//! Small parts that several crates need: [`Backoff`], chains of errors ([`with_causes`]), and percent-encoding.
//!
//! This crate depends on the standard library only, so that every crate of the workspace can use it. It contains no
//! I/O, no clock and no logging: a caller decides when to wait and what to print.

mod backoff;
mod error_chain;
mod percent;

pub use backoff::{Backoff, jitter};
pub use error_chain::{error_chain, with_causes};
pub use percent::{percent_encode, percent_encode_query};
