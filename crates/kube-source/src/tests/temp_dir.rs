//! `TempDir`: a temporary directory for one test.
//!
//! The directory is in the system's temporary directory and is removed when the test ends.

use std::fs;
use std::path::PathBuf;

use super::lines;
use crate::{Objects, ReadOptions, Source, read};

/// A directory that is removed on drop.
pub(crate) struct TempDir(pub(crate) PathBuf);

impl TempDir {
    pub(crate) fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("kube-source-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn write(&self, path: &str, bytes: impl AsRef<[u8]>) {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    /// Reads the directory. Paths in messages are relative to it.
    pub(super) fn read(&self) -> (Objects, Vec<String>) {
        let (objects, report) = read(&[Source::Path(self.0.clone())], &ReadOptions::default());
        let prefix = format!("{}/", self.0.display());
        (objects, lines(&report).iter().map(|line| line.replace(&prefix, "")).collect())
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
