//! `Claim`: who installs here. Two at once would put back what the other one takes away, so there is one at a time.
//!
//! It is a lock on the folders themselves: it ends with the process however that ends, needs no file, and is seen
//! from each container into which they are mounted. What must not go in here: what is installed.

use std::fs::{File, Metadata, TryLockError};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

/// Somebody who installs once takes less.
const PATIENCE: Duration = Duration::from_secs(5);
const BETWEEN: Duration = Duration::from_millis(50);

/// The right to change these folders, as long as it is held.
#[derive(Debug)]
pub(super) struct Claim {
    locked: Vec<File>,
}

impl Claim {
    /// None: somebody else has it.
    pub(super) fn attempt(folders: &[&Path]) -> anyhow::Result<Option<Self>> {
        let mut locked: Vec<File> = Vec::new();
        for folder in folders {
            let what = || format!("open the folder {}", folder.display());
            let file = File::open(folder).with_context(what)?;
            let found = file.metadata().with_context(what)?;
            if !found.is_dir() {
                bail!("{} is no folder", folder.display());
            }
            // It may be the same folder by two names.
            if locked.iter().any(|other| other.metadata().is_ok_and(|other| is_same(&other, &found))) {
                continue;
            }
            match file.try_lock() {
                Ok(()) => locked.push(file),
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(error)) => {
                    return Err(error).with_context(|| format!("lock the folder {}", folder.display()));
                }
            }
        }
        Ok(Some(Self { locked }))
    }

    /// Waits a little for whoever is at it.
    pub(super) fn soon(folders: &[&Path]) -> anyhow::Result<Self> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(claim) = Self::attempt(folders)? {
                return Ok(claim);
            }
            if Instant::now() >= deadline {
                let paths: Vec<String> = folders.iter().map(|path| path.display().to_string()).collect();
                bail!(
                    "another portico install looks after {} and would undo this; end it first (the DaemonSet, \
                     or portico install --watch)",
                    paths.join(" and ")
                );
            }
            thread::sleep(BETWEEN);
        }
    }

    /// Whether these paths still lead to the folders that were locked.
    pub(super) fn holds(&self, folders: &[&Path]) -> bool {
        folders.iter().all(|folder| {
            let Ok(found) = folder.metadata() else { return false };
            self.locked.iter().any(|locked| locked.metadata().is_ok_and(|locked| is_same(&locked, &found)))
        })
    }
}

fn is_same(one: &Metadata, other: &Metadata) -> bool {
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}
