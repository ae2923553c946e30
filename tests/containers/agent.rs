//! `Agent`: a running node agent, and its status.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::manifest::SERVICE_RANGES;
use crate::node::{HOME, built};
use crate::process::{Process, try_command};
use test_support::eventually::eventually;

/// A running agent.
pub(crate) struct Agent {
    process: Process,
    dir: PathBuf,
}

impl Agent {
    /// Starts the node's agent at the default paths, and waits until it is synced.
    pub(crate) fn start() -> Self {
        Self::start_as(Path::new("/run/portico"), &[])
    }

    /// Starts an agent with its socket and its files in this directory.
    pub(crate) fn start_as(dir: &Path, args: &[&str]) -> Self {
        let name = dir.file_name().expect("a directory with a name").to_string_lossy().into_owned();
        let mut command = Command::new(built("portico"));
        command.arg("agent").arg("--socket").arg(dir.join("agent.sock"));
        command.arg("--state-dir").arg(dir).args(["--manifests", &format!("{HOME}/manifests")]);
        command.args(["--metrics", "none", "--audit-interval", "1"]).args(args);
        for range in SERVICE_RANGES {
            command.args(["--service-cidr", range]);
        }
        let process = Process::start(&mut command, &Path::new(HOME).join(format!("{name}.log")));
        let mut agent = Self { process, dir: dir.to_owned() };
        eventually("the agent is synced", || agent.is_ready());
        agent
    }

    fn is_ready(&mut self) -> Result<(), String> {
        if let Some(status) = self.process.exit_status() {
            panic!("the agent ended: {status}");
        }
        let status = self.status()?;
        if status["synced"] == true { Ok(()) } else { Err(status.to_string()) }
    }

    /// The status, as `portico status -o json` prints it.
    pub(crate) fn status(&self) -> Result<Value, String> {
        let mut command = Command::new(built("portico"));
        command.args(["status", "-o", "json", "--socket"]).arg(self.dir.join("agent.sock"));
        // Exit code 1 means that an attachment is not up to date. The report has the details.
        let output = command.output().map_err(|why| why.to_string())?;
        let stderr = || String::from_utf8_lossy(&output.stderr).into_owned();
        serde_json::from_slice(&output.stdout).map_err(|_| stderr())
    }

    /// Returns the attachments if all are up to date, otherwise the status.
    pub(crate) fn attachments(&self) -> Result<Vec<Value>, String> {
        let status = self.status()?;
        let attachments = status["attachments"].as_array().cloned().unwrap_or_default();
        let is_up_to_date = |a: &Value| a["error"].is_null() && a["lagMs"] == 0 && !a["revision"].is_null();
        if attachments.iter().all(is_up_to_date) { Ok(attachments) } else { Err(status.to_string()) }
    }

    /// Waits until this number of attachments exists, and all are up to date.
    pub(crate) fn wait_until_attached(&self, count: usize) -> Vec<Value> {
        eventually(&format!("{count} attachments are up to date"), || {
            let attachments = self.attachments()?;
            if attachments.len() == count { Ok(attachments) } else { Err(format!("{attachments:?}")) }
        })
    }

    /// Waits until the ruleset snapshot is on disk.
    pub(crate) fn wait_until_stored(&self) {
        let dir = self.dir.join("rulesets");
        eventually("the ruleset is stored", || {
            try_command(Command::new("test").arg("-s").arg(dir.join("all.ruleset")))
        });
    }

    /// Kills the agent with SIGKILL.
    pub(crate) fn kill(mut self) {
        self.process.kill();
    }
}
