//! `portico install --watch` beside other programs that write into the same folders.
//!
//! Nothing sleeps: its log tells what it has done, and the files are looked at then.

#[path = "install/node.rs"]
#[allow(dead_code)]
mod node;

use std::fs;
use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use node::{BARE, Node};

fn is_in(node: &Node, name: &str) -> bool {
    node.read(name).contains("portico-cni")
}

#[test]
fn an_entry_that_somebody_reverts_is_put_back_and_it_is_told_ever_more_seldom() {
    let node = Node::new("reverted");
    node.configure("10-net.conflist", BARE);
    let mut watch = node.watch(&[]);
    watch.until("installed");
    node.configure("10-net.conflist", BARE);
    let told = watch.until("keeps reverting");
    assert!(told.contains("times=1") && told.contains("10-net.conflist"), "{told}");
    assert!(is_in(&node, "10-net.conflist"));
    // In place, as `cp` does it.
    fs::write(node.conf("10-net.conflist"), BARE).expect("write a configuration");
    assert!(watch.until("keeps reverting").contains("times=2"));
    assert!(is_in(&node, "10-net.conflist"));
    watch.end();
    assert!(is_in(&node, "10-net.conflist"), "an agent that restarts must not uninstall");
    assert_eq!(node.names(), ["10-net.conflist", "portico-cni"]);
}

#[test]
fn against_somebody_who_reverts_at_once_it_puts_back_once_a_second() {
    let node = Node::new("fight");
    node.configure("10-net.conflist", BARE);
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC).expect("inotify");
    inotify.add_watch(&node.conf(""), AddWatchFlags::IN_MOVE | AddWatchFlags::IN_DELETE).expect("watch");
    let (is_over, began) = (AtomicBool::new(false), Instant::now());
    let mut watch = node.watch(&[]);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                inotify.read_events().expect("what was told");
                if is_in(&node, "10-net.conflist") {
                    node.configure("10-net.conflist", BARE);
                }
            }
        });
        watch.until("times=4");
        is_over.store(true, Ordering::Relaxed);
        // It has to hear something to notice.
        node.configure("20-other.conflist", BARE);
    });
    assert!(began.elapsed() >= Duration::from_secs(3), "{:?}", began.elapsed());
    watch.end();
}

#[test]
fn it_waits_for_folders_and_for_a_configuration_and_survives_a_broken_one() {
    let node = Node::new("waits");
    fs::remove_dir_all(node.conf("")).expect("remove a folder");
    let mut watch = node.watch(&[]);
    watch.until("open the folder");
    fs::create_dir(node.conf("")).expect("make a folder");
    watch.until("no CNI configuration yet");
    node.configure("10-net.conflist", "{\"name\": ");
    watch.until("line 1 column 9");
    assert_eq!(node.read("10-net.conflist"), "{\"name\": ");
    node.configure("10-net.conflist", BARE);
    watch.until("installed");
    assert!(is_in(&node, "10-net.conflist"));
    watch.end();
}

#[test]
fn a_configuration_that_becomes_the_first_and_a_plugin_that_goes_are_noticed() {
    let node = Node::new("later");
    node.configure("10-net.conflist", BARE);
    let mut watch = node.watch(&[]);
    watch.until("installed");
    node.configure("05-net.conflist", BARE);
    assert!(watch.until("another configuration").contains("05-net.conflist"));
    assert!(is_in(&node, "05-net.conflist"));
    fs::remove_file(node.bin("portico-cni")).expect("remove the plugin");
    watch.until("the plugin was gone");
    fs::write(node.bin("portico-cni"), "#!/bin/sh\n").expect("replace the plugin");
    watch.until("the plugin was gone");
    assert_eq!(fs::read(node.bin("portico-cni")).ok(), fs::read(&node.plugin).ok());
    watch.end();
}

#[test]
fn what_changes_behind_a_link_and_in_a_drop_in_is_noticed() {
    let node = Node::new("behind");
    let real = node.folder.join("results/real.conflist");
    fs::write(&real, BARE).expect("a file");
    symlink(&real, node.conf("10-net.conflist")).expect("a link");
    let mut watch = node.watch(&[]);
    watch.until("installed");
    fs::write(&real, BARE).expect("write behind the link");
    watch.until("keeps reverting");
    assert!(is_in(&node, "10-net.conflist"));
    watch.end();
    let mut watch = node.watch(&["--mode", "drop-in"]);
    watch.until("installed");
    fs::remove_file(node.conf("pods/99-portico-cni.conf")).expect("remove the drop-in");
    watch.until("keeps reverting");
    assert!(node.conf("pods/99-portico-cni.conf").exists());
    watch.end();
}

#[test]
fn a_second_one_waits_and_whoever_uninstalls_meanwhile_is_told_why_not() {
    let node = Node::new("second");
    node.configure("10-net.conflist", BARE);
    let mut first = node.watch(&[]);
    first.until("installed");
    let mut second = node.watch(&["--on-agent-down", "fail"]);
    second.until("this one waits");
    let refused = node.uninstall(&[]);
    assert!(refused.code == 1 && refused.stderr.contains("would undo this"), "{}", refused.stderr);
    assert!(is_in(&node, "10-net.conflist"));
    first.end();
    second.until("installed");
    assert!(node.read("10-net.conflist").contains("onAgentDown"));
    second.end();
    node.uninstall(&[]).sound();
    assert_eq!(node.read("10-net.conflist"), BARE);
}
