//! `scripts/release`: a release that is refused, fails or is interrupted leaves the earlier one, and nothing else.
//!
//! Each test has a repository of its own that contains the script, and a `cargo` that does what the test needs instead
//! of building; it starts the real xtask. `scripts/release --verify` builds a real release, which takes minutes.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// The limit of a wait for another process.
const TIMEOUT: Duration = Duration::from_secs(20);

/// A repository with one commit, and a directory for releases.
struct Repository(PathBuf);

impl Repository {
    fn new(name: &str) -> Self {
        let directory = format!("portico-release-{}-{name}", std::process::id());
        let repository = Self(std::env::temp_dir().join(directory));
        let sources = repository.0.join("sources");
        fs::create_dir_all(sources.join("scripts")).expect("create a directory");
        let original = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask is in the root");
        for file in ["Cargo.toml", "scripts/release", "scripts/lib.sh"] {
            fs::copy(original.join(file), sources.join(file)).expect("copy a file");
        }
        repository.git(&["init", "-q"]);
        repository.git(&["add", "."]);
        repository.git(&["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "-m", "all"]);
        repository.set_cargo("echo 'no space left on device' >&2; exit 1");
        repository
    }

    fn git(&self, args: &[&str]) {
        let output = Command::new("git").args(args).current_dir(self.0.join("sources")).output();
        let output = output.expect("run git; scripts/setup installs it");
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Sets what `cargo` does instead of building.
    fn set_cargo(&self, build: &str) {
        let path = self.0.join("bin/cargo");
        let xtask = env!("CARGO_BIN_EXE_xtask");
        let text = format!(
            "#!/bin/sh\nif [ \"$1\" = run ]; then\n  while [ \"$1\" != -- ]; do shift; done\n  shift\n  \
             exec '{xtask}' \"$@\"\nfi\n{build}\n"
        );
        fs::create_dir_all(self.0.join("bin")).expect("create a directory");
        fs::write(&path, text).expect("write a program");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("make it executable");
    }

    fn out(&self) -> PathBuf {
        self.0.join("releases/out")
    }

    /// Adds an earlier release with one file.
    fn add_earlier_release(&self) {
        fs::create_dir_all(self.out()).expect("create a directory");
        fs::write(self.out().join("SHA256SUMS"), "earlier").expect("write a file");
    }

    fn command(&self, args: &[&str]) -> Command {
        let path = format!("{}:{}", self.0.join("bin").display(), std::env::var("PATH").expect("a PATH"));
        let mut command = Command::new(self.0.join("sources/scripts/release"));
        command.args(args).arg(self.out()).env("PATH", path).env("CARGO_TARGET_DIR", self.0.join("target"));
        command.env_remove("SOURCE_DATE_EPOCH").env("GIT_CEILING_DIRECTORIES", &self.0);
        command
    }

    /// Runs the script, which must fail, and returns its output.
    fn failure(&self, args: &[&str]) -> String {
        let Output { status, stdout, stderr } = self.command(args).output().expect("run the script");
        let text = String::from_utf8_lossy(&[stdout, stderr].concat()).into_owned();
        assert_eq!(status.code(), Some(1), "{text}");
        text
    }

    /// The names in the directory of releases.
    fn releases(&self) -> Vec<String> {
        let entries = fs::read_dir(self.0.join("releases")).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    }

    /// Whether there is the earlier release, and nothing else.
    fn is_unchanged(&self) -> bool {
        self.releases() == ["out"]
            && fs::read_to_string(self.out().join("SHA256SUMS")).is_ok_and(|text| text == "earlier")
    }
}

impl Drop for Repository {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap_or_else(|why| panic!("write {}: {why}", path.display()));
}

#[test]
fn uncommitted_changes_are_released_only_if_they_are_marked() {
    let repository = Repository::new("dirty");
    repository.add_earlier_release();
    write(&repository.0.join("sources/scripts/more"), "");
    let text = repository.failure(&[]);
    for part in ["not committed", "scripts/more", "--dirty"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(repository.is_unchanged());
    assert!(repository.failure(&["--dirty"]).contains("==> release 0.1.0-dirty of commit "));
}

#[test]
fn without_git_the_commit_must_be_named() {
    let repository = Repository::new("archive");
    fs::remove_dir_all(repository.0.join("sources/.git")).expect("remove the repository");
    let text = repository.failure(&[]);
    assert!(text.contains("not a git checkout") && text.contains("SOURCE_DATE_EPOCH="), "{text}");
    assert_eq!(repository.releases(), [""; 0]);
}

#[test]
fn failed_build_leaves_the_earlier_release_and_nothing_else() {
    let repository = Repository::new("failed");
    repository.add_earlier_release();
    // A release that was killed left this.
    fs::create_dir_all(repository.0.join("releases/out.new/stage")).expect("create a directory");
    let text = repository.failure(&[]);
    assert!(text.contains("no space left on device"), "{text}");
    assert!(
        text.contains("scripts/release: FAILED; ") && text.contains("/releases/out is unchanged"),
        "{text}"
    );
    assert!(text.contains("failed to build portico"), "{text}");
    assert!(repository.is_unchanged(), "{:?}", repository.releases());
}

#[test]
fn interrupted_build_leaves_the_earlier_release_and_nothing_else() {
    let repository = Repository::new("interrupted");
    repository.add_earlier_release();
    let pid = repository.0.join("pid");
    repository.set_cargo(&format!("echo $$ > '{0}.new'; mv '{0}.new' '{0}'; exec sleep 60", pid.display()));
    let mut release = repository.command(&[]).stdout(Stdio::null()).spawn().expect("run the script");
    let deadline = Instant::now() + TIMEOUT;
    while !pid.exists() {
        assert!(Instant::now() < deadline, "the build does not start");
        thread::sleep(Duration::from_millis(10));
    }
    assert!(repository.0.join("releases/out.new").exists(), "{:?}", repository.releases());
    kill(Pid::from_raw(i32::try_from(release.id()).expect("a pid")), Signal::SIGTERM).expect("it runs");
    assert_eq!(release.wait().expect("its exit").code(), Some(128 + 15));
    assert!(repository.is_unchanged(), "{:?}", repository.releases());
    let build = fs::read_to_string(&pid).expect("the pid of the build").trim().parse().expect("a pid");
    kill(Pid::from_raw(build), Signal::SIGKILL).expect("the build runs");
}

#[test]
fn dynamically_linked_program_is_not_released() {
    let repository = Repository::new("dynamic");
    repository.add_earlier_release();
    // Every Linux machine has /bin/true; it goes where cargo would build the program.
    repository.set_cargo(
        "for word; do case $last in --target) target=$word ;; --profile) profile=$word ;; --bin) bin=$word ;; \
         esac; last=$word; done; mkdir -p $CARGO_TARGET_DIR/$target/$profile; \
         cp /bin/true $CARGO_TARGET_DIR/$target/$profile/$bin",
    );
    let text = repository.failure(&[]);
    assert!(text.contains("/bin/portico requests a dynamic loader"), "{text}");
    assert!(repository.is_unchanged(), "{:?}", repository.releases());
}

#[test]
fn directory_with_other_files_is_not_replaced() {
    let repository = Repository::new("foreign");
    repository.add_earlier_release();
    write(&repository.out().join("thesis.txt"), "all of it");
    let text = repository.failure(&[]);
    assert!(text.contains("thesis.txt is not part of a release"), "{text}");
    assert!(repository.is_unchanged() && repository.out().join("thesis.txt").exists());
}

#[test]
fn only_one_release_at_a_time_is_built_in_a_directory() {
    let repository = Repository::new("twice");
    repository.add_earlier_release();
    let directory = File::open(repository.0.join("releases")).expect("the directory");
    directory.lock().expect("a lock");
    let text = repository.failure(&[]);
    assert!(text.contains("another release is being built in "), "{text}");
    drop(directory);
    assert!(repository.is_unchanged());
}
