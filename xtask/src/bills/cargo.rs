//! What cargo and the compiler are asked.
//!
//! What must not go in here: what is made of their answers.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::bills::crates::Crates;
use crate::bills::error::ReleaseError;

/// What is built into the programs of a package for a target, by the lock file of the workspace at `root`.
///
/// # Errors
/// Where cargo cannot be run, fails, or says what cannot be read.
pub fn crates_of(root: &Path, package: &str, target: &str) -> Result<Crates, ReleaseError> {
    let tree = ["tree", "--locked", "--package", package, "--target", target, "--edges", "normal,build"];
    let form = ["--prefix", "depth", "--format", " {p}|{f}|"];
    let tree = said(root, "cargo", &[&tree[..], &form].concat())?;
    let metadata = ["metadata", "--locked", "--format-version", "1", "--filter-platform", target];
    let metadata = said(root, "cargo", &metadata)?;
    let metadata = serde_json::from_str(&metadata)
        .map_err(|why| ReleaseError::Answer { program: "cargo metadata", said: why.to_string() })?;
    let path = root.join("Cargo.lock");
    let lock = fs::read_to_string(&path).map_err(|source| ReleaseError::Read { path, source })?;
    Crates::read(&tree, &metadata, &lock)
}

/// What a command says on standard output.
pub(crate) fn said(folder: &Path, program: &'static str, args: &[&str]) -> Result<String, ReleaseError> {
    let output = Command::new(program).args(args).current_dir(folder).output();
    let output = output.map_err(|source| ReleaseError::Start { program, source })?;
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(ReleaseError::Failed { command: format!("{program} {}", args.join(" ")), why });
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
