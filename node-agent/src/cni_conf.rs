//! The folder in which runtimes find the configuration of their networks, read as libcni reads it.
//!
//! What must not go in here: what stands in a file.

use std::path::{Path, PathBuf};
use std::{fs, io};

/// What libcni takes for a configuration (`ConfFiles` in its conf.go, as containerd and CRI-O call it).
const KINDS: [&str; 3] = ["conf", "conflist", "json"];

/// The configurations in a folder, in the order in which runtimes take them: by name.
pub(crate) fn configurations(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let path = entry.path();
        let is_known = path.extension().is_some_and(|kind| KINDS.iter().any(|known| kind == *known));
        // A link to a folder counts, too: libcni looks at the entry alone.
        if is_known && !entry.file_type()?.is_dir() {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

/// Whether each plugin of this file has others beside it.
pub(crate) fn is_list(path: &Path) -> bool {
    path.extension().is_some_and(|kind| kind == "conflist")
}

/// Whether people do not see it, but the runtime does.
pub(crate) fn is_hidden(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
}
