//! `DropIn`: our entry as a file of its own, in the folder that bears the name of a network.
//!
//! libcni 1.3 and newer appends what lies there to the network's plugins, so nobody's file has to be changed; older
//! ones do not look. Nothing on the node says which one the runtime has. What must not go in here: conflists.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::install::conflist::Entry;
use crate::install::replace::{Like, remove, replace};

/// Plugins come by the names of their files; ours is the last.
const NAME: &str = "99-portico-cni.conf";

/// The file of a network.
#[derive(Debug)]
pub(crate) struct DropIn(PathBuf);

impl DropIn {
    pub(crate) fn of(folder: &Path, network: &str) -> Self {
        Self(folder.join(network).join(NAME))
    }

    /// Those of all networks.
    pub(super) fn all(folder: &Path) -> Vec<Self> {
        let folders = fs::read_dir(folder).into_iter().flatten().flatten();
        folders.map(|entry| Self(entry.path().join(NAME))).filter(|drop_in| drop_in.is_there()).collect()
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn is_there(&self) -> bool {
        self.0.exists()
    }

    /// Puts it there; false where it is there as it should be.
    pub(super) fn put(&self, entry: &Entry) -> anyhow::Result<bool> {
        if fs::read_to_string(&self.0).is_ok_and(|text| entry.is(&text)) {
            return Ok(false);
        }
        let folder = self.0.parent().context("it was joined from a folder and a name")?;
        fs::create_dir_all(folder).with_context(|| format!("make the folder {}", folder.display()))?;
        replace(&self.0, entry.file().as_bytes(), &Like::mode(0o644), |_| Ok(()))?;
        Ok(true)
    }

    /// Takes it away, and its folder if nothing else is in it; false where it was not there.
    pub(super) fn take(&self) -> anyhow::Result<bool> {
        let was_there = remove(&self.0)?;
        if let Some(folder) = self.0.parent().filter(|_| was_there) {
            // It refuses where others have files in it.
            let _ = fs::remove_dir(folder);
        }
        Ok(was_there)
    }
}
