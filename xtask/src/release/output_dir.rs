//! `OutputDir`: the directory of a release, replaced in one step.
//!
//! New files go into a staging directory next to it. A lock on the parent directory excludes other releases. If the
//! release fails or is interrupted, the staging directory is removed and the earlier release stays.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use crate::release::temporary_dir::{TemporaryDir, remove};

/// The output directory of one release.
pub(super) struct OutputDir {
    path: PathBuf,
    staging: TemporaryDir,
    /// Holds the lock.
    _parent: File,
}

impl OutputDir {
    /// Locks the directory and creates an empty staging directory. `path` does not have to exist.
    ///
    /// # Errors
    /// If it is not the directory of a release, or another release is being built there.
    pub(super) fn open(path: &Path) -> anyhow::Result<Self> {
        let path = std::path::absolute(path).context("failed to resolve the output directory")?;
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            bail!("{} cannot be replaced", path.display());
        };
        fs::create_dir_all(parent).with_context(|| format!("failed to create {}", parent.display()))?;
        let parent =
            parent.canonicalize().with_context(|| format!("failed to resolve {}", parent.display()))?;
        let path = parent.join(name);
        let lock = File::open(&parent).with_context(|| format!("failed to open {}", parent.display()))?;
        if lock.try_lock().is_err() {
            bail!("another release is being built in {}", parent.display());
        }
        if path.exists() {
            check_is_release(&path)?;
        }
        remove(&with_suffix(&path, ".old"))?;
        let staging = TemporaryDir::create(with_suffix(&path, ".new"))?;
        Ok(Self { path, staging, _parent: lock })
    }

    /// The directory that is replaced.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The directory for the new files.
    pub(super) fn staging(&self) -> &Path {
        self.staging.path()
    }

    /// Replaces the earlier release by the new files.
    pub(super) fn publish(&self) -> anyhow::Result<()> {
        let old = with_suffix(&self.path, ".old");
        let rename = |from: &Path, to: &Path| {
            fs::rename(from, to)
                .with_context(|| format!("failed to rename {} to {}", from.display(), to.display()))
        };
        if self.path.exists() {
            rename(&self.path, &old)?;
        }
        rename(self.staging.path(), &self.path)?;
        remove(&old)
    }
}

fn check_is_release(path: &Path) -> anyhow::Result<()> {
    if !path.is_dir() {
        bail!("{} is not a directory", path.display());
    }
    for entry in fs::read_dir(path).with_context(|| format!("failed to read {}", path.display()))? {
        let name = entry.with_context(|| format!("failed to read {}", path.display()))?.file_name();
        if !(name == "SHA256SUMS" || name.to_string_lossy().starts_with("portico-")) {
            let entry = path.join(name);
            bail!("{} is not part of a release; name another directory", entry.display());
        }
    }
    Ok(())
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}
