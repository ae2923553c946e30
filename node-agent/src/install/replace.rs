//! Writing into folders that runtimes read at any moment: a file is whole or not there.
//!
//! The new file is written beside the old one and renamed: a rename from another folder goes unseen by containerd,
//! and a program that runs cannot be written into (`ETXTBSY`). What must not go in here: what is written.

use std::fs::{self, File, Metadata, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::Path;

use anyhow::Context;

/// No runtime takes it for a configuration or a plugin. One name is enough: whoever writes holds the `Claim`.
const TEMPORARY: &str = ".portico.new";

/// To whom a new file belongs, and who may do what with it.
#[derive(Debug, Clone)]
pub(super) struct Like {
    permissions: Permissions,
    owner: Option<(u32, u32)>,
}

impl Like {
    /// As the file that it replaces.
    pub(super) fn old(file: &Metadata) -> Self {
        Self { permissions: file.permissions(), owner: Some((file.uid(), file.gid())) }
    }

    /// A file of ours.
    pub(super) fn mode(mode: u32) -> Self {
        Self { permissions: Permissions::from_mode(mode), owner: None }
    }
}

/// Puts a file in place, in that of an old one if there is one. `look` sees the new file, still under another name,
/// as the last thing before.
pub(super) fn replace(
    path: &Path,
    bytes: &[u8],
    like: &Like,
    look: impl FnOnce(&Path) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let folder = path.parent().with_context(|| format!("{} is in no folder", path.display()))?;
    clear(folder)?;
    let temporary = folder.join(TEMPORARY);
    let write = || {
        let mut file = File::options().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(bytes)?;
        if let Some((user, group)) = like.owner {
            fchown(&file, Some(user), Some(group))?;
        }
        file.set_permissions(like.permissions.clone())?;
        file.sync_all()
    };
    let put = || {
        write().with_context(|| format!("write {}", temporary.display()))?;
        look(&temporary)?;
        fs::rename(&temporary, path).with_context(|| format!("put {} in place", path.display()))?;
        let synced = File::open(folder).and_then(|folder| folder.sync_all());
        synced.with_context(|| format!("sync {}", folder.display()))
    };
    // It may be gone already.
    put().inspect_err(|_| drop(fs::remove_file(&temporary)))
}

/// Removes what somebody left behind who ended in the middle.
pub(super) fn clear(folder: &Path) -> anyhow::Result<()> {
    let path = folder.join(TEMPORARY);
    // Looked for first: a read-only folder refuses to remove even what is not there.
    if fs::symlink_metadata(&path).is_ok() { remove(&path).map(drop) } else { Ok(()) }
}

/// Removes a file; false where there was none.
pub(super) fn remove(path: &Path) -> anyhow::Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).with_context(|| format!("remove {}", path.display())),
    }
}

/// Has the runtime read its configuration again.
///
/// containerd ignores that files appear, and may look at what a rename tells before the new file is in place
/// (containerd#11715); nobody watches the folders of drop-ins. That a file is written to and goes is told reliably.
pub(super) fn nudge(folder: &Path) -> anyhow::Result<()> {
    let path = folder.join(TEMPORARY);
    let touch = || fs::write(&path, "\n").and_then(|()| fs::remove_file(&path));
    touch().with_context(|| format!("have the runtime read {} again", folder.display()))
}
