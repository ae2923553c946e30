//! `Agent`: a running agent, and the requests of a plugin to it.
//!
//! The agent is killed at the end of the test. If the test fails, the agent's log is printed.

use std::ffi::OsStr;
use std::fs;
use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use agent_ipc::{Attachment, AttachmentKey, Reply, Request};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::child_guard::ChildGuard;
use crate::eventually::{Attempt, eventually};
use crate::pod::Pod;
use crate::program::program;
use crate::temp_dir::TempDir;

/// The timeout of a request.
pub const TIMEOUT: Duration = Duration::from_secs(20);

/// The directories of an agent: its manifests, state and socket.
pub struct AgentDir(TempDir);

impl AgentDir {
    pub fn new() -> Self {
        let dir = TempDir::new("agent");
        fs::create_dir(dir.join("manifests")).expect("create a directory");
        Self(dir)
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub fn manifests(&self) -> PathBuf {
        self.0.join("manifests")
    }

    pub fn state(&self) -> PathBuf {
        self.0.join("state")
    }

    pub fn socket(&self) -> PathBuf {
        self.0.join("agent.sock")
    }

    /// Writes a manifest with a rename, as tools do.
    pub fn write_manifest(&self, name: &str, text: &str) {
        let temporary = self.0.write("manifest.tmp", text);
        fs::rename(temporary, self.manifests().join(name)).expect("rename a manifest");
    }
}

/// A running agent.
pub struct Agent {
    child: ChildGuard,
    socket: PathBuf,
    log: PathBuf,
}

impl Agent {
    /// Starts an agent with the manifests of a directory.
    pub fn start(dir: &AgentDir, args: &[&str]) -> Self {
        let manifests = dir.manifests();
        Self::start_with(dir, &[&["--manifests", manifests.to_str().expect("a path")], args].concat())
    }

    /// Starts an agent with the sources of services in `args`.
    pub fn start_with(dir: &AgentDir, args: &[&str]) -> Self {
        Self::start_through(dir, &[], args)
    }

    /// Starts an agent through another program, which executes its last arguments.
    pub fn start_through(dir: &AgentDir, launcher: &[&str], args: &[&str]) -> Self {
        let log = dir.join("agent.log");
        let out = File::options().create(true).append(true).open(&log).expect("create the log");
        let agent = program("portico");
        let words: Vec<&OsStr> = launcher.iter().map(OsStr::new).chain([agent.as_os_str()]).collect();
        let mut command = Command::new(words[0]);
        command.args(&words[1..]);
        command.arg("agent").arg("--socket").arg(dir.socket()).arg("--state-dir").arg(dir.state());
        let cni = dir.join("cni");
        command.arg("--cni-cache").arg(&cni).arg("--cni-conf").arg(&cni);
        if !args.contains(&"--metrics") {
            command.args(["--metrics", "none"]);
        }
        let child = ChildGuard::spawn(command.args(args).stdin(Stdio::null()).stderr(out));
        let agent = Self { child, socket: dir.socket(), log };
        agent.wait_until("the agent replies", |agent| agent.try_request(&Request::Ready, None));
        agent
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The agent's log.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits until a condition is true, or returns a value.
    #[track_caller]
    pub fn wait_until<A: Attempt>(&self, what: &str, attempt: impl Fn(&Self) -> A) -> A::Value {
        eventually(what, || attempt(self))
    }

    fn try_request(
        &self,
        request: &Request,
        pod: Option<&Pod>,
    ) -> Option<(Reply, Option<std::os::fd::OwnedFd>)> {
        let file = pod.map(|pod| File::open(pod.path()).expect("open the pod's namespace"));
        agent_ipc::send_request(&self.socket, request, file.as_ref().map(AsFd::as_fd), TIMEOUT).ok()
    }

    /// Sends a request and returns the reply.
    pub fn request(&self, request: &Request, pod: Option<&Pod>) -> Reply {
        self.try_request(request, pod).unwrap_or_else(|| panic!("no reply; the log:\n{}", self.log())).0
    }

    /// Attaches a pod as the plugin does.
    pub fn attach(&self, name: &str, pod: &Pod) {
        assert_eq!(
            self.request(&Request::Attach(attachment(name, pod)), Some(pod)),
            Reply::Done,
            "{}",
            self.log()
        );
    }

    /// The agent's status, as `portico status -o json` prints it.
    pub fn status(&self) -> Value {
        self.try_status().expect("a reply")
    }

    /// Like `status`; `None` if no agent replies, or if the agent is about to exit.
    pub fn try_status(&self) -> Option<Value> {
        let (reply, file) = self.try_request(&Request::status(), None)?;
        if matches!(reply, Reply::Refused { transient: true, .. }) {
            return None;
        }
        assert_eq!(reply, Reply::File);
        let mut text = String::new();
        File::from(file.expect("a file")).read_to_string(&mut text).expect("read the status");
        Some(serde_json::from_str(&text).expect("JSON"))
    }

    /// Waits until every attachment holds this revision or a later one.
    pub fn wait_until_converged(&self, revision: u64) {
        self.wait_until("every pod is up to date", |agent| {
            let status = agent.status();
            let attachments = status["attachments"].as_array().expect("a list");
            status["views"]["all"]["revision"].as_u64().is_some_and(|reached| reached >= revision)
                && attachments
                    .iter()
                    .all(|attachment| attachment["lagMs"] == 0 && attachment["error"].is_null())
        });
    }

    /// Kills the agent with SIGKILL.
    pub fn kill(mut self) {
        self.child.kill_and_wait();
    }

    /// Sends SIGTERM to the agent and returns its exit status.
    pub fn terminate(mut self) -> std::process::ExitStatus {
        self.child.signal(Signal::SIGTERM);
        self.child.wait().expect("wait for the agent")
    }
}

impl Drop for Agent {
    #[allow(clippy::print_stderr)] // The log is part of the report of a failed test.
    fn drop(&mut self) {
        self.child.kill_and_wait();
        if thread::panicking() {
            eprintln!("the agent's log:\n{}", self.log());
        }
    }
}

/// The attachment of a pod, as the plugin would send it.
pub fn attachment(name: &str, pod: &Pod) -> Attachment {
    Attachment {
        key: key(name),
        netns: Path::new(&pod.path()).to_owned(),
        pod: None,
        addresses: Vec::new(),
        annotations: Default::default(),
        dns: None,
        notes: Vec::new(),
    }
}

pub fn key(name: &str) -> AttachmentKey {
    AttachmentKey { network: "net".to_owned(), container_id: name.to_owned(), interface: "lo".to_owned() }
}
