//! `Library`: what is linked in besides crates: Rust's own library, the C library, and the unwinder.
//!
//! They are static, so a hole in one of them is a hole in the program, and a bill that leaves them out is not whole.
//! What must not go in here: crates.

use std::path::Path;

use crate::bills::cargo::said;
use crate::bills::error::ReleaseError;

/// One library of the machine that builds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Library {
    /// Its name.
    pub name: &'static str,
    /// Its version.
    pub version: String,
    /// The SPDX expression.
    pub licence: &'static str,
    /// Where its sources are.
    pub sources: &'static str,
}

/// Those of this machine.
///
/// # Errors
/// Where `rustc`, `getconf` or `cc` cannot be run, or say what cannot be read.
pub fn libraries() -> Result<Vec<Library>, ReleaseError> {
    let word = |number: usize, program, arg| {
        let said = said(Path::new("."), program, &[arg])?;
        let word = said.split_whitespace().nth(number).map(str::to_owned);
        word.ok_or(ReleaseError::Answer { program, said })
    };
    let rust = word(1, "rustc", "--version")?;
    let glibc = word(1, "getconf", "GNU_LIBC_VERSION")?;
    let gcc = word(0, "cc", "-dumpfullversion")?;
    Ok(vec![
        Library {
            name: "rust-std",
            version: rust,
            licence: "MIT OR Apache-2.0",
            sources: "https://github.com/rust-lang/rust",
        },
        Library {
            name: "glibc",
            version: glibc,
            licence: "LGPL-2.1-or-later",
            sources: "https://sourceware.org/git/glibc.git",
        },
        Library {
            name: "libgcc",
            version: gcc,
            licence: "GPL-3.0-or-later WITH GCC-exception-3.1",
            sources: "https://gcc.gnu.org/git/gcc.git",
        },
    ])
}
