//! `Process`: a program that runs during a test; and commands that may fail.
//!
//! The output goes to a file of the node, and is printed if the test fails.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::thread;

use test_support::eventually::eventually;

/// A running program.
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a program, and appends its output to `log`.
    pub(crate) fn start(command: &mut Command, log: &Path) -> Self {
        let file = File::options().create(true).append(true).open(log).expect("open a log");
        let second = file.try_clone().expect("a second descriptor of the log");
        let child = command.stdout(file).stderr(second).spawn();
        let child = child.unwrap_or_else(|why| panic!("start {command:?}: {why}; scripts/setup installs it"));
        Self { child, log: log.to_owned() }
    }

    /// The output so far.
    pub(crate) fn output(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The exit status, if the process has exited.
    pub(crate) fn exit_status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("poll a child")
    }

    /// Waits for the exit.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        eventually(&format!("{} ends", self.log.display()), || {
            self.exit_status().ok_or_else(|| "the process runs".to_owned())
        })
    }

    /// Kills the process with SIGKILL.
    pub(crate) fn kill(&mut self) {
        // The process may have exited.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if thread::panicking() {
            show(&self.log.display().to_string(), &self.output());
        }
        self.kill();
    }
}

/// Prints an output for the report of a failed test.
pub(crate) fn show(title: &str, output: &str) {
    // An error of standard error is ignored, since the test fails anyway.
    let _ = writeln!(io::stderr(), "--- {title}\n{output}");
}

/// Runs a command and returns its standard output, or a description of its failure.
pub(crate) fn try_command(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|why: io::Error| format!("start {command:?}: {why}"))?;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(stdout);
    }
    let why = String::from_utf8_lossy(&output.stderr);
    Err(format!("{command:?}: {}\n{stdout}{why}", output.status))
}
