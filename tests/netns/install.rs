//! `portico install` with errors of the file system: no space, and read-only directories.
//!
//! Each test mounts a small file system in its own mount namespace.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use nix::sched::{CloneFlags, unshare};
use test_support::namespace::{in_new_netns, run};
use test_support::temp_dir::TempDir;

const BARE: &str = r#"{"cniVersion": "1.0.0", "name": "pods", "plugins": [{"type": "bridge"}]}"#;
/// Replies to VERSION like the plugin, and occupies some space.
const PLUGIN: &str = "#!/bin/sh\necho '{\"supportedVersions\":[\"1.0.0\"]}'\n";
/// The size of the small file systems, in pages.
const PAGES: usize = 8;
const PAGE: usize = 4096;

/// Runs `body` on a node with a small file system at the directory of this name.
fn with_small_file_system(test: &str, name: &str, body: impl FnOnce(&TempDir) + Send) {
    let dir = TempDir::new(test);
    in_new_netns(|| {
        unshare(CloneFlags::CLONE_NEWNS).expect("a mount namespace: start with scripts/netns-test");
        run("mount", &["--make-rprivate", "/"], "");
        for name in ["bin", "net.d"] {
            fs::create_dir_all(dir.join(name)).expect("a directory");
        }
        let path = dir.join(name).display().to_string();
        run("mount", &["-t", "tmpfs", "-o", &format!("size={}", PAGES * PAGE), "tmpfs", &path], "");
        fs::write(dir.join("net.d/10-net.conflist"), BARE).expect("a configuration");
        fs::write(dir.join("portico-cni"), format!("{PLUGIN}#{}\n", "x".repeat(2 * PAGE))).expect("a plugin");
        let mode = fs::Permissions::from_mode(0o755);
        fs::set_permissions(dir.join("portico-cni"), mode).expect("a mode");
        body(&dir);
    });
}

/// Runs `portico`, and returns the exit code and the output.
fn portico(dir: &TempDir, verb: &str) -> (i32, String) {
    let test = std::env::current_exe().expect("this test's own path");
    let program = test.ancestors().nth(2).expect("target/debug/deps/test").join("portico");
    let mut command = Command::new(program);
    command.arg(verb).arg("--cni-bin-dir").arg(dir.join("bin"));
    command.arg("--cni-conf-dir").arg(dir.join("net.d"));
    if verb == "install" {
        command.arg("--plugin").arg(dir.join("portico-cni"));
    }
    let output = command.output().expect("start portico: scripts/netns-test builds it");
    let said = [output.stdout, output.stderr].concat();
    (output.status.code().expect("an exit without a signal"), String::from_utf8(said).expect("text"))
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).expect("a directory").flatten();
    let mut names: Vec<String> =
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn conf(dir: &TempDir) -> String {
    fs::read_to_string(dir.join("net.d/10-net.conflist")).expect("a configuration")
}

#[test]
fn install_on_a_full_disk_changes_nothing() {
    for name in ["bin", "net.d"] {
        with_small_file_system(&format!("space-{name}"), name, |dir| {
            let filler = dir.join(name).join("filler");
            // Fill the file system.
            let _ = fs::write(&filler, vec![7; PAGES * PAGE]);
            let (code, said) = portico(dir, "install");
            assert!(code == 1 && said.contains("No space left on device"), "{said}");
            assert!(said.contains(&format!("{name}/.portico.new")), "{said}");
            assert_eq!(conf(dir), BARE);
            assert!(names(&dir.join("net.d")).iter().all(|name| name != ".portico.new"));
            assert!(names(&dir.join("bin")).iter().all(|name| name != ".portico.new"));
            fs::remove_file(filler).expect("free the space");
            assert_eq!(portico(dir, "install").0, 0);
            assert!(conf(dir).contains("portico-cni"));
        });
    }
}

#[test]
fn read_only_directory_is_named_and_nothing_is_half_written() {
    for name in ["bin", "net.d"] {
        with_small_file_system(&format!("read-only-{name}"), name, |dir| {
            let path = dir.join(name).display().to_string();
            run("mount", &["-o", "remount,ro", &path], "");
            let (code, said) = portico(dir, "install");
            assert!(code == 1 && said.contains("Read-only file system"), "{said}");
            assert!(said.contains(&path), "{said}");
            assert_eq!(conf(dir), BARE);
            run("mount", &["-o", "remount,rw", &path], "");
            assert_eq!(portico(dir, "install").0, 0);
            // A complete installation is not written again.
            run("mount", &["-o", "remount,ro", &path], "");
            let (code, said) = portico(dir, "install");
            assert_eq!(code, 0, "{said}");
        });
    }
}

#[test]
fn uninstall_that_cannot_write_fails_and_keeps_the_plugin() {
    with_small_file_system("uninstall", "net.d", |dir| {
        assert_eq!(portico(dir, "install").0, 0);
        let path = dir.join("net.d").display().to_string();
        run("mount", &["-o", "remount,ro", &path], "");
        let (code, said) = portico(dir, "uninstall");
        assert!(code == 1 && said.contains("Read-only file system"), "{said}");
        assert!(dir.join("bin/portico-cni").exists());
        run("mount", &["-o", "remount,rw", &path], "");
        let (code, said) = portico(dir, "uninstall");
        assert_eq!((code, conf(dir)), (0, BARE.to_owned()), "{said}");
    });
}
