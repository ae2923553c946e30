//! `--verify`: builds the last commit twice, under different conditions, and compares every byte.
//!
//! The second build has other paths for sources, target and crates, another umask, time zone and locale.

use std::env;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::id;

use anyhow::Context;
use nix::sys::stat::{Mode, umask};

use crate::command::{command, output, run};
use crate::release::commit::head;
use crate::release::temporary_dir::TemporaryDir;
use crate::release::{Directories, step};

pub(super) fn run_twice(directories: &Directories) -> anyhow::Result<()> {
    let Directories { root, cargo_home, .. } = directories;
    let commit = head(root)?;
    if !output(command("git", root).args(["status", "--porcelain"]))?.is_empty() {
        step("uncommitted changes are not part of it")?;
    }
    let directory = TemporaryDir::create(env::temp_dir().join(format!("portico-verify-{}", id())))?;
    let scratch = directory.path();
    let (first, second) = (scratch.join("first"), scratch.join("second/of another length"));
    // The same crates under another path.
    let other_home = scratch.join("cargo");
    for directory in [&first, &second, &other_home] {
        fs::create_dir_all(directory).with_context(|| format!("failed to create {}", directory.display()))?;
    }
    let reading = || format!("failed to read {}", cargo_home.display());
    for entry in fs::read_dir(cargo_home).with_context(reading)? {
        let entry = entry.with_context(reading)?;
        symlink(entry.path(), other_home.join(entry.file_name())).context("failed to link a crate")?;
    }
    build(directories, &commit, &first, cargo_home, &[])?;
    umask(Mode::from_bits_truncate(0o077));
    build(directories, &commit, &second, &other_home, &[("TZ", "Asia/Kathmandu"), ("LC_ALL", "C.UTF-8")])?;
    run(command("diff", root).arg("-r").arg(first.join("out")).arg(second.join("out")))
        .with_context(|| format!("two builds of commit {commit} differ"))?;
    step("both builds are equal, byte for byte")
}

/// Builds the commit in a new clone in `place`, into `place/out`.
fn build(
    directories: &Directories,
    commit: &str,
    place: &Path,
    cargo_home: &Path,
    variables: &[(&str, &str)],
) -> anyhow::Result<()> {
    let Directories { root, target, .. } = directories;
    let (sources, build) = (place.join("sources"), place.join("target"));
    run(command("git", root)
        .args(["clone", "-q", "--no-hardlinks", "--no-checkout"])
        .arg(root)
        .arg(&sources))?;
    run(command("git", &sources).args(["checkout", "-q", "--detach", commit]))?;
    fs::create_dir_all(&build).with_context(|| format!("failed to create {}", build.display()))?;
    // Helm only checks the chart, so it is not downloaded again.
    if target.join("tools").exists() {
        run(command("cp", root).arg("-a").arg(target.join("tools")).arg(&build))?;
    }
    run(command(sources.join("scripts/release"), &sources)
        .envs(variables.iter().copied())
        .env("CARGO_TARGET_DIR", &build)
        .env("CARGO_HOME", cargo_home)
        .arg(place.join("out")))?;
    fs::remove_dir_all(&build).with_context(|| format!("failed to remove {}", build.display()))
}
