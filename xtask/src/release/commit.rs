//! `Commit`: which sources are released.
//!
//! Git determines them. In a source archive without git, `SOURCE_DATE_EPOCH` and `REVISION` do.

use std::env;
use std::fs;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, bail};

use crate::command::{command, output};

/// The sources of a release.
pub(super) struct Commit {
    /// The version in Cargo.toml, with `-dirty` if there are uncommitted changes.
    pub(super) version: String,
    /// The hash of the commit.
    pub(super) revision: String,
    /// The time of the commit, in seconds since 1970.
    pub(super) epoch: String,
    /// The same time in RFC 3339.
    pub(super) time: String,
}

impl Commit {
    /// Reads the commit of the repository.
    ///
    /// # Errors
    /// If there is no commit, or it has uncommitted changes and `is_dirty_allowed` is false.
    pub(super) fn of(root: &Path, is_dirty_allowed: bool) -> anyhow::Result<Self> {
        let mut version = version(root)?;
        let (revision, epoch);
        if is_git(root) {
            revision = head(root)?;
            epoch = output(command("git", root).args(["log", "-1", "--format=%ct"]))?.trim().to_owned();
            let changed = output(command("git", root).args(["status", "--porcelain"]))?;
            if !changed.is_empty() {
                if !is_dirty_allowed {
                    bail!(
                        "these files are not committed, so the release could not be built again:\n{changed}\
                         commit them, or release them with --dirty, which marks the file names"
                    );
                }
                version.push_str("-dirty");
            }
        } else {
            let variable = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
            let (Some(named), Some(at)) = (variable("REVISION"), variable("SOURCE_DATE_EPOCH")) else {
                bail!(
                    "not a git checkout (or git is not installed), so the commit is unknown\n\
                     name it: SOURCE_DATE_EPOCH=SECONDS REVISION=COMMIT scripts/release"
                );
            };
            (revision, epoch) = (named, at);
        }
        let time = output(command("date", root).args(["-u", "-d", &format!("@{epoch}"), "+%FT%TZ"]))?;
        Ok(Self { version, revision, epoch, time: time.trim().to_owned() })
    }

    /// The version in Cargo.toml.
    pub(super) fn package_version(&self) -> &str {
        self.version.trim_end_matches("-dirty")
    }
}

/// Returns the hash of the last commit.
///
/// # Errors
/// If the repository has no commit.
pub(super) fn head(root: &Path) -> anyhow::Result<String> {
    let revision = output(command("git", root).args(["rev-parse", "--verify", "-q", "HEAD"]));
    Ok(revision.context("this repository has no commit yet")?.trim().to_owned())
}

fn is_git(root: &Path) -> bool {
    let mut git = command("git", root);
    git.args(["rev-parse", "--git-dir"]).stdout(Stdio::null()).stderr(Stdio::null());
    git.status().is_ok_and(|status| status.success())
}

fn version(root: &Path) -> anyhow::Result<String> {
    let manifest = fs::read_to_string(root.join("Cargo.toml")).context("failed to read Cargo.toml")?;
    let version = manifest.lines().find_map(|line| line.strip_prefix("version = \"")?.strip_suffix('"'));
    Ok(version.context("Cargo.toml has no version")?.to_owned())
}
