//! `portico install` and `uninstall` in temporary directories: what they write, what they leave unchanged, and their
//! error messages.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::process::Command;
use std::thread;

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent};
use test_support::cni_node::{BARE, ENTRY, Node};

fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().expect("start the program");
    assert!(output.status.success(), "{program} {args:?}: {output:?}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

#[test]
fn install_writes_plugin_and_entry_and_a_second_run_changes_nothing() {
    let node = Node::new("twice");
    node.configure("10-net.conflist", BARE);
    fs::set_permissions(node.conf("10-net.conflist"), fs::Permissions::from_mode(0o640)).expect("a mode");
    let stdout = node.install(&[]).expect_success();
    assert!(stdout.contains("portico-cni: installed") && stdout.contains("entry added"), "{stdout}");
    assert_eq!(node.read("10-net.conflist"), BARE.replace("}]", &format!("}}, {ENTRY}]")));
    let mode = |path| fs::metadata(path).expect("a file").mode() & 0o777;
    assert_eq!((mode(node.conf("10-net.conflist")), mode(node.bin("portico-cni"))), (0o640, 0o755));
    let inode = || fs::metadata(node.conf("10-net.conflist")).expect("a file").ino();
    let (before, stdout) = (inode(), node.install(&[]).expect_success());
    assert_eq!((stdout.matches("up to date").count(), inode()), (2, before), "{stdout}");
    assert_eq!(node.names(), ["10-net.conflist", "portico-cni"]);
}

#[test]
fn entry_with_other_settings_is_replaced_at_its_position() {
    let node = Node::new("settings");
    node.configure("10-net.conflist", &BARE.replace("}]", &format!("}}, {ENTRY}, {{\"type\": \"last\"}}]")));
    node.install(&["--on-agent-down", "fail", "--socket", "/run/x.sock"]).expect_success();
    let text = node.read("10-net.conflist");
    assert!(text.contains(r#""socket": "/run/x.sock", "onAgentDown": "fail"}, {"type": "last"}]"#), "{text}");
    let refused = node.install(&["--socket", "x.sock"]);
    assert!(refused.code == 2 && refused.stderr.contains("not an absolute path"), "{}", refused.stderr);
}

#[test]
fn install_uses_the_first_configuration_by_name_or_the_named_network() {
    let node = Node::new("first");
    let [first, second] = ["one", "two"].map(|name| BARE.replace("pods", name));
    node.configure("10-one.conflist", &first);
    node.configure("20-two.conflist", &second);
    node.configure("00-not.conflist.bak", "{");
    fs::create_dir(node.conf("05-dir.conflist")).expect("create a directory");
    node.install(&["--network", "two"]).expect_success();
    assert_eq!(node.read("10-one.conflist"), first);
    assert!(node.read("20-two.conflist").contains("portico-cni"));
    node.install(&[]).expect_success();
    assert!(node.read("10-one.conflist").contains("portico-cni"));
    let refused = node.install(&["--network", "three"]);
    assert!(
        refused.code == 1 && refused.stderr.contains("no .conflist of network three"),
        "{}",
        refused.stderr
    );
}

#[test]
fn configuration_that_cannot_be_chained_is_left_unchanged_with_the_reason() {
    let invalid = [
        (
            "10-net.conflist",
            "{\n \"name\": [,\n",
            "10-net.conflist left unchanged: not a JSON object: expected value at line 2 column 11",
        ),
        (
            "10-net.conflist",
            "{\"name\": \"n\", \"plugins\": [{\"type\": \"a\"}]}",
            "CNI version 0.1.0 is not supported",
        ),
        ("10-net.conf", "{\"name\": \"n\", \"type\": \"bridge\"}", "contains a single plugin"),
        (".net.conflist", BARE, ".net.conflist is hidden"),
    ];
    for (name, text, reason) in invalid {
        let node = Node::new(&format!("unchanged-{}", text.len()));
        node.configure(name, text);
        let refused = node.install(&[]);
        assert!(refused.code == 1 && refused.stderr.contains(reason), "{}", refused.stderr);
        assert_eq!(node.read(name), text);
        assert_eq!(node.names().len(), 2, "only the plugin was added, which is harmless");
    }
}

#[test]
fn missing_configuration_or_directory_is_reported() {
    let node = Node::new("nothing");
    let refused = node.install(&[]);
    assert!(refused.code == 1 && refused.stderr.contains("no CNI configuration in"), "{}", refused.stderr);
    fs::remove_dir_all(node.conf("")).expect("remove a directory");
    let refused = node.install(&[]);
    assert!(refused.code == 1 && refused.stderr.contains("failed to open directory"), "{}", refused.stderr);
}

#[test]
fn install_keeps_old_plugin_if_new_one_does_not_run() {
    let node = Node::new("broken");
    node.configure("10-net.conflist", BARE);
    node.install(&[]).expect_success();
    let good = fs::read(node.bin("portico-cni")).expect("read the plugin");
    fs::write(&node.plugin, "#!/bin/sh\nexit 7\n").expect("write the plugin");
    let refused = node.install(&[]);
    assert!(
        refused.code == 1
            && refused.stderr.contains("failed to get supported CNI versions")
            && refused.stderr.contains("exit status: 7"),
        "{}",
        refused.stderr
    );
    assert_eq!(fs::read(node.bin("portico-cni")).expect("read the plugin"), good);
    assert_eq!(node.names(), ["10-net.conflist", "portico-cni"]);
}

#[test]
fn running_plugin_is_replaced() {
    let node = Node::new("runs");
    node.configure("10-net.conflist", BARE);
    // A separate process copies the file: in this process, a fork of another thread could keep it open for writing, and
    // starting it would fail (ETXTBSY).
    let sleep = run("sh", &["-c", "command -v sleep"]);
    run("cp", &[sleep.trim(), &node.bin("portico-cni").display().to_string()]);
    let mut old = Command::new(node.bin("portico-cni")).arg("1000").spawn().expect("start the old plugin");
    node.install(&[]).expect_success();
    assert_eq!(fs::read(node.bin("portico-cni")).ok(), fs::read(&node.plugin).ok());
    old.kill().and_then(|()| old.wait()).expect("stop the old plugin");
}

#[test]
fn reload_is_triggered_after_the_new_file_is_in_place() {
    let node = Node::new("reload");
    node.configure("10-net.conflist", BARE);
    let inotify = Inotify::init(InitFlags::IN_NONBLOCK).expect("inotify");
    // The events that containerd handles; it ignores the creation of files.
    let handled = AddWatchFlags::IN_MODIFY
        | AddWatchFlags::IN_MOVED_FROM
        | AddWatchFlags::IN_MOVED_TO
        | AddWatchFlags::IN_DELETE;
    inotify.add_watch(&node.conf(""), handled).expect("watch the directory");
    node.install(&[]).expect_success();
    let events = inotify.read_events().expect("read events");
    let is_conf = |event: &InotifyEvent| event.name.as_deref() == Some("10-net.conflist".as_ref());
    let renamed = events.iter().position(is_conf).expect("an event for the conflist");
    assert_eq!(events[renamed].mask, AddWatchFlags::IN_MOVED_TO);
    let after: Vec<_> = events[renamed + 1..].iter().map(|event| event.mask).collect();
    assert_eq!(after, [AddWatchFlags::IN_MODIFY, AddWatchFlags::IN_DELETE]);
}

#[test]
fn temporary_files_of_an_interrupted_run_are_removed() {
    let node = Node::new("left-over");
    node.configure("10-net.conflist", BARE);
    for path in [node.bin(".portico.new"), node.conf(".portico.new")] {
        fs::write(path, "half").expect("write a file");
    }
    node.install(&[]).expect_success();
    assert_eq!(node.names(), ["10-net.conflist", "portico-cni"]);
}

#[test]
fn link_stays_a_link_and_a_dangling_link_is_reported() {
    let node = Node::new("link");
    let real = node.dir.join("real.conflist");
    fs::write(&real, BARE).expect("a file");
    symlink(&real, node.conf("10-net.conflist")).expect("create or read a link");
    node.install(&[]).expect_success();
    assert!(fs::symlink_metadata(node.conf("10-net.conflist")).expect("create or read a link").is_symlink());
    assert!(fs::read_to_string(&real).expect("a file").contains("portico-cni"));
    fs::remove_file(&real).expect("remove a file");
    let refused = node.install(&[]);
    assert!(refused.code == 1 && refused.stderr.contains("which does not exist"), "{}", refused.stderr);
}

#[test]
fn concurrent_runs_add_one_entry() {
    let node = &Node::new("many");
    node.configure("10-net.conflist", BARE);
    thread::scope(|scope| {
        let runs = [(); 6].map(|()| scope.spawn(|| node.install(&[]).expect_success()));
        let outputs = runs.map(|run| run.join().expect("the thread does not panic"));
        assert_eq!(outputs.iter().filter(|stdout| stdout.contains("entry added")).count(), 1);
    });
    assert_eq!(node.read("10-net.conflist").matches("portico-cni").count(), 1);
    assert_eq!(node.names(), ["10-net.conflist", "portico-cni"]);
}

#[test]
fn drop_in_is_a_separate_file_and_each_mode_replaces_the_other() {
    let node = Node::new("drop-in");
    node.configure("10-net.conflist", BARE);
    node.install(&[]).expect_success();
    node.install(&["--mode", "drop-in"]).expect_success();
    assert_eq!(node.read("10-net.conflist"), BARE);
    assert_eq!(node.read("pods/99-portico-cni.conf"), format!("{ENTRY}\n"));
    assert!(node.install(&[]).expect_success().contains("up to date"), "auto keeps the drop-in");
    node.install(&["--mode", "chain"]).expect_success();
    assert!(node.read("10-net.conflist").contains("portico-cni"));
    assert_eq!(node.names(), ["10-net.conflist", "portico-cni"]);
    node.install(&["--mode", "drop-in"]).expect_success();
    assert!(node.uninstall(&[]).expect_success().contains("99-portico-cni.conf: entry removed"));
    assert_eq!(node.names(), ["10-net.conflist", "portico-cni"]);
    node.configure(
        "10-net.conflist",
        &BARE.replace('{', "{\"loadOnlyInlinedPlugins\": true, ").replacen(
            "{\"loadOnlyInlinedPlugins\": true, \"type\"",
            "{\"type\"",
            1,
        ),
    );
    let refused = node.install(&["--mode", "drop-in"]);
    assert!(refused.code == 1 && refused.stderr.contains("loadOnlyInlinedPlugins"), "{}", refused.stderr);
}

#[test]
fn uninstall_restores_the_conflist_and_keeps_the_plugin_for_del() {
    let node = Node::new("uninstalled");
    node.configure("10-net.conflist", BARE);
    node.configure("20-other.conflist", &BARE.replace("pods", "other"));
    node.install(&[]).expect_success();
    node.install(&["--network", "other"]).expect_success();
    let stdout = node.uninstall(&[]).expect_success();
    assert!(stdout.contains("kept, for runtimes that have not reloaded"), "{stdout}");
    assert_eq!(
        (node.read("10-net.conflist"), node.read("20-other.conflist")),
        (BARE.to_owned(), BARE.replace("pods", "other"))
    );
    assert!(node.uninstall(&["--purge"]).expect_success().contains("portico-cni: removed"));
    assert_eq!(node.names(), ["10-net.conflist", "20-other.conflist"]);
    assert!(node.uninstall(&["--purge"]).expect_success().contains("not installed"));
}

#[test]
fn purge_keeps_plugin_while_a_result_or_a_configuration_references_it() {
    let node = Node::new("referenced");
    node.configure("10-net.conflist", BARE);
    node.install(&[]).expect_success();
    let result = node.result("pods-c1-eth0", &node.read("10-net.conflist"));
    let kept = node.uninstall(&["--purge"]);
    assert_eq!(kept.code, 1);
    assert!(kept.stdout.contains("results/pods-c1-eth0 references it"), "{}", kept.stdout);
    assert!(node.bin("portico-cni").exists() && node.read("10-net.conflist") == BARE);
    fs::remove_file(result).expect("remove the result");
    node.result("pods-c2-eth0", BARE);
    node.configure("20-broken.conflist", "{\"portico-cni\"");
    let kept = node.uninstall(&["--purge"]);
    assert!(kept.code == 1 && kept.stdout.contains("20-broken.conflist references it"), "{}", kept.stdout);
    assert!(kept.stderr.contains("20-broken.conflist left unchanged"), "{}", kept.stderr);
    fs::remove_file(node.conf("20-broken.conflist")).expect("remove the configuration");
    node.uninstall(&["--purge"]).expect_success();
    assert!(!node.bin("portico-cni").exists());
}

#[test]
fn check_reports_whether_the_installation_is_complete() {
    let node = Node::new("check");
    node.configure("10-net.conflist", BARE);
    let marks = |stdout: &str| -> Vec<String> {
        let lines = stdout.lines().filter(|line| {
            ["CNI configuration:", "CNI plugin:", "CNI entry:"].iter().any(|name| line.contains(name))
        });
        lines.map(|line| line.chars().take(1).collect()).collect()
    };
    assert_eq!(marks(&node.check().stdout), ["✗", "-", "✗"]);
    node.install(&[]).expect_success();
    assert_eq!(
        marks(&node.check().stdout),
        ["✓", "✓", "!"],
        "the plugin of this test has a different version"
    );
    node.install(&["--mode", "drop-in"]).expect_success();
    assert_eq!(marks(&node.check().stdout), ["✓", "✓", "!"]);
    fs::remove_file(node.bin("portico-cni")).expect("remove the plugin");
    assert_eq!(marks(&node.check().stdout), ["✓", "✓", "✗"]);
}
