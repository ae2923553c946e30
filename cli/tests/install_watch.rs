//! `portico install --watch` next to other programs that write to the same directories.
//!
//! A test does not sleep: it waits for a log message, and reads the files then.

use std::fs;
use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use test_support::cni_node::{BARE, Node};

fn has_entry(node: &Node, name: &str) -> bool {
    node.read(name).contains("portico-cni")
}

#[test]
fn reverted_entry_is_restored_and_logged_at_powers_of_two() {
    let node = Node::new("reverted");
    node.configure("10-net.conflist", BARE);
    let mut watch = node.watch(&[]);
    watch.wait_for_log("installed");
    node.configure("10-net.conflist", BARE);
    let line = watch.wait_for_log("CNI entry was reverted");
    assert!(line.contains("times=1") && line.contains("10-net.conflist"), "{line}");
    assert!(has_entry(&node, "10-net.conflist"));
    // In place, like `cp`.
    fs::write(node.conf("10-net.conflist"), BARE).expect("write a configuration");
    assert!(watch.wait_for_log("CNI entry was reverted").contains("times=2"));
    assert!(has_entry(&node, "10-net.conflist"));
    watch.terminate();
    assert!(has_entry(&node, "10-net.conflist"), "a restart of the agent must not uninstall");
    assert_eq!(node.names(), ["10-net.conflist", "portico-cni"]);
}

#[test]
fn entry_that_is_reverted_at_once_is_restored_once_per_second() {
    let node = Node::new("conflict");
    node.configure("10-net.conflist", BARE);
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC).expect("inotify");
    inotify.add_watch(&node.conf(""), AddWatchFlags::IN_MOVE | AddWatchFlags::IN_DELETE).expect("watch");
    let (is_done, start) = (AtomicBool::new(false), Instant::now());
    let mut watch = node.watch(&[]);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !is_done.load(Ordering::Relaxed) {
                inotify.read_events().expect("read events");
                if has_entry(&node, "10-net.conflist") {
                    node.configure("10-net.conflist", BARE);
                }
            }
        });
        watch.wait_for_log("times=4");
        is_done.store(true, Ordering::Relaxed);
        // The other thread checks the flag after an event.
        node.configure("20-other.conflist", BARE);
    });
    assert!(start.elapsed() >= Duration::from_secs(3), "{:?}", start.elapsed());
    watch.terminate();
}

#[test]
fn watch_waits_for_directories_and_a_valid_configuration() {
    let node = Node::new("waits");
    fs::remove_dir_all(node.conf("")).expect("remove a directory");
    let mut watch = node.watch(&[]);
    watch.wait_for_log("failed to open directory");
    fs::create_dir(node.conf("")).expect("create a directory");
    watch.wait_for_log("no CNI configuration in");
    node.configure("10-net.conflist", "{\"name\": ");
    watch.wait_for_log("line 1 column 9");
    assert_eq!(node.read("10-net.conflist"), "{\"name\": ");
    node.configure("10-net.conflist", BARE);
    watch.wait_for_log("installed");
    assert!(has_entry(&node, "10-net.conflist"));
    watch.terminate();
}

#[test]
fn new_first_configuration_and_missing_or_modified_plugin_are_handled() {
    let node = Node::new("later");
    node.configure("10-net.conflist", BARE);
    let mut watch = node.watch(&[]);
    watch.wait_for_log("installed");
    node.configure("05-net.conflist", BARE);
    assert!(watch.wait_for_log("active CNI configuration changed").contains("05-net.conflist"));
    assert!(has_entry(&node, "05-net.conflist"));
    fs::remove_file(node.bin("portico-cni")).expect("remove the plugin");
    watch.wait_for_log("plugin binary was missing or modified");
    fs::write(node.bin("portico-cni"), "#!/bin/sh\n").expect("replace the plugin");
    watch.wait_for_log("plugin binary was missing or modified");
    assert_eq!(fs::read(node.bin("portico-cni")).ok(), fs::read(&node.plugin).ok());
    watch.terminate();
}

#[test]
fn changes_of_a_link_target_and_of_a_drop_in_are_handled() {
    let node = Node::new("link-target");
    let real = node.dir.join("results/real.conflist");
    fs::write(&real, BARE).expect("write a file");
    symlink(&real, node.conf("10-net.conflist")).expect("create a link");
    let mut watch = node.watch(&[]);
    watch.wait_for_log("installed");
    fs::write(&real, BARE).expect("write to the target of the link");
    watch.wait_for_log("CNI entry was reverted");
    assert!(has_entry(&node, "10-net.conflist"));
    watch.terminate();
    let mut watch = node.watch(&["--mode", "drop-in"]);
    watch.wait_for_log("installed");
    fs::remove_file(node.conf("pods/99-portico-cni.conf")).expect("remove the drop-in");
    watch.wait_for_log("CNI entry was reverted");
    assert!(node.conf("pods/99-portico-cni.conf").exists());
    watch.terminate();
}

#[test]
fn second_watch_stands_by_and_uninstall_is_refused_meanwhile() {
    let node = Node::new("second");
    node.configure("10-net.conflist", BARE);
    let mut first = node.watch(&[]);
    first.wait_for_log("installed");
    let mut second = node.watch(&["--on-agent-down", "fail"]);
    second.wait_for_log("standing by");
    let refused = node.uninstall(&[]);
    assert!(refused.code == 1 && refused.stderr.contains("would revert this"), "{}", refused.stderr);
    assert!(has_entry(&node, "10-net.conflist"));
    first.terminate();
    second.wait_for_log("installed");
    assert!(node.read("10-net.conflist").contains("onAgentDown"));
    second.terminate();
    node.uninstall(&[]).expect_success();
    assert_eq!(node.read("10-net.conflist"), BARE);
}
