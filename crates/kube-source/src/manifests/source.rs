//! `Source`: where objects are read from, and `Listing`: the files of a path.
//!
//! A directory contains manifests, also in its subdirectories, which are sorted by path. The content of files does not
//! belong here.

use std::collections::HashSet;
use std::convert::Infallible;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The extensions of manifests in a directory.
const EXTENSIONS: [&str; 3] = ["yaml", "yml", "json"];

/// Where objects are read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A file, or a directory with `*.yaml`, `*.yml` and `*.json` files, searched recursively without hidden files.
    Path(PathBuf),
    /// Standard input.
    Stdin,
}

impl Source {
    /// Returns the source for a command-line argument. `-` is standard input.
    #[must_use]
    pub fn from_arg(arg: &str) -> Self {
        if arg == "-" { Self::Stdin } else { Self::Path(arg.into()) }
    }
}

impl FromStr for Source {
    type Err = Infallible;

    fn from_str(arg: &str) -> Result<Self, Infallible> {
        Ok(Self::from_arg(arg))
    }
}

/// A path that cannot be read.
#[derive(Debug)]
pub(crate) struct Unreadable {
    pub(crate) path: PathBuf,
    pub(crate) message: String,
}

/// The files of a path.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    /// The files, sorted.
    pub(crate) files: Vec<PathBuf>,
    /// The directories that were searched. A directory that several links lead to can be listed several times.
    pub(crate) directories: Vec<PathBuf>,
    /// The paths that cannot be read.
    pub(crate) unreadable: Vec<Unreadable>,
}

/// Lists the files of a path: the path itself unless it is a directory.
pub(crate) fn listing(path: &Path) -> Listing {
    if !path.is_dir() {
        return Listing { files: vec![path.to_owned()], ..Listing::default() };
    }
    let Listing { mut files, mut directories, mut unreadable } = Listing::default();
    let mut pending = vec![path.to_owned()];
    // Each directory is entered once, so that loops of symbolic links end.
    let mut entered = HashSet::new();
    while let Some(directory) = pending.pop() {
        let mut fail = |message: String| unreadable.push(Unreadable { path: directory.clone(), message });
        match fs::canonicalize(&directory) {
            Ok(real) if !entered.insert(real.clone()) => continue,
            Ok(_) => {}
            Err(error) => {
                fail(format!("failed to open directory: {error}"));
                continue;
            }
        }
        match entries(&directory) {
            Ok(entries) => {
                for entry in entries {
                    if entry.is_dir() {
                        pending.push(entry);
                    } else if is_manifest(&entry) {
                        files.push(entry);
                    }
                }
            }
            Err(error) => fail(format!("failed to read directory: {error}")),
        }
        directories.push(directory);
    }
    files.sort_unstable();
    unreadable.sort_by(|a, b| a.path.cmp(&b.path));
    Listing { files, directories, unreadable }
}

/// Returns the entries that are not hidden, in descending order.
fn entries(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut entries = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if !entry.file_name().as_encoded_bytes().starts_with(b".") {
            entries.push(entry.path());
        }
    }
    entries.sort_unstable_by(|a, b| b.cmp(a));
    Ok(entries)
}

/// Whether a file in a directory is a manifest, by its extension.
pub(crate) fn is_manifest(path: &Path) -> bool {
    path.extension().and_then(|extension| extension.to_str()).is_some_and(|text| EXTENSIONS.contains(&text))
}
