//! `Process`: a program that runs beside the test and ends with it; and commands that may fail.
//!
//! What it says goes to a file of the node, and is shown when the test fails.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::thread;

use test_support::eventually::until;

/// A running program.
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a program; `log` is where it writes.
    pub(crate) fn start(command: &mut Command, log: &Path) -> Self {
        let file = File::options().create(true).append(true).open(log).expect("open a log");
        let second = file.try_clone().expect("a second descriptor of the log");
        let child = command.stdout(file).stderr(second).spawn();
        let child = child.unwrap_or_else(|why| panic!("start {command:?}: {why}; scripts/setup installs it"));
        Self { child, log: log.to_owned() }
    }

    /// What it has said so far.
    pub(crate) fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// How it ended, if it did.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("look after a child")
    }

    /// Waits until it ends by itself.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        until(&format!("{} ends", self.log.display()), || self.ended().ok_or_else(|| "it runs".to_owned()))
    }

    /// Ends it at once, as `kill -9` does.
    pub(crate) fn kill(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if thread::panicking() {
            show(&self.log.display().to_string(), &self.said());
        }
        self.kill();
    }
}

/// Shows whoever looks into a failed test what somebody said.
pub(crate) fn show(who: &str, said: &str) {
    // Where nobody can be shown anything, the test has failed all the same.
    let _ = writeln!(io::stderr(), "--- {who}\n{said}");
}

/// What a command says, or how it failed.
pub(crate) fn attempt(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|why: io::Error| format!("start {command:?}: {why}"))?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(said);
    }
    let why = String::from_utf8_lossy(&output.stderr);
    Err(format!("{command:?}: {}\n{said}{why}", output.status))
}
