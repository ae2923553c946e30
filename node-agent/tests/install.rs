//! `portico install` and `uninstall` in folders of a test's own: what is put there, what is left alone, and what is
//! said where it cannot be.

#[path = "install/node.rs"]
#[allow(dead_code)]
mod node;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::process::Command;
use std::thread;

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent};
use node::{BARE, ENTRY, Node};

fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().expect("start a program");
    assert!(output.status.success(), "{program} {args:?}: {output:?}");
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn the_plugin_and_its_entry_are_put_in_place_and_a_second_time_nothing_is() {
    let node = Node::new("twice");
    node.configure("10-net.conflist", BARE);
    fs::set_permissions(node.conf("10-net.conflist"), fs::Permissions::from_mode(0o640)).expect("a mode");
    let said = node.install(&[]).sound();
    assert!(said.contains("portico-cni: installed") && said.contains("our entry is put in"), "{said}");
    assert_eq!(node.read("10-net.conflist"), BARE.replace("}]", &format!("}}, {ENTRY}]")));
    let mode = |path| fs::metadata(path).expect("a file").mode() & 0o777;
    assert_eq!((mode(node.conf("10-net.conflist")), mode(node.bin("portico-cni"))), (0o640, 0o755));
    let inode = || fs::metadata(node.conf("10-net.conflist")).expect("a file").ino();
    let (before, said) = (inode(), node.install(&[]).sound());
    assert_eq!((said.matches("as it should be").count(), inode()), (2, before), "{said}");
    assert_eq!(node.names(), ["10-net.conflist", "portico-cni"]);
}

#[test]
fn an_entry_with_other_settings_is_replaced_and_one_that_others_stand_behind_stays_there() {
    let node = Node::new("settings");
    node.configure("10-net.conflist", &BARE.replace("}]", &format!("}}, {ENTRY}, {{\"type\": \"last\"}}]")));
    node.install(&["--on-agent-down", "fail", "--socket", "/run/x.sock"]).sound();
    let text = node.read("10-net.conflist");
    assert!(text.contains(r#""socket": "/run/x.sock", "onAgentDown": "fail"}, {"type": "last"}]"#), "{text}");
    let refused = node.install(&["--socket", "x.sock"]);
    assert!(refused.code == 2 && refused.stderr.contains("no absolute path"), "{}", refused.stderr);
}

#[test]
fn the_first_by_name_is_taken_or_that_of_the_named_network() {
    let node = Node::new("first");
    let [first, second] = ["one", "two"].map(|name| BARE.replace("pods", name));
    node.configure("10-one.conflist", &first);
    node.configure("20-two.conflist", &second);
    node.configure("00-not.conflist.bak", "{");
    fs::create_dir(node.conf("05-folder.conflist")).expect("a folder");
    node.install(&["--network", "two"]).sound();
    assert_eq!(node.read("10-one.conflist"), first);
    assert!(node.read("20-two.conflist").contains("portico-cni"));
    node.install(&[]).sound();
    assert!(node.read("10-one.conflist").contains("portico-cni"));
    let refused = node.install(&["--network", "three"]);
    assert!(
        refused.code == 1 && refused.stderr.contains("no .conflist of the network three"),
        "{}",
        refused.stderr
    );
}

#[test]
fn what_cannot_be_chained_is_left_as_it_is_and_the_reason_is_told() {
    let told = [
        (
            "10-net.conflist",
            "{\n \"name\": [,\n",
            "10-net.conflist is left as it is: it is no JSON object: expected value at line 2 column 11",
        ),
        ("10-net.conflist", "{\"name\": \"n\", \"plugins\": [{\"type\": \"a\"}]}", "is of CNI 0.1.0"),
        ("10-net.conf", "{\"name\": \"n\", \"type\": \"bridge\"}", "holds one plugin alone"),
        (".net.conflist", BARE, ".net.conflist is hidden"),
    ];
    for (name, text, why) in told {
        let node = Node::new(&format!("left-{}", text.len()));
        node.configure(name, text);
        let refused = node.install(&[]);
        assert!(refused.code == 1 && refused.stderr.contains(why), "{}", refused.stderr);
        assert_eq!(node.read(name), text);
        assert_eq!(node.names().len(), 2, "the plugin alone is beside it: it does no harm");
    }
}

#[test]
fn without_a_configuration_or_a_folder_it_says_so() {
    let node = Node::new("nothing");
    let refused = node.install(&[]);
    assert!(refused.code == 1 && refused.stderr.contains("no CNI configuration yet"), "{}", refused.stderr);
    fs::remove_dir_all(node.conf("")).expect("remove a folder");
    let refused = node.install(&[]);
    assert!(refused.code == 1 && refused.stderr.contains("open the folder"), "{}", refused.stderr);
}

#[test]
fn a_plugin_that_does_not_run_takes_nobodys_place() {
    let node = Node::new("broken");
    node.configure("10-net.conflist", BARE);
    node.install(&[]).sound();
    let good = fs::read(node.bin("portico-cni")).expect("the plugin");
    fs::write(&node.plugin, "#!/bin/sh\nexit 7\n").expect("a plugin");
    let refused = node.install(&[]);
    assert!(
        refused.code == 1 && refused.stderr.contains("for its versions: exit status: 7"),
        "{}",
        refused.stderr
    );
    assert_eq!(fs::read(node.bin("portico-cni")).expect("the plugin"), good);
    assert_eq!(node.names(), ["10-net.conflist", "portico-cni"]);
}

#[test]
fn a_plugin_that_runs_at_this_moment_is_replaced() {
    let node = Node::new("runs");
    node.configure("10-net.conflist", BARE);
    // By a process of its own: who writes a program may not start it while others of its threads start theirs.
    let sleep = run("sh", &["-c", "command -v sleep"]);
    run("cp", &[sleep.trim(), &node.bin("portico-cni").display().to_string()]);
    let mut old = Command::new(node.bin("portico-cni")).arg("1000").spawn().expect("start the old plugin");
    node.install(&[]).sound();
    assert_eq!(fs::read(node.bin("portico-cni")).ok(), fs::read(&node.plugin).ok());
    old.kill().and_then(|()| old.wait()).expect("end the old plugin");
}

#[test]
fn a_runtime_is_told_of_the_change_after_the_new_file_is_in_place() {
    let node = Node::new("told");
    node.configure("10-net.conflist", BARE);
    let inotify = Inotify::init(InitFlags::IN_NONBLOCK).expect("inotify");
    // What containerd hears; it passes over files that appear.
    let heard = AddWatchFlags::IN_MODIFY
        | AddWatchFlags::IN_MOVED_FROM
        | AddWatchFlags::IN_MOVED_TO
        | AddWatchFlags::IN_DELETE;
    inotify.add_watch(&node.conf(""), heard).expect("watch the folder");
    node.install(&[]).sound();
    let events = inotify.read_events().expect("what was told");
    let is_conf = |event: &InotifyEvent| event.name.as_deref() == Some("10-net.conflist".as_ref());
    let in_place = events.iter().position(is_conf).expect("it is moved into place");
    assert_eq!(events[in_place].mask, AddWatchFlags::IN_MOVED_TO);
    let after: Vec<_> = events[in_place + 1..].iter().map(|event| event.mask).collect();
    assert_eq!(after, [AddWatchFlags::IN_MODIFY, AddWatchFlags::IN_DELETE]);
}

#[test]
fn what_an_earlier_run_left_half_written_goes() {
    let node = Node::new("left-over");
    node.configure("10-net.conflist", BARE);
    for path in [node.bin(".portico.new"), node.conf(".portico.new")] {
        fs::write(path, "half").expect("a file");
    }
    node.install(&[]).sound();
    assert_eq!(node.names(), ["10-net.conflist", "portico-cni"]);
}

#[test]
fn a_link_stays_a_link_and_one_that_leads_nowhere_is_named() {
    let node = Node::new("link");
    let real = node.folder.join("real.conflist");
    fs::write(&real, BARE).expect("a file");
    symlink(&real, node.conf("10-net.conflist")).expect("a link");
    node.install(&[]).sound();
    assert!(fs::symlink_metadata(node.conf("10-net.conflist")).expect("a link").is_symlink());
    assert!(fs::read_to_string(&real).expect("a file").contains("portico-cni"));
    fs::remove_file(&real).expect("remove a file");
    let refused = node.install(&[]);
    assert!(refused.code == 1 && refused.stderr.contains("which is not here"), "{}", refused.stderr);
}

#[test]
fn many_runs_at_once_are_one() {
    let node = &Node::new("many");
    node.configure("10-net.conflist", BARE);
    thread::scope(|scope| {
        let runs = [(); 6].map(|()| scope.spawn(|| node.install(&[]).sound()));
        let news =
            runs.map(|run| run.join().expect("a run")).iter().filter(|said| said.contains("put in")).count();
        assert_eq!(news, 1);
    });
    assert_eq!(node.read("10-net.conflist").matches("portico-cni").count(), 1);
    assert_eq!(node.names(), ["10-net.conflist", "portico-cni"]);
}

#[test]
fn a_drop_in_is_a_file_of_its_own_and_each_way_replaces_the_other() {
    let node = Node::new("drop-in");
    node.configure("10-net.conflist", BARE);
    node.install(&[]).sound();
    node.install(&["--mode", "drop-in"]).sound();
    assert_eq!(node.read("10-net.conflist"), BARE);
    assert_eq!(node.read("pods/99-portico-cni.conf"), format!("{ENTRY}\n"));
    assert!(node.install(&[]).sound().contains("as it should be"), "auto leaves it");
    node.install(&["--mode", "chain"]).sound();
    assert!(node.read("10-net.conflist").contains("portico-cni"));
    assert_eq!(node.names(), ["10-net.conflist", "portico-cni"]);
    node.install(&["--mode", "drop-in"]).sound();
    assert!(node.uninstall(&[]).sound().contains("99-portico-cni.conf: our entry is taken out"));
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
fn uninstalled_the_conflist_is_as_it_was_and_the_plugin_stays_for_del() {
    let node = Node::new("gone");
    node.configure("10-net.conflist", BARE);
    node.configure("20-other.conflist", &BARE.replace("pods", "other"));
    node.install(&[]).sound();
    node.install(&["--network", "other"]).sound();
    let said = node.uninstall(&[]).sound();
    assert!(said.contains("stays, for runtimes that did not read"), "{said}");
    assert_eq!(
        (node.read("10-net.conflist"), node.read("20-other.conflist")),
        (BARE.to_owned(), BARE.replace("pods", "other"))
    );
    assert!(node.uninstall(&["--purge"]).sound().contains("portico-cni: removed"));
    assert_eq!(node.names(), ["10-net.conflist", "20-other.conflist"]);
    assert!(node.uninstall(&["--purge"]).sound().contains("is not there"));
}

#[test]
fn while_a_result_or_a_configuration_names_the_plugin_it_is_not_purged() {
    let node = Node::new("named");
    node.configure("10-net.conflist", BARE);
    node.install(&[]).sound();
    let result = node.result("pods-c1-eth0", &node.read("10-net.conflist"));
    let kept = node.uninstall(&["--purge"]);
    assert_eq!(kept.code, 1);
    assert!(kept.stdout.contains("results/pods-c1-eth0 names it"), "{}", kept.stdout);
    assert!(node.bin("portico-cni").exists() && node.read("10-net.conflist") == BARE);
    fs::remove_file(result).expect("the pod ends");
    node.result("pods-c2-eth0", BARE);
    node.configure("20-broken.conflist", "{\"portico-cni\"");
    let kept = node.uninstall(&["--purge"]);
    assert!(kept.code == 1 && kept.stdout.contains("20-broken.conflist names it"), "{}", kept.stdout);
    assert!(kept.stderr.contains("20-broken.conflist is left as it is"), "{}", kept.stderr);
    fs::remove_file(node.conf("20-broken.conflist")).expect("somebody repairs it");
    node.uninstall(&["--purge"]).sound();
    assert!(!node.bin("portico-cni").exists());
}

#[test]
fn check_tells_whether_the_installation_is_whole() {
    let node = Node::new("check");
    node.configure("10-net.conflist", BARE);
    let lines = |said: &str| -> Vec<String> {
        let ours = said.lines().filter(|line| {
            ["CNI configuration", "plugin:", "our entry"].iter().any(|name| line.contains(name))
        });
        ours.map(|line| line.chars().take(1).collect()).collect()
    };
    assert_eq!(lines(&node.check().stdout), ["✗", "-", "✗"]);
    node.install(&[]).sound();
    assert_eq!(lines(&node.check().stdout), ["✓", "✓", "!"], "the plugin of this test has another version");
    node.install(&["--mode", "drop-in"]).sound();
    assert_eq!(lines(&node.check().stdout), ["✓", "✓", "!"]);
    fs::remove_file(node.bin("portico-cni")).expect("remove the plugin");
    assert_eq!(lines(&node.check().stdout), ["✓", "✓", "✗"]);
}
