//! `Library`: the libraries of the build machine that are linked in: Rust's standard library, the C library, the unwinder.
//!
//! They are static, so a vulnerability in one of them is one in the program, and a bill without them is incomplete.

use std::path::Path;

use crate::bills::cargo::output_of;
use crate::bills::error::BillError;

/// One library of the build machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Library {
    /// The name.
    pub name: &'static str,
    /// The version.
    pub version: String,
    /// The licence, as an SPDX expression.
    pub licence: &'static str,
    /// The URL of its sources.
    pub sources: &'static str,
}

/// Returns the libraries of this machine.
///
/// # Errors
/// If `rustc`, `getconf` or `cc` cannot be started, or prints unexpected output.
pub fn libraries() -> Result<Vec<Library>, BillError> {
    let word = |number: usize, program, arg| {
        let output = output_of(Path::new("."), program, &[arg])?;
        let word = output.split_whitespace().nth(number).map(str::to_owned);
        word.ok_or(BillError::Output { program, output })
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
