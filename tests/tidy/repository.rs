//! The files of this repository, as the tidy test sees them.
//!
//! Files that git tracks or would track; without git (a source archive), everything outside target/.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// One text file, with its path from the root of the repository.
pub(crate) struct File {
    pub(crate) path: String,
    pub(crate) text: String,
}

impl File {
    /// A made-up file, to show that a check finds what it looks for.
    pub(crate) fn sample(path: &str, text: &str) -> Self {
        Self { path: path.to_owned(), text: text.to_owned() }
    }

    pub(crate) fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or(&self.path)
    }

    /// Lines with their numbers, as an editor counts them.
    pub(crate) fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text.lines().enumerate().map(|(index, line)| (index + 1, line))
    }
}

/// The root of the repository. Asked when the test runs: clones that share a target folder share the program,
/// and what was compiled in may be the folder of another clone.
pub(crate) fn root() -> PathBuf {
    let here = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    Path::new(&here).parent().expect("tests/ lies in the root").to_owned()
}

/// All text files, in the order of their paths.
pub(crate) fn files() -> Vec<File> {
    let mut paths = tracked().unwrap_or_else(|| walked(&root()));
    paths.sort();
    let texts = paths.into_iter().filter_map(|path| {
        let text = fs::read_to_string(root().join(&path)).ok()?; // deleted but still in the index, or binary
        Some(File { path, text })
    });
    texts.collect()
}

/// All Rust sources.
pub(crate) fn sources() -> Vec<File> {
    files().into_iter().filter(|file| file.path.ends_with(".rs")).collect()
}

/// One file that has to be there.
pub(crate) fn file(path: &str) -> File {
    let text = fs::read_to_string(root().join(path)).unwrap_or_else(|why| panic!("read {path}: {why}"));
    File { path: path.to_owned(), text }
}

/// Fails with one line for each finding; an empty list is a pass.
pub(crate) fn refuse(rule: &str, findings: &[String]) {
    assert!(findings.is_empty(), "{rule}\n  {}\n", findings.join("\n  "));
}

fn tracked() -> Option<Vec<String>> {
    let listing = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output()
        .ok()
        .filter(|output| output.status.success())?;
    let names = String::from_utf8(listing.stdout).ok()?;
    Some(names.split('\0').filter(|name| !name.is_empty()).map(str::to_owned).collect())
}

fn walked(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            if !matches!(entry.file_name().to_str(), Some("target" | ".git" | "corpus" | "artifacts")) {
                found.append(&mut walked(&path));
            }
        } else if let Some(name) = path.strip_prefix(root()).ok().and_then(Path::to_str) {
            found.push(name.to_owned());
        }
    }
    found
}

#[test]
fn git_and_the_walk_agree_on_the_sources() {
    let Some(tracked) = tracked() else { return };
    let walked = walked(&root());
    let lost: Vec<_> =
        tracked.iter().filter(|path| root().join(path).exists() && !walked.contains(path)).collect();
    assert!(lost.is_empty(), "git has these, the walk does not: {lost:?}");
}
