//! The CNI configuration directory of the runtime, read as libcni reads it.
//!
//! Only the names of files matter here. Their content is parsed by the installer and by the agent's recovery.

use std::path::{Path, PathBuf};
use std::{fs, io};

/// The file name extensions of configurations, as containerd and CRI-O pass them to libcni (`ConfFiles` in conf.go).
const EXTENSIONS: [&str; 3] = ["conf", "conflist", "json"];

/// Lists the configuration files of a directory in the order in which runtimes use them: by name.
pub fn configurations(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let path = entry.path();
        let is_conf = path.extension().is_some_and(|found| EXTENSIONS.iter().any(|known| found == *known));
        // A link to a directory counts, because libcni does not follow links here.
        if is_conf && !entry.file_type()?.is_dir() {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

/// Whether the file is a list of plugins, by its name.
pub(crate) fn is_list(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "conflist")
}

/// Whether the name starts with a dot. Runtimes use such files, too.
pub(crate) fn is_hidden(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
}
