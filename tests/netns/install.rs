//! `portico install` where the file system refuses: no space, and folders that are read-only.
//!
//! Each test mounts a small file system of its own, for which it has a mount namespace of its own.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use nix::sched::{CloneFlags, unshare};
use test_support::namespace::{bare, run};
use test_support::temp_dir::TempDir;

const BARE: &str = r#"{"cniVersion": "1.0.0", "name": "pods", "plugins": [{"type": "bridge"}]}"#;
/// Speaks as the plugin does, and takes some space.
const PLUGIN: &str = "#!/bin/sh\necho '{\"supportedVersions\":[\"1.0.0\"]}'\n";
/// What the small file systems hold.
const PAGES: usize = 8;
const PAGE: usize = 4096;

/// Gives `body` a node with a small file system at the folder of this name.
fn with_small(test: &str, name: &str, body: impl FnOnce(&TempDir) + Send) {
    let folder = TempDir::new(test);
    bare(|| {
        unshare(CloneFlags::CLONE_NEWNS).expect("a mount namespace: start with scripts/netns-test");
        run("mount", &["--make-rprivate", "/"], "");
        for name in ["bin", "net.d"] {
            fs::create_dir_all(folder.join(name)).expect("a folder");
        }
        let place = folder.join(name).display().to_string();
        run("mount", &["-t", "tmpfs", "-o", &format!("size={}", PAGES * PAGE), "tmpfs", &place], "");
        fs::write(folder.join("net.d/10-net.conflist"), BARE).expect("a configuration");
        fs::write(folder.join("portico-cni"), format!("{PLUGIN}#{}\n", "x".repeat(2 * PAGE)))
            .expect("a plugin");
        let mode = fs::Permissions::from_mode(0o755);
        fs::set_permissions(folder.join("portico-cni"), mode).expect("a mode");
        body(&folder);
    });
}

/// Exit code and what it said.
fn portico(folder: &TempDir, verb: &str) -> (i32, String) {
    let test = std::env::current_exe().expect("this test's own path");
    let program = test.ancestors().nth(2).expect("target/debug/deps/test").join("portico");
    let mut command = Command::new(program);
    command.arg(verb).arg("--cni-bin-dir").arg(folder.join("bin"));
    command.arg("--cni-conf-dir").arg(folder.join("net.d"));
    if verb == "install" {
        command.arg("--plugin").arg(folder.join("portico-cni"));
    }
    let output = command.output().expect("start portico: scripts/netns-test builds it");
    let said = [output.stdout, output.stderr].concat();
    (output.status.code().expect("it ends by itself"), String::from_utf8(said).expect("text"))
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("a folder").flatten();
    let mut names: Vec<String> =
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn conf(folder: &TempDir) -> String {
    fs::read_to_string(folder.join("net.d/10-net.conflist")).expect("a configuration")
}

#[test]
fn install_on_a_full_disk_changes_nothing() {
    for name in ["bin", "net.d"] {
        with_small(&format!("space-{name}"), name, |folder| {
            let filler = folder.join(name).join("filler");
            // As much as goes.
            let _ = fs::write(&filler, vec![7; PAGES * PAGE]);
            let (code, said) = portico(folder, "install");
            assert!(code == 1 && said.contains("No space left on device"), "{said}");
            assert!(said.contains(&format!("{name}/.portico.new")), "{said}");
            assert_eq!(conf(folder), BARE);
            assert!(names(&folder.join("net.d")).iter().all(|name| name != ".portico.new"));
            assert!(names(&folder.join("bin")).iter().all(|name| name != ".portico.new"));
            fs::remove_file(filler).expect("somebody makes space");
            assert_eq!(portico(folder, "install").0, 0);
            assert!(conf(folder).contains("portico-cni"));
        });
    }
}

#[test]
fn read_only_directory_is_named_and_nothing_is_half_written() {
    for name in ["bin", "net.d"] {
        with_small(&format!("read-only-{name}"), name, |folder| {
            let place = folder.join(name).display().to_string();
            run("mount", &["-o", "remount,ro", &place], "");
            let (code, said) = portico(folder, "install");
            assert!(code == 1 && said.contains("Read-only file system"), "{said}");
            assert!(said.contains(&place), "{said}");
            assert_eq!(conf(folder), BARE);
            run("mount", &["-o", "remount,rw", &place], "");
            assert_eq!(portico(folder, "install").0, 0);
            // What is whole needs no writing.
            run("mount", &["-o", "remount,ro", &place], "");
            let (code, said) = portico(folder, "install");
            assert_eq!(code, 0, "{said}");
        });
    }
}

#[test]
fn uninstall_that_cannot_write_fails_and_keeps_the_plugin() {
    with_small("uninstall", "net.d", |folder| {
        assert_eq!(portico(folder, "install").0, 0);
        let place = folder.join("net.d").display().to_string();
        run("mount", &["-o", "remount,ro", &place], "");
        let (code, said) = portico(folder, "uninstall");
        assert!(code == 1 && said.contains("Read-only file system"), "{said}");
        assert!(folder.join("bin/portico-cni").exists());
        run("mount", &["-o", "remount,rw", &place], "");
        let (code, said) = portico(folder, "uninstall");
        assert_eq!((code, conf(folder)), (0, BARE.to_owned()), "{said}");
    });
}
