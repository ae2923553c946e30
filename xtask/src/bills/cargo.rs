//! Queries cargo and other programs for the contents of a program.
//!
//! `Crates` and `libraries` parse the output.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::bills::crates::Crates;
use crate::bills::error::BillError;

/// Returns the crates of a package for a target, as the lock file of the workspace at `root` resolves them.
///
/// # Errors
/// If cargo cannot be started, fails, or prints unexpected output.
pub fn crates_of(root: &Path, package: &str, target: &str) -> Result<Crates, BillError> {
    let tree = ["tree", "--locked", "--package", package, "--target", target, "--edges", "normal,build"];
    let format = ["--prefix", "depth", "--format", " {p}|{f}|"];
    let tree = output_of(root, "cargo", &[&tree[..], &format].concat())?;
    let metadata = ["metadata", "--locked", "--format-version", "1", "--filter-platform", target];
    let metadata = output_of(root, "cargo", &metadata)?;
    let metadata = serde_json::from_str(&metadata)
        .map_err(|why| BillError::Output { program: "cargo metadata", output: why.to_string() })?;
    let path = root.join("Cargo.lock");
    let lock = fs::read_to_string(&path).map_err(|source| BillError::Read { path, source })?;
    Crates::read(&tree, &metadata, &lock)
}

/// Runs a command and returns its standard output.
pub(crate) fn output_of(directory: &Path, program: &'static str, args: &[&str]) -> Result<String, BillError> {
    let output = Command::new(program).args(args).current_dir(directory).output();
    let output = output.map_err(|source| BillError::Start { program, source })?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(BillError::Failed { command: format!("{program} {}", args.join(" ")), stderr });
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
