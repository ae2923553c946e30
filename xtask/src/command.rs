//! Running other programs: cargo, git, tar.
//!
//! Each error names the command. `cargo xtask` itself is started by cargo, whose variables that describe the package
//! xtask must not reach another cargo: build scripts that read them would run again.

use std::env;
use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};

use anyhow::{Context, bail};

/// The variables that cargo sets for a program that it starts.
const PACKAGE_VARIABLES: [&str; 2] = ["CARGO_PKG_", "CARGO_MANIFEST_"];

/// A command in the root of the repository, with the C locale and UTC.
pub(crate) fn command(program: impl AsRef<OsStr>, root: &Path) -> Command {
    let mut command = Command::new(program);
    command.current_dir(root).env("LC_ALL", "C").env("TZ", "UTC");
    for (name, _) in env::vars_os() {
        let is_package = |prefix: &&str| name.to_str().is_some_and(|name| name.starts_with(prefix));
        if PACKAGE_VARIABLES.iter().any(is_package) {
            command.env_remove(&name);
        }
    }
    command
}

/// Runs a command that writes to the terminal itself.
///
/// # Errors
/// If it cannot be started, or fails.
pub(crate) fn run(command: &mut Command) -> anyhow::Result<()> {
    let status = command.status().with_context(|| format!("failed to start {}", name(command)))?;
    check(command, status)
}

/// Runs a command and returns its standard output as text.
///
/// # Errors
/// If it cannot be started, or fails.
pub(crate) fn output(command: &mut Command) -> anyhow::Result<String> {
    let output = command.stderr(Stdio::inherit()).output();
    let output = output.with_context(|| format!("failed to start {}", name(command)))?;
    check(command, output.status)?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// # Errors
/// If the command failed.
pub(crate) fn check(command: &Command, status: ExitStatus) -> anyhow::Result<()> {
    if !status.success() {
        bail!("{} failed: {status}", name(command));
    }
    Ok(())
}

/// The program and its first argument: `git status`.
fn name(command: &Command) -> String {
    let words = [command.get_program()].into_iter().chain(command.get_args().take(1));
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}
