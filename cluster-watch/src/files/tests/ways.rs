//! The ways in which files change: mounts, editors, folders that come and go.
//!
//! What must not go in here: what a change means for objects.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};

use super::{Watched, service};
use crate::Event;
use crate::tests::folder::Folder;

#[test]
fn a_kubernetes_mount_that_is_swapped_is_read_anew_and_nothing_flaps() {
    let folder = Folder::new("live-mount");
    folder.write("..1/a.yaml", service("a"));
    folder.write("..1/b.yaml", service("b"));
    symlink("..1", folder.0.join("..data")).unwrap();
    for name in ["a.yaml", "b.yaml"] {
        symlink(format!("..data/{name}"), folder.0.join(name)).unwrap();
    }
    let mut watched = Watched::synced(&folder);
    assert_eq!(watched.snapshot.service_count(), 2);

    folder.write("..2/a.yaml", service("a2"));
    folder.write("..2/b.yaml", service("b"));
    symlink("..2", folder.0.join("..data_tmp")).unwrap();
    fs::rename(folder.0.join("..data_tmp"), folder.0.join("..data")).unwrap();
    fs::remove_dir_all(folder.0.join("..1")).unwrap();
    watched.until_services(&["a2", "b"]);
    assert_eq!(watched.removed, ["default/a"]);
}

#[test]
fn a_file_given_directly_in_a_mount_is_followed_through_its_links() {
    let folder = Folder::new("live-mount-file");
    folder.write("..1/a.yaml", service("a"));
    symlink("..1", folder.0.join("..data")).unwrap();
    symlink("..data/a.yaml", folder.0.join("a.yaml")).unwrap();
    let mut watched = Watched::new(&folder.0.join("a.yaml"));
    watched.until(|event, _| *event == Event::Synced);
    folder.write("..2/a.yaml", service("b"));
    symlink("..2", folder.0.join("..data_tmp")).unwrap();
    fs::rename(folder.0.join("..data_tmp"), folder.0.join("..data")).unwrap();
    watched.until_services(&["b"]);
}

#[test]
fn a_link_to_a_file_elsewhere_is_watched_where_it_leads() {
    let (folder, elsewhere) = (Folder::new("live-link"), Folder::new("live-elsewhere"));
    elsewhere.write("x", service("a"));
    symlink(elsewhere.0.join("x"), folder.0.join("a.yaml")).unwrap();
    let mut watched = Watched::synced(&folder);
    elsewhere.write("x", service("b"));
    watched.until_services(&["b"]);
}

#[test]
fn a_file_that_is_replaced_by_renaming_never_goes() {
    let folder = Folder::new("live-rename");
    folder.write("a.yaml", service("a"));
    let mut watched = Watched::synced(&folder);
    folder.write("a.yaml.tmp", [service("a"), service("b")].join("---\n"));
    fs::rename(folder.0.join("a.yaml.tmp"), folder.0.join("a.yaml")).unwrap();
    watched.until_services(&["a", "b"]);
    assert_eq!(watched.removed, [""; 0]);
}

#[test]
fn a_file_that_an_editor_moves_aside_first_never_goes() {
    let folder = Folder::new("live-aside");
    folder.write("a.yaml", service("a"));
    let path = folder.0.join("a.yaml");
    let mut watched = Watched::new(&path);
    watched.until(|event, _| *event == Event::Synced);
    fs::rename(&path, folder.0.join("a.yaml~")).unwrap();
    fs::write(&path, [service("a"), service("b")].join("---\n")).unwrap();
    watched.until_services(&["a", "b"]);
    assert_eq!(watched.removed, [""; 0]);
}

#[test]
fn a_file_that_is_being_written_is_not_read() {
    let folder = Folder::new("live-half");
    folder.write("a.yaml", [service("a"), service("b")].join("---\n"));
    let mut watched = Watched::synced(&folder);
    // It ends where a document does: read now, it would look whole.
    let mut file = File::create(folder.0.join("a.yaml")).unwrap();
    file.write_all(service("a").as_bytes()).unwrap();
    folder.write("c.yaml", service("c"));
    file.write_all(format!("---\n{}---\n{}", service("b"), service("d")).as_bytes()).unwrap();
    drop(file);
    watched.until_services(&["a", "b", "c", "d"]);
    assert_eq!(watched.removed, [""; 0]);
}

#[test]
fn a_truncated_file_is_an_empty_one_once_it_is_closed() {
    let folder = Folder::new("live-truncated");
    folder.write("a.yaml", service("a"));
    let mut watched = Watched::synced(&folder);
    folder.write("a.yaml", "");
    watched.until_services(&[]);
}

#[test]
fn a_folder_that_is_removed_and_comes_again_is_watched_again() {
    let outer = Folder::new("live-folder");
    outer.write("in/deep/a.yaml", service("a"));
    let mut watched = Watched::new(&outer.0.join("in/deep"));
    watched.until(|event, _| *event == Event::Synced);
    fs::remove_dir_all(outer.0.join("in")).unwrap();
    assert!(watched.trouble().contains("in/deep"));
    assert_eq!(watched.removed, [""; 0]);

    outer.write("in/deep/b.yaml", service("b"));
    watched.until(|event, _| *event == Event::Recovered);
    watched.until_services(&["b"]);
    outer.write("in/deep/c.yaml", service("c"));
    watched.until_services(&["b", "c"]);
}

#[test]
fn new_folders_below_are_watched_too() {
    let folder = Folder::new("live-below");
    let mut watched = Watched::synced(&folder);
    folder.write("one/two/a.yaml", service("a"));
    watched.until_services(&["a"]);
    folder.write("one/two/three/b.yaml", service("b"));
    watched.until_services(&["a", "b"]);
    fs::rename(folder.0.join("one/two"), folder.0.join("moved")).unwrap();
    folder.write("moved/c.yaml", service("c"));
    watched.until_services(&["a", "b", "c"]);
    assert_eq!(watched.removed, [""; 0]);
}

#[test]
fn a_path_that_does_not_exist_yet_is_waited_for() {
    let folder = Folder::new("live-later");
    let mut watched = Watched::new(&folder.0.join("later/a.yaml"));
    let events = watched.until(|event, _| matches!(event, Event::Trouble(_)));
    assert_eq!(events.len(), 1, "what is not there cannot be complete: {events:?}");
    folder.write("later/a.yaml", service("a"));
    watched.until(|event, _| *event == Event::Synced);
    assert_eq!(watched.snapshot.service_count(), 1);
}

#[test]
fn a_file_that_may_not_be_read_keeps_what_it_said() {
    let folder = Folder::new("live-forbidden");
    folder.write("a.yaml", service("a"));
    let mut watched = Watched::synced(&folder);
    let path = folder.0.join("a.yaml");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
    if File::open(&path).is_ok() {
        // Root may read everything: what cannot be opened by anyone has to do.
        fs::remove_file(&path).unwrap();
        symlink(&path, &path).unwrap();
    }
    watched.trouble();
    assert_eq!(watched.snapshot.service_count(), 1);
    fs::remove_file(&path).unwrap();
    folder.write("a.yaml", service("a"));
    watched.until(|event, _| *event == Event::Recovered);
    assert_eq!(watched.removed, [""; 0]);
}
