//! Places: which folders are watched, and for which names, so that no way of changing a file goes unseen.
//!
//! A path may lead through symbolic links, each of which may be turned elsewhere (Kubernetes mounts swap the link
//! `..data`), and through folders that are renamed or do not exist yet. So each folder on the way is watched for the
//! next name of the way. What must not go in here: the watching itself.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Component, Path, PathBuf};

use crate::source::{Listing, is_manifest, listing};

/// Links that are followed for one path, as many as the kernel follows.
const LINKS_MAX: usize = 40;

/// What of a folder matters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Interest {
    /// Every name: manifests are looked for in it.
    pub(super) all: bool,
    /// These names.
    pub(super) names: BTreeSet<OsString>,
    /// Those of the names that are files which are read.
    pub(super) files: BTreeSet<OsString>,
}

impl Interest {
    pub(super) fn is_in(&self, name: &OsStr) -> bool {
        self.all || self.names.contains(name) || self.files.contains(name)
    }

    /// Whether a file of this name is read: then nobody should be writing it.
    pub(super) fn is_read(&self, name: &OsStr) -> bool {
        let is_hidden = name.as_encoded_bytes().starts_with(b".");
        self.files.contains(name) || (self.all && !is_hidden && is_manifest(Path::new(name)))
    }

    /// Whether changes of a file's content are to be told.
    pub(super) fn has_files(&self) -> bool {
        self.all || !self.files.is_empty()
    }
}

/// The folders to be watched for these paths, which are absolute.
pub(super) type Places = BTreeMap<PathBuf, Interest>;

pub(super) fn places(paths: &[&Path]) -> Places {
    let mut places = Places::new();
    for path in paths {
        follow(path, &mut places);
        let Listing { files, folders, unreadable } = listing(path);
        for folder in folders.iter().chain(unreadable.iter().map(|problem| &problem.path)) {
            if let Some(real) = follow_link(folder, &mut places) {
                places.entry(real).or_default().all = true;
            }
        }
        for file in &files {
            follow_link(file, &mut places);
        }
    }
    places
}

/// Follows a path only if it ends in a link: the way to it is known. Says where it leads.
fn follow_link(path: &Path, places: &mut Places) -> Option<PathBuf> {
    let is_link = fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_symlink());
    if is_link { follow(path, places) } else { fs::canonicalize(path).ok() }
}

/// Watches each folder on the way for the next step of it. Says where the way ends, if it does not break off.
fn follow(path: &Path, places: &mut Places) -> Option<PathBuf> {
    let mut steps: VecDeque<OsString> = steps(path);
    let mut here = PathBuf::from("/");
    let mut links = 0;
    while let Some(step) = steps.pop_front() {
        if step == ".." {
            here.pop();
            continue;
        }
        let next = here.join(&step);
        let interest = places.entry(here.clone()).or_default();
        let metadata = fs::symlink_metadata(&next);
        let is_link = metadata.as_ref().is_ok_and(fs::Metadata::is_symlink);
        let is_folder = metadata.as_ref().is_ok_and(fs::Metadata::is_dir);
        if steps.is_empty() && !is_link && !is_folder {
            interest.files.insert(step);
        } else {
            interest.names.insert(step);
        }
        metadata.ok()?;
        if !is_link {
            here = next;
            continue;
        }
        links += 1;
        let target = fs::read_link(&next).ok().filter(|_| links <= LINKS_MAX)?;
        if target.is_absolute() {
            here = PathBuf::from("/");
        }
        for step in self::steps(&target).into_iter().rev() {
            steps.push_front(step);
        }
    }
    Some(here)
}

fn steps(path: &Path) -> VecDeque<OsString> {
    let steps = path.components().filter_map(|component| match component {
        Component::Normal(step) => Some(step.to_owned()),
        Component::ParentDir => Some(OsString::from("..")),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    });
    steps.collect()
}
