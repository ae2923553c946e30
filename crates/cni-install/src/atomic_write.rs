//! Atomic file replacement in directories that runtimes read at any moment.
//!
//! The new file is written next to the old one and renamed. containerd does not notice a rename from another
//! directory, and a running program cannot be overwritten (`ETXTBSY`).

use std::fs::{self, File, Metadata, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::Path;

use anyhow::Context;
use support::TemporaryFile;

/// Runtimes ignore a file of this name. One name suffices, because the `InstallLock` admits one writer.
const TEMPORARY: &str = ".portico.new";

/// The owner and the permissions of a new file.
#[derive(Debug, Clone)]
pub(crate) struct FileAttributes {
    permissions: Permissions,
    owner: Option<(u32, u32)>,
}

impl FileAttributes {
    /// Those of an existing file.
    pub(crate) fn of(file: &Metadata) -> Self {
        Self { permissions: file.permissions(), owner: Some((file.uid(), file.gid())) }
    }

    /// This mode, owned by the current user.
    pub(crate) fn with_mode(mode: u32) -> Self {
        Self { permissions: Permissions::from_mode(mode), owner: None }
    }
}

/// Creates or replaces a file. Immediately before the rename, `verify` gets the path of the new file, and can abort.
pub(crate) fn atomic_write(
    path: &Path,
    bytes: &[u8],
    attributes: &FileAttributes,
    verify: impl FnOnce(&Path) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let dir = path.parent().with_context(|| format!("{} has no parent directory", path.display()))?;
    remove_temporary(dir)?;
    let temporary = dir.join(TEMPORARY);
    let set_attributes = |file: &File| {
        if let Some((user, group)) = attributes.owner {
            fchown(file, Some(user), Some(group))?;
        }
        file.set_permissions(attributes.permissions.clone())
    };
    let file = TemporaryFile::create(&temporary, 0o600, bytes, set_attributes)
        .with_context(|| format!("failed to write {}", temporary.display()))?;
    verify(&temporary)?;
    file.rename(path).with_context(|| format!("failed to replace {}", path.display()))?;
    let synced = File::open(dir).and_then(|dir| dir.sync_all());
    synced.with_context(|| format!("failed to sync {}", dir.display()))
}

/// Removes the temporary file of a process that was interrupted.
pub(crate) fn remove_temporary(dir: &Path) -> anyhow::Result<()> {
    let path = dir.join(TEMPORARY);
    // On a read-only file system, unlink fails even if the file does not exist.
    if fs::symlink_metadata(&path).is_ok() { remove_if_exists(&path).map(drop) } else { Ok(()) }
}

/// Removes a file. Returns false if it did not exist.
pub(crate) fn remove_if_exists(path: &Path) -> anyhow::Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).with_context(|| format!("failed to remove {}", path.display())),
    }
}

/// Makes the runtime reload its configuration.
///
/// containerd ignores the creation of files, and may handle the event of a rename before the new file is in place
/// (containerd#11715); no runtime watches the directories of drop-ins. Events for a write and a removal are reliable.
pub(crate) fn trigger_cni_reload(conf_dir: &Path) -> anyhow::Result<()> {
    let path = conf_dir.join(TEMPORARY);
    let touch = || fs::write(&path, "\n").and_then(|()| fs::remove_file(&path));
    touch().with_context(|| format!("failed to trigger a reload of {}", conf_dir.display()))
}
