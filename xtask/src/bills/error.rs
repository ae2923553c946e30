//! `ReleaseError`: what stands in the way of saying what is in a program.
//!
//! What must not go in here: what is done about it.

use std::io;
use std::path::PathBuf;

use crate::bills::crates::CrateKey;

/// Why it cannot be said.
#[derive(Debug, thiserror::Error)]
pub enum ReleaseError {
    /// A command that does not start.
    #[error("run {program}")]
    Start {
        /// The command.
        program: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A command that fails.
    #[error("{command}: {why}")]
    Failed {
        /// The command with its arguments.
        command: String,
        /// What it said.
        why: String,
    },
    /// An answer of another form.
    #[error("{program} says what cannot be read: {said:?}")]
    Answer {
        /// The command.
        program: &'static str,
        /// What it said.
        said: String,
    },
    /// A file or folder.
    #[error("read {}", path.display())]
    Read {
        /// Where it is.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A crate of the tree that the metadata lack, or tell too little of.
    #[error("cargo metadata lack {what} of {key}")]
    Metadata {
        /// The crate.
        key: CrateKey,
        /// What is missing.
        what: &'static str,
    },
    /// A crate from a registry that has no checksum.
    #[error("Cargo.lock has no checksum of {0}")]
    Unlocked(CrateKey),
}
