//! `WatchedPaths`: the directories to watch, and the names of interest in each, so that no change of a file is missed.
//!
//! A path can contain symbolic links that are replaced (Kubernetes mounts swap the link `..data`), and directories that
//! are renamed or do not exist yet. Therefore each directory along a path is watched for the next component of the path.
//! `watcher` does the watching.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Component, Path, PathBuf};

use crate::manifests::source::{Listing, is_manifest, listing};

/// The maximum number of symbolic links in one path, as in the kernel.
const LINKS_MAX: usize = 40;

/// The names of interest in a directory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Interest {
    /// All names: the directory is searched for manifests.
    pub(super) all: bool,
    /// The next components of paths.
    pub(super) names: BTreeSet<OsString>,
    /// The files that are read.
    pub(super) files: BTreeSet<OsString>,
}

impl Interest {
    pub(super) fn contains(&self, name: &OsStr) -> bool {
        self.all || self.names.contains(name) || self.files.contains(name)
    }

    /// Whether a file of this name is read, so that it must not be read while another process writes it.
    pub(super) fn is_read(&self, name: &OsStr) -> bool {
        let is_hidden = name.as_encoded_bytes().starts_with(b".");
        self.files.contains(name) || (self.all && !is_hidden && is_manifest(Path::new(name)))
    }

    /// Whether changes of the content of files matter.
    pub(super) fn has_files(&self) -> bool {
        self.all || !self.files.is_empty()
    }
}

/// The directories to watch.
pub(super) type WatchedPaths = BTreeMap<PathBuf, Interest>;

/// Returns the directories to watch for absolute paths.
pub(super) fn watched_paths(paths: &[&Path]) -> WatchedPaths {
    let mut watched = WatchedPaths::new();
    for path in paths {
        follow(path, &mut watched);
        let Listing { files, directories, unreadable } = listing(path);
        for directory in directories.iter().chain(unreadable.iter().map(|problem| &problem.path)) {
            if let Some(real) = follow_link(directory, &mut watched) {
                watched.entry(real).or_default().all = true;
            }
        }
        for file in &files {
            follow_link(file, &mut watched);
        }
    }
    watched
}

/// Resolves a path, and watches its directories only if it ends in a link: those above it are watched already.
fn follow_link(path: &Path, watched: &mut WatchedPaths) -> Option<PathBuf> {
    let is_link = fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_symlink());
    if is_link { follow(path, watched) } else { fs::canonicalize(path).ok() }
}

/// Watches each directory along a path for the next component. Returns the resolved path if it exists.
fn follow(path: &Path, watched: &mut WatchedPaths) -> Option<PathBuf> {
    let mut remaining: VecDeque<OsString> = components(path);
    let mut current = PathBuf::from("/");
    let mut links = 0;
    while let Some(name) = remaining.pop_front() {
        if name == ".." {
            current.pop();
            continue;
        }
        let next = current.join(&name);
        let interest = watched.entry(current.clone()).or_default();
        let metadata = fs::symlink_metadata(&next);
        let is_link = metadata.as_ref().is_ok_and(fs::Metadata::is_symlink);
        let is_directory = metadata.as_ref().is_ok_and(fs::Metadata::is_dir);
        if remaining.is_empty() && !is_link && !is_directory {
            interest.files.insert(name);
        } else {
            interest.names.insert(name);
        }
        metadata.ok()?;
        if !is_link {
            current = next;
            continue;
        }
        links += 1;
        let target = fs::read_link(&next).ok().filter(|_| links <= LINKS_MAX)?;
        if target.is_absolute() {
            current = PathBuf::from("/");
        }
        for name in components(&target).into_iter().rev() {
            remaining.push_front(name);
        }
    }
    Some(current)
}

fn components(path: &Path) -> VecDeque<OsString> {
    let names = path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some(OsString::from("..")),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    });
    names.collect()
}
