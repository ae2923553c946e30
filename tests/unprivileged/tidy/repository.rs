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
    /// Returns an invented file, to test a rule.
    pub(crate) fn sample(path: &str, text: &str) -> Self {
        Self { path: path.to_owned(), text: text.to_owned() }
    }

    pub(crate) fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or(&self.path)
    }

    /// Returns the lines with their numbers, from 1.
    pub(crate) fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text.lines().enumerate().map(|(index, line)| (index + 1, line))
    }
}

/// Returns the root of the repository at run time: clones that share a target directory share the program, so the path
/// at compile time may be that of another clone.
pub(crate) fn root() -> PathBuf {
    let here = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    Path::new(&here).parent().expect("tests/ is in the root").to_owned()
}

/// Returns all text files, ordered by path.
pub(crate) fn files() -> Vec<File> {
    let mut paths = tracked(&root()).unwrap_or_else(|| walked(&root(), &root()));
    paths.sort();
    let texts = paths.into_iter().filter_map(|path| {
        let text = fs::read_to_string(root().join(&path)).ok()?; // deleted but still in the index, or binary
        Some(File { path, text })
    });
    texts.collect()
}

/// Returns all Rust sources.
pub(crate) fn sources() -> Vec<File> {
    files().into_iter().filter(|file| file.path.ends_with(".rs")).collect()
}

/// Returns a file that must exist.
pub(crate) fn file(path: &str) -> File {
    let text = fs::read_to_string(root().join(path)).unwrap_or_else(|why| panic!("read {path}: {why}"));
    File { path: path.to_owned(), text }
}

/// Fails with one line for each finding, if there are any.
pub(crate) fn refuse(rule: &str, findings: &[String]) {
    assert!(findings.is_empty(), "{rule}\n  {}\n", findings.join("\n  "));
}

fn tracked(root: &Path) -> Option<Vec<String>> {
    let listing = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root)
        .output()
        .ok()
        .filter(|output| output.status.success())?;
    let names = String::from_utf8(listing.stdout).ok()?;
    Some(names.split('\0').filter(|name| !name.is_empty()).map(str::to_owned).collect())
}

fn walked(root: &Path, directory: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            if !matches!(entry.file_name().to_str(), Some("target" | ".git" | "corpus" | "artifacts")) {
                found.append(&mut walked(root, &path));
            }
        } else if let Some(name) = path.strip_prefix(root).ok().and_then(Path::to_str) {
            found.push(name.to_owned());
        }
    }
    found
}

#[test]
fn without_git_the_same_files_are_found() {
    let root = std::env::temp_dir().join(format!("portico-tidy-{}", std::process::id()));
    for directory in ["a/src", "target/debug", "fuzz/corpus"] {
        fs::create_dir_all(root.join(directory)).expect("create a directory");
    }
    for file in ["README.md", "a/src/lib.rs", "target/debug/built", "fuzz/corpus/input"] {
        fs::write(root.join(file), "text").expect("write a file");
    }
    fs::write(root.join(".gitignore"), "/target\n/fuzz/corpus\n").expect("write a file");
    let git = Command::new("git").args(["init", "-q"]).current_dir(&root).status();
    assert!(git.expect("run git; scripts/setup installs it").success());
    let (mut tracked, mut walked) = (tracked(&root).expect("a repository"), walked(&root, &root));
    tracked.sort();
    walked.sort();
    fs::remove_dir_all(&root).expect("remove the directory");
    assert_eq!(tracked, [".gitignore", "README.md", "a/src/lib.rs"]);
    assert_eq!(walked, tracked);
}
