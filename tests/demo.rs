//! `scripts/demo`: what it tells is true, for root and for a user, and nothing of it is left, however it ends.
//!
//! It is started as a stranger would start it, with the programs that cargo has built. scripts/container-test makes
//! the namespaces around it. What must not go in here: how the demo does it.

#[path = "containers/patience.rs"]
#[allow(dead_code)]
mod patience;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use patience::until_equal;

/// Whoever waits for the end of what was interrupted or killed waits so long at most.
const END: Duration = Duration::from_secs(2);
/// What is left is counted on the whole machine, so demos of other tests must not run.
static ALONE: Mutex<()> = Mutex::new(());

/// Starts the demo with these programs, after whatever makes its world; who it is and what it may is said there.
const AS_ROOT: &str = r#"cd "$1"; exec scripts/demo --programs "$2""#;
/// The repository may lie where root alone may look, so it is mounted elsewhere.
const AS_NOBODY: &str = r#"
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

/// A demo that runs.
struct Demo {
    child: Child,
    told: BufReader<ChildStdout>,
}

impl Demo {
    /// `unshare` are flags of that program; `argument` goes to the demo.
    fn start(unshare: &[&str], script: &str, argument: &str) -> Self {
        let test = std::env::current_exe().expect("this test's own path");
        let programs = test.ancestors().nth(2).expect("target/debug/deps/test");
        let mut command = Command::new("env");
        // A test that somebody started in the background would hand on that it hears no Ctrl-C.
        command.args(["--default-signal=INT", "unshare", "-m"]).args(unshare);
        command.args(["bash", "-c", &format!("set -e; exec 2>&1; {script}"), "bash"]);
        command.arg(repository()).arg(programs).arg(argument);
        let mut child =
            command.process_group(0).stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("start env");
        let told = BufReader::new(child.stdout.take().expect("it is piped"));
        Self { child, told }
    }

    /// Reads on until a line begins so.
    fn read_until(&mut self, beginning: &str) {
        let mut told = String::new();
        while !told.lines().last().is_some_and(|line| line.starts_with(beginning)) {
            let bytes = self.told.read_line(&mut told).expect("text");
            assert!(bytes > 0, "it ends before {beginning:?}:\n{told}");
        }
    }

    /// What it still tells, when nobody is left who could tell anything.
    fn finish(mut self) -> (ExitStatus, String) {
        let mut told = String::new();
        self.told.read_to_string(&mut told).expect("text");
        (self.child.wait().expect("its end"), told)
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).expect("a process number"))
    }
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the root").to_owned()
}

/// What could be left on the machine.
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
        for folder in ["/opt/cni", "/etc/cni", "/var/lib/cni", "/run/portico", "/run/demo"] {
            collect(Path::new(folder), &mut files);
        }
        collect(Path::new("/sys/fs/cgroup"), &mut files);
        // Other control groups come and go with whatever runs on the machine.
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

/// Runs `body` while no other demo runs, and waits until everything is as it was before.
fn leaving_nothing(body: impl FnOnce()) {
    // Another test that failed says so itself.
    let alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let before = Traces::now();
    body();
    until_equal("all is as it was", &before, Traces::now);
    drop(alone);
}

/// What is told under a heading.
fn section(told: &str, number: u32) -> &str {
    let from = told.split_once(&format!("\n## {number} of 9 ")).unwrap_or_else(|| panic!("{told}")).1;
    from.split("\n## ").next().unwrap_or(from)
}

/// The names of backends that answered, in order.
fn names(text: &str) -> Vec<&str> {
    text.lines().filter(|line| line.starts_with("web-") && line.len() == "web-1".len()).collect()
}

/// How often each answered, by `uniq -c`.
fn counts(text: &str) -> BTreeMap<&str, u32> {
    let count = |line| match str::split_whitespace(line).collect::<Vec<_>>()[..] {
        [number, name] => Some((name, number.parse().ok()?)),
        _ => None,
    };
    text.lines().filter_map(count).collect()
}

/// The table of growth: services, rules, entries, rules in the classic form.
fn table(text: &str) -> Vec<Vec<u32>> {
    let numbers = |line: &str| line.split_whitespace().map_while(|word| word.parse().ok()).take(4).collect();
    text.lines().map(numbers).filter(|row: &Vec<u32>| row.len() == 4).collect()
}

fn assert_story(told: &str) {
    assert!(section(told, 3).contains("\nREDIS_MASTER_SERVICE_HOST=10.0.0.11\n"), "{told}");
    let turns = names(section(told, 4));
    let first: BTreeSet<_> = turns.iter().take(3).copied().collect();
    assert_eq!((turns.len(), first.len()), (6, 3), "{told}");
    assert_eq!(turns[..3], turns[3..], "{told}");

    let killed = section(told, 5);
    let answers = counts(killed);
    assert_eq!(answers.values().sum::<u32>(), 200, "{told}");
    assert_eq!((answers.get("web-2"), answers.get("FAILED")), (Some(&20), None), "{told}");
    assert!(killed.contains("$ grep -c FAILED answers\n0\n"), "{told}");
    let after: BTreeSet<_> = names(killed).into_iter().collect();
    assert_eq!(after, ["web-1", "web-3"].into(), "{told}");

    let new = section(told, 6);
    assert!(new.contains("\nno answer\n"), "{told}");
    assert_eq!(names(new), ["web-1"], "{told}");

    let [few, .., many] = &table(section(told, 7))[..] else { panic!("{told}") };
    assert_eq!((many[0] - few[0], many[2] - few[2]), (5000, 4 * 5000), "a portal, three backends: {told}");
    assert!(many[1] <= few[1] + 1, "{told}");

    assert_eq!(names(section(told, 8)).len(), 2, "while no agent is there: {told}");
    let end = section(told, 9);
    assert!(end.contains("\nno attachments\n") && end.contains("| wc -l\n0\n"), "{told}");
    assert!(end.contains("\nThis machine has the mounts, network interfaces, control"), "{told}");
}

#[test]
fn told_to_root_and_to_a_user_at_the_same_time_the_story_is_true_and_leaves_nothing() {
    leaving_nothing(|| {
        let demos = [AS_ROOT, AS_NOBODY].map(|who| Demo::start(&[], who, ""));
        let ends = thread::scope(|scope| {
            let threads = demos.map(|demo| scope.spawn(|| demo.finish()));
            threads.map(|thread| thread.join().expect("an end"))
        });
        for (status, told) in ends {
            assert_eq!(status.code(), Some(0), "{told}");
            assert_story(&told);
        }
    });
}

#[test]
fn interrupted_in_whatever_step_it_ends_at_once_and_leaves_nothing() {
    let cases =
        [(AS_ROOT, "## 1 of 9"), (AS_ROOT, "$ ctr run"), (AS_ROOT, "$ kill -KILL"), (AS_NOBODY, "## 4 of 9")];
    for (who, step) in cases {
        leaving_nothing(|| {
            let mut demo = Demo::start(&[], who, "");
            demo.read_until(step);
            // A terminal sends it to the whole group.
            killpg(demo.pid(), Signal::SIGINT).expect("a demo that runs");
            let began = Instant::now();
            let (status, told) = demo.finish();
            assert_eq!(status.code(), Some(130), "{step}: {told}");
            assert!(told.contains("scripts/demo: interrupted"), "{step}: {told}");
            assert!(began.elapsed() < END, "{step}: {:?}", began.elapsed());
        });
    }
}

#[test]
fn killed_without_a_chance_to_clean_up_it_leaves_nothing() {
    for who in [AS_ROOT, AS_NOBODY] {
        leaving_nothing(|| {
            let mut demo = Demo::start(&[], who, "");
            demo.read_until("## 5 of 9");
            kill(demo.pid(), Signal::SIGKILL).expect("a demo that runs");
            let began = Instant::now();
            assert_eq!(demo.finish().0.signal(), Some(9));
            assert!(began.elapsed() < END, "{:?}", began.elapsed());
        });
    }
}

#[test]
fn who_may_make_no_namespaces_is_told_what_to_do() {
    let cases = [
        (WITHOUT_NAMESPACES, "in a container, run that with --privileged"),
        (WITHOUT_NAMESPACES_FOR_USERS, "run: sudo -E env PATH=\"$PATH\" ./scripts/demo\n"),
    ];
    for (script, advice) in cases {
        leaving_nothing(|| {
            let (status, told) = Demo::start(&["-U", "-r"], script, "").finish();
            assert_eq!(status.code(), Some(1), "{told}");
            assert!(told.contains(advice), "{told}");
            let (status, told) = Demo::start(&["-U", "-r"], script, "--tour").finish();
            assert_eq!(status.code(), Some(0), "{told}");
            assert!(told.contains("\nREDIS_MASTER_SERVICE_HOST=10.0.0.11\n"), "{told}");
        });
    }
}
