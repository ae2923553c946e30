//! `DropIn`: the plugin's entry as a separate file, in the directory that has the name of the network.
//!
//! libcni 1.3 and newer appends these files to the network's plugins, so that no existing file must be edited. Older
//! versions ignore them, and nothing on the node shows which version a runtime contains.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::atomic_write::{FileAttributes, atomic_write, remove_if_exists};
use crate::conflist::Entry;

/// libcni sorts drop-ins by file name; this one comes last.
const FILE_NAME: &str = "99-portico-cni.conf";

/// The path of a network's drop-in.
#[derive(Debug)]
pub struct DropIn(PathBuf);

impl DropIn {
    /// The drop-in of a network, which may not exist.
    #[must_use]
    pub fn new(conf_dir: &Path, network: &str) -> Self {
        Self(conf_dir.join(network).join(FILE_NAME))
    }

    /// Finds the existing drop-ins of all networks.
    pub fn find_all(conf_dir: &Path) -> Vec<Self> {
        let dirs = fs::read_dir(conf_dir).into_iter().flatten().flatten();
        dirs.map(|entry| Self(entry.path().join(FILE_NAME))).filter(Self::exists).collect()
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Whether the file exists.
    #[must_use]
    pub fn exists(&self) -> bool {
        self.0.exists()
    }

    /// Writes the file. Returns false if it was up to date.
    pub fn write(&self, entry: &Entry) -> anyhow::Result<bool> {
        if fs::read_to_string(&self.0).is_ok_and(|text| entry.is_equivalent(&text)) {
            return Ok(false);
        }
        let dir = self.0.parent().expect("a path that was joined from a directory and a name has a parent");
        fs::create_dir_all(dir).with_context(|| format!("failed to create directory {}", dir.display()))?;
        atomic_write(&self.0, entry.file_text().as_bytes(), &FileAttributes::with_mode(0o644), |_| Ok(()))?;
        Ok(true)
    }

    /// Removes the file, and its directory if that is empty then. Returns false if the file did not exist.
    pub fn remove(&self) -> anyhow::Result<bool> {
        let existed = remove_if_exists(&self.0)?;
        if let Some(dir) = self.0.parent().filter(|_| existed) {
            // Fails if the directory contains files of other programs.
            let _ = fs::remove_dir(dir);
        }
        Ok(existed)
    }
}
