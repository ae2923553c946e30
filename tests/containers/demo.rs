//! `scripts/demo`: its output is true, for root and for a user, and nothing is left of it, however it ends.
//!
//! The tests start it as a new user would, with the programs that cargo has built. scripts/container-test creates the
//! namespaces around it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::PoisonError;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

use crate::node::MACHINE;
use test_support::eventually::eventually_equal;

/// The limit for the end of a demo that was interrupted or killed.
const END_TIMEOUT: Duration = Duration::from_secs(2);

/// Starts the demo with these programs, as root.
const AS_ROOT: &str = r#"cd "$1"; exec scripts/demo --programs "$2""#;
/// Starts it as an unprivileged user. The repository may be where only root can read, so it is mounted elsewhere.
const AS_USER: &str = r#"
    mount -t tmpfs test /mnt
    mkdir /mnt/repository /mnt/programs
    mount --bind "$1" /mnt/repository
    mount --bind "$2" /mnt/programs
    cd /mnt/repository
    exec setpriv --reuid 65534 --regid 65534 --clear-groups scripts/demo --programs /mnt/programs"#;
const WITHOUT_NAMESPACES: &str = r#"
    cd "$1"
    echo 0 > /proc/sys/user/max_net_namespaces
    exec scripts/demo --programs "$2" $3"#;
const WITHOUT_NAMESPACES_FOR_USERS: &str = r#"
    cd "$1"
    echo 1 > /proc/sys/user/max_user_namespaces
    exec unshare -U --map-user 1000 scripts/demo --programs "$2" $3"#;

/// A running demo.
struct Demo {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Demo {
    /// `unshare` are flags of that program; `argument` goes to the demo.
    fn start(unshare: &[&str], script: &str, argument: &str) -> Self {
        let test = std::env::current_exe().expect("this test's own path");
        let programs = test.ancestors().nth(2).expect("target/debug/deps/test");
        let mut command = Command::new("env");
        // A test that was started in the background ignores Ctrl-C, and child processes would inherit that.
        command.args(["--default-signal=INT", "unshare", "-m"]).args(unshare);
        command.args(["bash", "-c", &format!("set -e; exec 2>&1; {script}"), "bash"]);
        command.arg(repository()).arg(programs).arg(argument);
        let mut child =
            command.process_group(0).stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("start env");
        let output = BufReader::new(child.stdout.take().expect("a pipe"));
        Self { child, output }
    }

    /// Reads the output up to a line with this beginning.
    fn read_until(&mut self, beginning: &str) {
        let mut text = String::new();
        while !text.lines().last().is_some_and(|line| line.starts_with(beginning)) {
            let bytes = self.output.read_line(&mut text).expect("text");
            assert!(bytes > 0, "the demo ends before {beginning:?}:\n{text}");
        }
    }

    /// Returns the rest of the output, after all processes that can write to it have ended.
    fn finish(mut self) -> (ExitStatus, String) {
        let mut text = String::new();
        self.output.read_to_string(&mut text).expect("text");
        (self.child.wait().expect("an exit status"), text)
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).expect("a process number"))
    }
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ is in the root").to_owned()
}

/// Remains that a demo could leave on the machine.
#[derive(Debug, PartialEq)]
struct Traces {
    processes: BTreeSet<String>,
    mounts: String,
    interfaces: BTreeSet<String>,
    files: BTreeSet<PathBuf>,
}

impl Traces {
    fn now() -> Self {
        let is_number = |name: &String| name.bytes().all(|byte| byte.is_ascii_digit());
        let proc = fs::read_dir("/proc").expect("list processes").flatten();
        let devices = fs::read_to_string("/proc/thread-self/net/dev").expect("read network interfaces");
        let mut files = BTreeSet::new();
        for directory in ["/opt/cni", "/etc/cni", "/var/lib/cni", "/run/portico", "/run/demo"] {
            collect(Path::new(directory), &mut files);
        }
        collect(Path::new("/sys/fs/cgroup"), &mut files);
        // Other processes of the machine create and remove control groups, too.
        let containers = ["shop", "web-1", "web-2", "web-3"];
        files.retain(|path| {
            !path.starts_with("/sys") || containers.iter().any(|name| path.ends_with(name) && path.is_dir())
        });
        Self {
            processes: proc
                .map(|entry| entry.file_name().to_string_lossy().into_owned())
                .filter(is_number)
                .collect(),
            mounts: fs::read_to_string("/proc/self/mounts").expect("read mounts"),
            interfaces: devices
                .lines()
                .filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned()))
                .collect(),
            files,
        }
    }
}

fn collect(path: &Path, files: &mut BTreeSet<PathBuf>) {
    if fs::symlink_metadata(path).is_ok() {
        files.insert(path.to_owned());
    }
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        collect(&entry.path(), files);
    }
}

/// Runs `body` while no other test runs, because traces are counted on the whole machine, and waits until the traces are those from before.
fn assert_leaves_nothing(body: impl FnOnce()) {
    // If another test panicked, it has failed by itself.
    let exclusive = MACHINE.write().unwrap_or_else(PoisonError::into_inner);
    let before = Traces::now();
    body();
    eventually_equal("nothing is left", &before, Traces::now);
    drop(exclusive);
}

/// The output under a heading.
fn output_under_heading(text: &str, number: u32) -> &str {
    let from = text.split_once(&format!("\n## {number} of 10 ")).unwrap_or_else(|| panic!("{text}")).1;
    from.split("\n## ").next().unwrap_or(from)
}

/// The names of the backends that responded, in order.
fn names(text: &str) -> Vec<&str> {
    text.lines().filter(|line| line.starts_with("web-") && line.len() == "web-1".len()).collect()
}

/// The number of responses of each backend, from `uniq -c`.
fn counts(text: &str) -> BTreeMap<&str, u32> {
    let count = |line| match str::split_whitespace(line).collect::<Vec<_>>()[..] {
        [number, name] => Some((name, number.parse().ok()?)),
        _ => None,
    };
    text.lines().filter_map(count).collect()
}

/// The table of growth: services, rules, entries, rules in the classic form.
fn growth_table(text: &str) -> Vec<Vec<u32>> {
    let numbers = |line: &str| line.split_whitespace().map_while(|word| word.parse().ok()).take(4).collect();
    text.lines().map(numbers).filter(|row: &Vec<u32>| row.len() == 4).collect()
}

fn assert_story(text: &str) {
    assert!(output_under_heading(text, 3).contains("\nREDIS_MASTER_SERVICE_HOST=10.0.0.11\n"), "{text}");
    let turns = names(output_under_heading(text, 4));
    let first: BTreeSet<_> = turns.iter().take(3).copied().collect();
    assert_eq!((turns.len(), first.len()), (6, 3), "{text}");
    assert_eq!(turns[..3], turns[3..], "{text}");

    let killed = output_under_heading(text, 5);
    let responses = counts(killed);
    assert_eq!(responses.values().sum::<u32>(), 200, "{text}");
    assert_eq!((responses.get("web-2"), responses.get("FAILED")), (Some(&20), None), "{text}");
    assert!(killed.contains("$ grep -c FAILED responses\n0\n"), "{text}");
    let after: BTreeSet<_> = names(killed).into_iter().collect();
    assert_eq!(after, ["web-1", "web-3"].into(), "{text}");

    let new = output_under_heading(text, 6);
    assert!(new.contains("\nno response\n"), "{text}");
    assert_eq!(names(new), ["web-1"], "{text}");

    let name = output_under_heading(text, 7);
    let (missing, found) = name.split_once("mv bye.yaml").unwrap_or_else(|| panic!("{text}"));
    assert!(missing.contains("NXDOMAIN") && found.contains("Address: 10.0.0.83"), "{text}");

    let [few, .., many] = &growth_table(output_under_heading(text, 8))[..] else { panic!("{text}") };
    assert_eq!((many[0] - few[0], many[2] - few[2]), (5000, 4 * 5000), "a portal, three backends: {text}");
    assert!(many[1] <= few[1] + 1, "{text}");

    let without_agent = output_under_heading(text, 9);
    assert_eq!(names(without_agent).len(), 2, "{text}");
    assert!(without_agent.contains("Address: 10.0.0.80"), "{text}");
    let end = output_under_heading(text, 10);
    assert!(end.contains("\nno attachments\n") && end.contains("| wc -l\n0\n"), "{text}");
    assert!(end.contains("\nThis machine has the mounts, network interfaces, control"), "{text}");
}

#[test]
fn story_is_true_for_root_and_a_user_at_once_and_leaves_nothing() {
    assert_leaves_nothing(|| {
        let demos = [AS_ROOT, AS_USER].map(|who| Demo::start(&[], who, ""));
        let ends = thread::scope(|scope| {
            let threads = demos.map(|demo| scope.spawn(|| demo.finish()));
            threads.map(|thread| thread.join().expect("an end"))
        });
        for (status, text) in ends {
            assert_eq!(status.code(), Some(0), "{text}");
            assert_story(&text);
        }
    });
}

#[test]
fn interrupted_demo_ends_at_once_and_leaves_nothing() {
    let cases =
        [(AS_ROOT, "## 1 of 10"), (AS_ROOT, "$ ctr run"), (AS_ROOT, "$ kill -KILL"), (AS_USER, "## 4 of 10")];
    for (who, step) in cases {
        assert_leaves_nothing(|| {
            let mut demo = Demo::start(&[], who, "");
            demo.read_until(step);
            // A terminal sends it to the whole group.
            killpg(demo.pid(), Signal::SIGINT).expect("a running demo");
            let start = Instant::now();
            let (status, text) = demo.finish();
            assert_eq!(status.code(), Some(130), "{step}: {text}");
            assert!(text.contains("scripts/demo: interrupted"), "{step}: {text}");
            assert!(start.elapsed() < END_TIMEOUT, "{step}: {:?}", start.elapsed());
        });
    }
}

#[test]
fn killed_demo_leaves_nothing() {
    for who in [AS_ROOT, AS_USER] {
        assert_leaves_nothing(|| {
            let mut demo = Demo::start(&[], who, "");
            demo.read_until("## 5 of 10");
            kill(demo.pid(), Signal::SIGKILL).expect("a running demo");
            let start = Instant::now();
            assert_eq!(demo.finish().0.signal(), Some(9));
            assert!(start.elapsed() < END_TIMEOUT, "{:?}", start.elapsed());
        });
    }
}

#[test]
fn demo_without_permission_for_namespaces_prints_advice() {
    let cases = [
        (WITHOUT_NAMESPACES, "in a container, use --privileged"),
        (WITHOUT_NAMESPACES_FOR_USERS, "run: sudo -E env PATH=\"$PATH\" ./scripts/demo\n"),
    ];
    for (script, advice) in cases {
        assert_leaves_nothing(|| {
            let (status, text) = Demo::start(&["-U", "-r"], script, "").finish();
            assert_eq!(status.code(), Some(1), "{text}");
            assert!(text.contains(advice), "{text}");
            let (status, text) = Demo::start(&["-U", "-r"], script, "--tour").finish();
            assert_eq!(status.code(), Some(0), "{text}");
            assert!(text.contains("\nREDIS_MASTER_SERVICE_HOST=10.0.0.11\n"), "{text}");
        });
    }
}
