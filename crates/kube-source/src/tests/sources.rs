//! Tests of reading files and directories.
//!
//! Each test uses its own temporary directory.

use std::path::Path;

use support::temp_dir::TempDir;

use super::lines;
use crate::{Objects, ReadOptions, Report, Source, read};

fn read_path(path: &Path) -> (Objects, Report) {
    read(&[Source::Path(path.to_owned())], &ReadOptions::default())
}

/// Reads a directory, and returns the messages with paths relative to it.
fn read_dir(directory: &TempDir) -> (Objects, Vec<String>) {
    let (objects, report) = read_path(directory.path());
    let prefix = format!("{}/", directory.path().display());
    (objects, lines(&report).iter().map(|line| line.replace(&prefix, "")).collect())
}

fn service(name: &str) -> String {
    format!("apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{ports: [{{port: 1}}]}}\n")
}

#[test]
fn directory_is_searched_recursively_for_manifests() {
    let directory = TempDir::new("directory");
    directory.write("b.yaml", service("b"));
    directory.write("a.yml", service("a"));
    directory.write("sub/deep/c.json", r#"{"apiVersion":"v1","kind":"ConfigMap"}"#);
    directory.write("readme.md", "# no manifest");
    directory.write(".hidden.yaml", "[");
    directory.write(".git/x.yaml", "[");
    let (objects, lines) = read_dir(&directory);
    assert_eq!(lines, Vec::<String>::new());
    assert_eq!(objects.services.len(), 2);
    assert_eq!(read_path(directory.path()).1.ignored.len(), 1);
}

#[test]
fn files_are_read_in_path_order() {
    let directory = TempDir::new("order");
    directory.write("b.yaml", service("x"));
    directory.write("a/z.yaml", service("x"));
    let (_, lines) = read_dir(&directory);
    assert_eq!(
        lines,
        ["warning: b.yaml:1: document 1: Service default/x: replaces the object at a/z.yaml:1: document 1"]
    );
}

#[cfg(unix)]
#[test]
fn link_loops_end_and_broken_links_are_reported() {
    let directory = TempDir::new("loops");
    directory.write("a/x.yaml", service("x"));
    std::os::unix::fs::symlink("..", directory.join("a/up")).unwrap();
    std::os::unix::fs::symlink(".", directory.join("self")).unwrap();
    std::os::unix::fs::symlink("nowhere", directory.join("broken.yaml")).unwrap();
    let (objects, lines) = read_dir(&directory);
    assert_eq!(objects.services.len(), 1);
    assert_eq!(lines, ["broken.yaml: failed to open file: No such file or directory (os error 2)"]);
}

#[test]
fn missing_empty_and_undecodable_sources_do_not_affect_others() {
    let directory = TempDir::new("missing");
    directory.write("empty/x.txt", "");
    directory.write(
        "bad.yaml",
        [service("a").as_bytes(), b"---\nkind: \xff\n---\n", service("b").as_bytes()].concat(),
    );
    directory.write("utf16.yaml", b"\xff\xfea\0");
    directory.write("good.yaml", service("c"));
    let path = |name: &str| Source::Path(directory.join(name));
    let sources = ["none.yaml", "empty", "bad.yaml", "utf16.yaml", "good.yaml"].map(path);
    let (objects, report) = read(&sources, &ReadOptions::default());
    assert_eq!(objects.services.len(), 3);
    let prefix = format!("{}/", directory.path().display());
    let lines: Vec<String> = lines(&report).iter().map(|line| line.replace(&prefix, "")).collect();
    assert_eq!(
        lines,
        [
            "none.yaml: failed to open file: No such file or directory (os error 2)",
            "warning: empty: no .yaml, .yml or .json file in this directory",
            "bad.yaml:6:7: document 2: failed to parse document: not UTF-8",
            "utf16.yaml: failed to read file: unsupported encoding UTF-16: must be UTF-8",
        ]
    );
}

#[test]
fn dash_argument_is_standard_input() {
    assert_eq!(Source::from_arg("-"), Source::Stdin);
    assert_eq!("a.yaml".parse(), Ok(Source::Path("a.yaml".into())));
}
