//! `Source`: where objects are read from.
//!
//! A folder stands for the manifests in it and below it, in the order of their paths. What must not go in
//! here: the content of files.

use std::collections::HashSet;
use std::convert::Infallible;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The ends of file names that a folder is searched for.
const EXTENSIONS: [&str; 3] = ["yaml", "yml", "json"];

/// Where objects are read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A file, or a folder: the `*.yaml`, `*.yml` and `*.json` in it and below, hidden ones excepted.
    Path(PathBuf),
    /// Standard input.
    Stdin,
}

impl Source {
    /// The source that a command line names: `-` is standard input.
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

/// A file that could not be looked at.
#[derive(Debug)]
pub(crate) struct Unreadable {
    pub(crate) path: PathBuf,
    pub(crate) message: String,
}

/// What a path stands for.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    /// The files, sorted.
    pub(crate) files: Vec<PathBuf>,
    /// The folders that were searched, by whatever path.
    pub(crate) folders: Vec<PathBuf>,
    /// What could not be looked at.
    pub(crate) unreadable: Vec<Unreadable>,
}

/// Lists what a path stands for: itself, if it is no folder.
pub(crate) fn listing(path: &Path) -> Listing {
    if !path.is_dir() {
        return Listing { files: vec![path.to_owned()], ..Listing::default() };
    }
    let Listing { mut files, folders: mut searched, mut unreadable } = Listing::default();
    let mut folders = vec![path.to_owned()];
    // A folder is entered once, by whatever link: loops end.
    let mut entered = HashSet::new();
    while let Some(folder) = folders.pop() {
        let mut fail = |message: String| unreadable.push(Unreadable { path: folder.clone(), message });
        match fs::canonicalize(&folder) {
            Ok(real) if !entered.insert(real.clone()) => continue,
            Ok(_) => {}
            Err(error) => {
                fail(format!("open folder: {error}"));
                continue;
            }
        }
        match entries(&folder) {
            Ok(entries) => {
                for entry in entries {
                    if entry.is_dir() {
                        folders.push(entry);
                    } else if is_manifest(&entry) {
                        files.push(entry);
                    }
                }
            }
            Err(error) => fail(format!("read folder: {error}")),
        }
        searched.push(folder);
    }
    files.sort_unstable();
    unreadable.sort_by(|a, b| a.path.cmp(&b.path));
    Listing { files, folders: searched, unreadable }
}

fn entries(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut entries = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if !entry.file_name().as_encoded_bytes().starts_with(b".") {
            entries.push(entry.path());
        }
    }
    entries.sort_unstable_by(|a, b| b.cmp(a));
    Ok(entries)
}

/// Whether a folder is searched for files of this name.
pub(crate) fn is_manifest(path: &Path) -> bool {
    path.extension().and_then(|extension| extension.to_str()).is_some_and(|end| EXTENSIONS.contains(&end))
}
