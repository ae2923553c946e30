//! `InstallLock`: lets only one process at a time change the installation of a node.
//!
//! Two installers would otherwise revert each other's changes. The lock is a `flock` on the directories themselves:
//! it needs no file, the kernel releases it when the process ends for any reason, and every container that mounts the
//! directories sees it.

use std::fs::{File, Metadata, TryLockError};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

/// A single `portico install` holds the lock for less time than this.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
const RETRY_INTERVAL: Duration = Duration::from_millis(50);

/// The exclusive right to change some directories. Dropping it releases the lock.
#[derive(Debug)]
pub struct InstallLock {
    locked: Vec<File>,
}

impl InstallLock {
    /// Locks these directories, or returns `None` if another process holds the lock of one of them.
    pub fn try_acquire(dirs: &[&Path]) -> anyhow::Result<Option<Self>> {
        let mut locked: Vec<File> = Vec::new();
        for dir in dirs {
            let context = || format!("failed to open directory {}", dir.display());
            let file = File::open(dir).with_context(context)?;
            let metadata = file.metadata().with_context(context)?;
            if !metadata.is_dir() {
                bail!("{} is not a directory", dir.display());
            }
            // Two paths may lead to the same directory.
            let is_locked = |other: &File| other.metadata().is_ok_and(|other| is_same(&other, &metadata));
            if locked.iter().any(is_locked) {
                continue;
            }
            match file.try_lock() {
                Ok(()) => locked.push(file),
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(error)) => {
                    return Err(error).with_context(|| format!("failed to lock directory {}", dir.display()));
                }
            }
        }
        Ok(Some(Self { locked }))
    }

    /// Waits up to 5 s for another process to release the lock.
    pub fn acquire(dirs: &[&Path]) -> anyhow::Result<Self> {
        let deadline = Instant::now() + ACQUIRE_TIMEOUT;
        loop {
            if let Some(lock) = Self::try_acquire(dirs)? {
                return Ok(lock);
            }
            if Instant::now() >= deadline {
                let paths: Vec<String> = dirs.iter().map(|path| path.display().to_string()).collect();
                bail!(
                    "another portico install manages {} and would revert this; stop it first (the DaemonSet, or \
                     portico install --watch)",
                    paths.join(" and ")
                );
            }
            thread::sleep(RETRY_INTERVAL);
        }
    }

    /// Whether these paths still lead to the directories that are locked.
    pub fn covers(&self, dirs: &[&Path]) -> bool {
        dirs.iter().all(|dir| {
            let Ok(metadata) = dir.metadata() else { return false };
            self.locked.iter().any(|locked| locked.metadata().is_ok_and(|locked| is_same(&locked, &metadata)))
        })
    }
}

fn is_same(left: &Metadata, right: &Metadata) -> bool {
    (left.dev(), left.ino()) == (right.dev(), right.ino())
}
