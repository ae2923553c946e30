//! Atomic replacement of files: a reader, also after a crash, finds the old or the new content, never a part of it.
//!
//! The content is written to a temporary file in the same directory, which is synced and then renamed.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Creates or replaces a file. The temporary file must not exist, and gets this mode (restricted by the umask).
///
/// # Errors
/// If the file system rejects a step. The file then has its old content, and the temporary file is removed.
pub fn write_atomically(path: &Path, temporary: &Path, mode: u32, content: &[u8]) -> io::Result<()> {
    TemporaryFile::create(temporary, mode, content, |_| Ok(()))?.rename(path)
}

/// A complete file that is removed on drop, unless it was renamed.
#[derive(Debug)]
pub struct TemporaryFile<'a> {
    path: &'a Path,
    is_renamed: bool,
}

impl<'a> TemporaryFile<'a> {
    /// Creates a file with this mode and content, and syncs it after `set_attributes`. The file is closed then, so that
    /// it can be executed.
    ///
    /// # Errors
    /// If the file exists, or the file system rejects a step. The file is then removed.
    pub fn create(
        path: &'a Path,
        mode: u32,
        content: &[u8],
        set_attributes: impl FnOnce(&File) -> io::Result<()>,
    ) -> io::Result<Self> {
        let created = Self { path, is_renamed: false };
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
        file.write_all(content)?;
        set_attributes(&file)?;
        file.sync_all()?;
        Ok(created)
    }

    /// Renames the file, which replaces the one at this path.
    ///
    /// # Errors
    /// If the file system rejects it.
    pub fn rename(mut self, path: &Path) -> io::Result<()> {
        fs::rename(self.path, path)?;
        self.is_renamed = true;
        Ok(())
    }
}

impl Drop for TemporaryFile<'_> {
    fn drop(&mut self) {
        if !self.is_renamed {
            let _ = fs::remove_file(self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::temp_dir::TempDir;

    #[test]
    fn file_is_replaced_and_has_its_mode() {
        let dir = TempDir::new("replace");
        let (path, temporary) = (dir.join("file"), dir.join("file.new"));
        write_atomically(&path, &temporary, 0o600, b"first").expect("write");
        write_atomically(&path, &temporary, 0o600, b"second").expect("replace");
        assert_eq!(fs::read(&path).expect("read"), b"second");
        assert_eq!(fs::metadata(&path).expect("metadata").permissions().mode() & 0o777, 0o600);
        assert!(!temporary.exists());
    }

    #[test]
    fn failed_write_leaves_the_old_file_only() {
        let dir = TempDir::new("fail");
        let (path, temporary) = (dir.join("dir"), dir.join("dir.new"));
        fs::create_dir(&path).expect("create a directory");
        fs::set_permissions(&path, Permissions::from_mode(0o700)).expect("set the mode");
        write_atomically(&path, &temporary, 0o600, b"x")
            .expect_err("a directory cannot be replaced by a file");
        assert!(path.is_dir() && !temporary.exists());
    }
}
