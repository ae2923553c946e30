//! Small parts that several crates need: [`Backoff`], chains of errors ([`with_causes`]), [`lock`], percent-encoding, and
//! [`write_atomically`].
//!
//! This crate depends on the standard library only, so that every crate of the workspace can use it. It contains no
//! clock and no logging, and no I/O other than the replacement of a file and the directories of tests: a caller decides
//! when to wait and what to print.

mod atomic_file;
mod backoff;
mod error_chain;
mod lock;
mod percent;
#[cfg(any(test, feature = "temp-dir"))]
pub mod temp_dir;

pub use atomic_file::{TemporaryFile, write_atomically};
pub use backoff::{Backoff, jitter};
pub use error_chain::{error_chain, with_causes};
pub use lock::lock;
pub use percent::{percent_encode, percent_encode_query};
