//! `BillError`: why the contents of a program cannot be determined.

use std::io;
use std::path::PathBuf;

use crate::bills::crates::CrateKey;

/// An error of a bill of materials or of the notices.
#[derive(Debug, thiserror::Error)]
pub enum BillError {
    /// A command cannot be started.
    #[error("failed to start {program}")]
    Start {
        /// The command.
        program: &'static str,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A command failed.
    #[error("{command} failed: {stderr}")]
    Failed {
        /// The command with its arguments.
        command: String,
        /// Its standard error.
        stderr: String,
    },
    /// The output of a command cannot be parsed.
    #[error("unexpected output from {program}: {output:?}")]
    Output {
        /// The command.
        program: &'static str,
        /// The output, or the cause.
        output: String,
    },
    /// A file or directory cannot be read.
    #[error("failed to read {}", path.display())]
    Read {
        /// The path.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The metadata of a crate in the tree are missing or incomplete.
    #[error("cargo metadata has no {what} for {key}")]
    Metadata {
        /// The crate.
        key: CrateKey,
        /// The missing field.
        what: &'static str,
    },
    /// A crate from a registry has no checksum.
    #[error("no checksum for {0} in Cargo.lock")]
    NoChecksum(CrateKey),
}
