//! `TemporaryDir`: a directory that is removed at the end, also if the process is interrupted.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::exit;
use std::thread;

use anyhow::Context;
use nix::sys::signal::{SigSet, Signal};

/// Owns a directory. A directory that is renamed is kept.
pub(super) struct TemporaryDir(PathBuf);

impl TemporaryDir {
    /// Creates the directory, empty. A process has at most one: the first signal ends it.
    ///
    /// # Errors
    /// If it cannot be created, or signals cannot be blocked.
    pub(super) fn create(path: PathBuf) -> anyhow::Result<Self> {
        remove(&path)?;
        remove_on_signal(path.clone())?;
        fs::create_dir(&path).with_context(|| format!("failed to create {}", path.display()))?;
        Ok(Self(path))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TemporaryDir {
    fn drop(&mut self) {
        // It may have been renamed; and an error here must not hide the one that is reported.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Removes a directory, if it exists.
pub(super) fn remove(path: &Path) -> anyhow::Result<()> {
    if path.exists() {
        fs::remove_dir_all(path).with_context(|| format!("failed to remove {}", path.display()))?;
    }
    Ok(())
}

fn remove_on_signal(path: PathBuf) -> anyhow::Result<()> {
    let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().collect();
    // Threads that start later inherit the mask; child processes do not, so Ctrl-C still stops them.
    signals.thread_block().context("failed to block signals")?;
    thread::spawn(move || {
        if let Ok(signal) = signals.wait() {
            let _ = fs::remove_dir_all(&path);
            exit(128 + signal as i32);
        }
    });
    Ok(())
}
