//! Files and folders.
//!
//! Each test has a folder of its own below the system's temporary one, and removes it.

use super::folder::Folder;
use super::lines;
use crate::{Objects, ReadOptions, Report, Source, read};
use std::path::Path;

fn read_path(path: &Path) -> (Objects, Report) {
    read(&[Source::Path(path.to_owned())], &ReadOptions::default())
}

fn service(name: &str) -> String {
    format!("apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{ports: [{{port: 1}}]}}\n")
}

#[test]
fn a_folder_stands_for_the_manifests_in_it_and_below() {
    let folder = Folder::new("folder");
    folder.write("b.yaml", service("b"));
    folder.write("a.yml", service("a"));
    folder.write("sub/deep/c.json", r#"{"apiVersion":"v1","kind":"ConfigMap"}"#);
    folder.write("readme.md", "# no manifest");
    folder.write(".hidden.yaml", "[");
    folder.write(".git/x.yaml", "[");
    let (objects, lines) = folder.read();
    assert_eq!(lines, Vec::<String>::new());
    assert_eq!(objects.services.len(), 2);
    assert_eq!(read_path(&folder.0).1.ignored.len(), 1);
}

#[test]
fn files_are_read_in_the_order_of_their_paths() {
    let folder = Folder::new("order");
    folder.write("b.yaml", service("x"));
    folder.write("a/z.yaml", service("x"));
    let (_, lines) = folder.read();
    assert_eq!(
        lines,
        [
            "warning: b.yaml:1: document 1: Service default/x: replaces the one read before, at a/z.yaml:1: document 1"
        ]
    );
}

#[cfg(unix)]
#[test]
fn loops_of_links_end_and_broken_links_are_named() {
    let folder = Folder::new("loops");
    folder.write("a/x.yaml", service("x"));
    std::os::unix::fs::symlink("..", folder.0.join("a/up")).unwrap();
    std::os::unix::fs::symlink(".", folder.0.join("self")).unwrap();
    std::os::unix::fs::symlink("nowhere", folder.0.join("broken.yaml")).unwrap();
    let (objects, lines) = folder.read();
    assert_eq!(objects.services.len(), 1);
    assert_eq!(lines, ["broken.yaml: open file: No such file or directory (os error 2)"]);
}

#[test]
fn a_missing_file_an_empty_folder_and_bad_bytes_lose_nothing_else() {
    let folder = Folder::new("missing");
    folder.write("empty/x.txt", "");
    folder.write(
        "bad.yaml",
        [service("a").as_bytes(), b"---\nkind: \xff\n---\n", service("b").as_bytes()].concat(),
    );
    folder.write("utf16.yaml", b"\xff\xfea\0");
    folder.write("good.yaml", service("c"));
    let path = |name: &str| Source::Path(folder.0.join(name));
    let sources = ["none.yaml", "empty", "bad.yaml", "utf16.yaml", "good.yaml"].map(path);
    let (objects, report) = read(&sources, &ReadOptions::default());
    assert_eq!(objects.services.len(), 3);
    let prefix = format!("{}/", folder.0.display());
    let lines: Vec<String> = lines(&report).iter().map(|line| line.replace(&prefix, "")).collect();
    assert_eq!(
        lines,
        [
            "none.yaml: open file: No such file or directory (os error 2)",
            "warning: empty: no .yaml, .yml or .json file in this folder",
            "bad.yaml:6:7: document 2: read document: not UTF-8",
            "utf16.yaml: read file: it is UTF-16, but YAML and JSON are read as UTF-8",
        ]
    );
}

#[test]
fn a_dash_is_standard_input() {
    assert_eq!(Source::from_arg("-"), Source::Stdin);
    assert_eq!("a.yaml".parse(), Ok(Source::Path("a.yaml".into())));
}
