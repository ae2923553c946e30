//! scripts/release where something is wrong: it says what, and whatever was there stays as it was.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::repository::root;

/// A repository with one commit that holds the script, and room for what it makes.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Self {
        let place = Self(std::env::temp_dir().join(format!("portico-release-{}-{name}", std::process::id())));
        let sources = place.0.join("sources");
        fs::create_dir_all(sources.join("scripts")).expect("make a folder");
        for file in ["Cargo.toml", "scripts/release"] {
            fs::copy(root().join(file), sources.join(file)).expect("copy a file");
        }
        place.git(&["init", "-q"]);
        place.git(&["add", "."]);
        place.git(&["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "-m", "all"]);
        place.program("cargo", "echo 'no space left on device' >&2; exit 1");
        place
    }

    fn git(&self, args: &[&str]) {
        let output = Command::new("git").args(args).current_dir(self.0.join("sources")).output();
        let output = output.expect("run git; scripts/setup installs it");
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// A program that is found before those of this machine.
    fn program(&self, name: &str, does: &str) {
        let path = self.0.join("bin").join(name);
        fs::create_dir_all(self.0.join("bin")).expect("make a folder");
        fs::write(&path, format!("#!/bin/sh\n{does}\n")).expect("write a program");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("make it one");
    }

    fn out(&self) -> PathBuf {
        self.0.join("made/out")
    }

    /// An earlier release with one file.
    fn earlier(&self) {
        fs::create_dir_all(self.out()).expect("make a folder");
        fs::write(self.out().join("SHA256SUMS"), "earlier").expect("write a file");
    }

    /// What the script says against it.
    fn refused(&self, args: &[&str]) -> String {
        let path = format!("{}:{}", self.0.join("bin").display(), std::env::var("PATH").expect("a PATH"));
        let mut command = Command::new(self.0.join("sources/scripts/release"));
        command.args(args).arg(self.out()).env("PATH", path).env("CARGO_TARGET_DIR", self.0.join("target"));
        command.env_remove("SOURCE_DATE_EPOCH").env("GIT_CEILING_DIRECTORIES", &self.0);
        let Output { status, stdout, stderr } = command.output().expect("run the script");
        let said = String::from_utf8_lossy(&[stdout, stderr].concat()).into_owned();
        assert!(!status.success(), "{said}");
        said
    }

    /// The names in the folder of what is made.
    fn made(&self) -> Vec<String> {
        let entries = fs::read_dir(self.0.join("made")).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    }

    fn is_as_it_was(&self) -> bool {
        self.made() == ["out"]
            && fs::read_to_string(self.out().join("SHA256SUMS")).is_ok_and(|text| text == "earlier")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap_or_else(|why| panic!("write {}: {why}", path.display()));
}

#[test]
fn what_is_not_committed_is_not_released() {
    let place = Place::new("dirty");
    place.earlier();
    write(&place.0.join("sources/scripts/more"), "");
    let said = place.refused(&[]);
    assert!(
        said.contains("not committed") && said.contains("scripts/more") && said.contains("--dirty"),
        "{said}"
    );
    assert!(place.is_as_it_was());
    assert!(place.refused(&["--dirty"]).contains("==> release 0.1.0-dirty of commit "));
}

#[test]
fn without_git_somebody_must_say_which_commit_it_is() {
    let place = Place::new("archive");
    fs::remove_dir_all(place.0.join("sources/.git")).expect("no repository");
    let said = place.refused(&[]);
    assert!(said.contains("no git checkout") && said.contains("SOURCE_DATE_EPOCH="), "{said}");
    assert_eq!(place.made(), [""; 0]);
}

#[test]
fn a_build_that_fails_leaves_the_earlier_release_and_nothing_else() {
    let place = Place::new("failed");
    place.earlier();
    // Of one that was killed.
    fs::create_dir_all(place.0.join("made/out.new/stage")).expect("make a folder");
    let said = place.refused(&[]);
    assert!(said.contains("no space left on device"), "{said}");
    assert!(said.contains("FAILED, see above; ") && said.contains("/made/out is as it was"), "{said}");
    assert!(place.is_as_it_was(), "{:?}", place.made());
}

#[test]
fn a_program_that_is_not_static_is_not_released() {
    let place = Place::new("dynamic");
    place.earlier();
    // It builds what every Linux machine has, at the place where cargo would.
    let put = "for word; do case $last in --target) target=$word ;; --profile) profile=$word ;; --bin) bin=$word ;; \
               esac; last=$word; done; mkdir -p $CARGO_TARGET_DIR/$target/$profile; \
               cp /bin/true $CARGO_TARGET_DIR/$target/$profile/$bin";
    place.program("cargo", put);
    let said = place.refused(&[]);
    assert!(said.contains("/bin/portico asks for a dynamic loader"), "{said}");
    assert!(place.is_as_it_was(), "{:?}", place.made());
}

#[test]
fn a_folder_of_somebody_else_is_not_replaced() {
    let place = Place::new("foreign");
    place.earlier();
    write(&place.out().join("thesis.txt"), "all of it");
    let said = place.refused(&[]);
    assert!(said.contains("thesis.txt is no part of a release"), "{said}");
    assert!(place.is_as_it_was() && place.out().join("thesis.txt").exists());
}

#[test]
fn two_releases_are_not_made_at_one_place_at_a_time() {
    let place = Place::new("twice");
    place.earlier();
    let folder = File::open(place.0.join("made")).expect("the folder");
    folder.lock().expect("a lock");
    let said = place.refused(&[]);
    assert!(said.contains("another release is being made in "), "{said}");
    drop(folder);
    assert!(place.is_as_it_was());
}
