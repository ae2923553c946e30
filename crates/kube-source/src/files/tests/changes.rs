//! Tests of the ways in which files change: mounts, editors, and directories that are removed and created.
//!
//! The effect of a change on objects is tested in the parent module.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};

use support::temp_dir::TempDir;

use super::{TestWatch, service};
use crate::Event;

#[test]
fn swap_of_a_kubernetes_mount_changes_only_what_differs() {
    let directory = TempDir::new("live-mount");
    directory.write("..1/a.yaml", service("a"));
    directory.write("..1/b.yaml", service("b"));
    symlink("..1", directory.join("..data")).unwrap();
    for name in ["a.yaml", "b.yaml"] {
        symlink(format!("..data/{name}"), directory.join(name)).unwrap();
    }
    let mut watched = TestWatch::synced(&directory);
    assert_eq!(watched.snapshot.service_count(), 2);

    directory.write("..2/a.yaml", service("a2"));
    directory.write("..2/b.yaml", service("b"));
    symlink("..2", directory.join("..data_tmp")).unwrap();
    fs::rename(directory.join("..data_tmp"), directory.join("..data")).unwrap();
    fs::remove_dir_all(directory.join("..1")).unwrap();
    watched.until_services(&["a2", "b"]);
    assert_eq!(watched.removed, ["default/a"]);
}

#[test]
fn file_in_a_kubernetes_mount_is_followed_through_its_links() {
    let directory = TempDir::new("live-mount-file");
    directory.write("..1/a.yaml", service("a"));
    symlink("..1", directory.join("..data")).unwrap();
    symlink("..data/a.yaml", directory.join("a.yaml")).unwrap();
    let mut watched = TestWatch::new(&directory.join("a.yaml"));
    watched.until(|event, _| *event == Event::Synced);
    directory.write("..2/a.yaml", service("b"));
    symlink("..2", directory.join("..data_tmp")).unwrap();
    fs::rename(directory.join("..data_tmp"), directory.join("..data")).unwrap();
    watched.until_services(&["b"]);
}

#[test]
fn target_of_a_link_is_watched() {
    let (directory, elsewhere) = (TempDir::new("live-link"), TempDir::new("live-elsewhere"));
    elsewhere.write("x", service("a"));
    symlink(elsewhere.join("x"), directory.join("a.yaml")).unwrap();
    let mut watched = TestWatch::synced(&directory);
    elsewhere.write("x", service("b"));
    watched.until_services(&["b"]);
}

#[test]
fn file_replaced_by_rename_loses_no_object() {
    let directory = TempDir::new("live-rename");
    directory.write("a.yaml", service("a"));
    let mut watched = TestWatch::synced(&directory);
    directory.write("a.yaml.tmp", [service("a"), service("b")].join("---\n"));
    fs::rename(directory.join("a.yaml.tmp"), directory.join("a.yaml")).unwrap();
    watched.until_services(&["a", "b"]);
    assert_eq!(watched.removed, [""; 0]);
}

#[test]
fn file_moved_aside_by_an_editor_loses_no_object() {
    let directory = TempDir::new("live-aside");
    directory.write("a.yaml", service("a"));
    let path = directory.join("a.yaml");
    let mut watched = TestWatch::new(&path);
    watched.until(|event, _| *event == Event::Synced);
    fs::rename(&path, directory.join("a.yaml~")).unwrap();
    fs::write(&path, [service("a"), service("b")].join("---\n")).unwrap();
    watched.until_services(&["a", "b"]);
    assert_eq!(watched.removed, [""; 0]);
}

#[test]
fn half_written_file_is_not_read() {
    let directory = TempDir::new("live-half");
    directory.write("a.yaml", [service("a"), service("b")].join("---\n"));
    let mut watched = TestWatch::synced(&directory);
    // The content so far ends with a complete document, so it would be valid.
    let mut file = File::create(directory.join("a.yaml")).unwrap();
    file.write_all(service("a").as_bytes()).unwrap();
    directory.write("c.yaml", service("c"));
    file.write_all(format!("---\n{}---\n{}", service("b"), service("d")).as_bytes()).unwrap();
    drop(file);
    watched.until_services(&["a", "b", "c", "d"]);
    assert_eq!(watched.removed, [""; 0]);
}

#[test]
fn truncated_file_has_no_objects_once_closed() {
    let directory = TempDir::new("live-truncated");
    directory.write("a.yaml", service("a"));
    let mut watched = TestWatch::synced(&directory);
    directory.write("a.yaml", "");
    watched.until_services(&[]);
}

#[test]
fn recreated_directory_is_watched_again() {
    let outer = TempDir::new("live-directory");
    outer.write("in/deep/a.yaml", service("a"));
    let mut watched = TestWatch::new(&outer.join("in/deep"));
    watched.until(|event, _| *event == Event::Synced);
    fs::remove_dir_all(outer.join("in")).unwrap();
    assert!(watched.next_error().contains("in/deep"));
    assert_eq!(watched.removed, [""; 0]);

    outer.write("in/deep/b.yaml", service("b"));
    watched.until(|event, _| *event == Event::Recovered);
    watched.until_services(&["b"]);
    outer.write("in/deep/c.yaml", service("c"));
    watched.until_services(&["b", "c"]);
}

#[test]
fn new_subdirectories_are_watched() {
    let directory = TempDir::new("live-below");
    let mut watched = TestWatch::synced(&directory);
    directory.write("one/two/a.yaml", service("a"));
    watched.until_services(&["a"]);
    directory.write("one/two/three/b.yaml", service("b"));
    watched.until_services(&["a", "b"]);
    fs::rename(directory.join("one/two"), directory.join("moved")).unwrap();
    directory.write("moved/c.yaml", service("c"));
    watched.until_services(&["a", "b", "c"]);
    assert_eq!(watched.removed, [""; 0]);
}

#[test]
fn missing_path_syncs_once_it_exists() {
    let directory = TempDir::new("live-later");
    let mut watched = TestWatch::new(&directory.join("later/a.yaml"));
    let events = watched.until(|event, _| matches!(event, Event::Outage(_)));
    assert_eq!(events.len(), 1, "a missing path cannot be synced: {events:?}");
    directory.write("later/a.yaml", service("a"));
    watched.until(|event, _| *event == Event::Synced);
    assert_eq!(watched.snapshot.service_count(), 1);
}

#[test]
fn unreadable_file_keeps_its_objects() {
    let directory = TempDir::new("live-forbidden");
    directory.write("a.yaml", service("a"));
    let mut watched = TestWatch::synced(&directory);
    let path = directory.join("a.yaml");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
    if File::open(&path).is_ok() {
        // Root can read any file, so use a link to itself, which no process can open.
        fs::remove_file(&path).unwrap();
        symlink(&path, &path).unwrap();
    }
    watched.next_error();
    assert_eq!(watched.snapshot.service_count(), 1);
    fs::remove_file(&path).unwrap();
    directory.write("a.yaml", service("a"));
    watched.until(|event, _| *event == Event::Recovered);
    assert_eq!(watched.removed, [""; 0]);
}
