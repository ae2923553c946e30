//! `Agent`: a running agent with an API server, without a pod.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use agent_ipc::{Reply, Request, send_request};

/// The timeout of each wait.
const TIMEOUT: Duration = Duration::from_secs(60);

/// The path of a program of this workspace, which `cargo test --workspace` builds.
pub(crate) fn program(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("the path of this test");
    let path = test.ancestors().nth(2).expect("the target directory").join(name);
    assert!(path.exists(), "{} is not built; run: cargo build -p cli -p webhook", path.display());
    path
}

/// A running agent and its directory. Both are removed when the value is dropped.
pub(crate) struct Agent {
    child: Child,
    dir: PathBuf,
}

impl Agent {
    /// Starts an agent with this server, and waits until it is synced.
    pub(crate) fn start(name: &str, kubeconfig: &Path) -> Self {
        let dir = std::env::temp_dir().join(format!("portico-chart-{}-{name}", std::process::id()));
        fs::create_dir_all(&dir).expect("create the directory");
        let log = File::create(dir.join("log")).expect("create the log");
        let mut command = Command::new(program("portico"));
        command.args(["agent", "--node", "n1", "--take-over", "--metrics", "none", "--log-level", "debug"]);
        command.arg("--kubeconfig").arg(kubeconfig);
        for (flag, at) in [
            ("--socket", "agent.sock"),
            ("--state-dir", "state"),
            ("--cni-cache", "cni"),
            ("--cni-conf", "cni"),
        ] {
            command.arg(flag).arg(dir.join(at));
        }
        let child = command.stdin(Stdio::null()).stderr(log).spawn().expect("start the agent");
        let agent = Self { child, dir };
        let socket = agent.dir.join("agent.sock");
        agent.until("the agent is synced", || {
            matches!(send_request(&socket, &Request::Ready, None, TIMEOUT), Ok((Reply::Done, _)))
        });
        agent
    }

    /// Waits until a condition is true.
    pub(crate) fn until(&self, what: &str, is_so: impl Fn() -> bool) {
        let deadline = Instant::now() + TIMEOUT;
        while !is_so() {
            assert!(Instant::now() < deadline, "{what}: not within {TIMEOUT:?}; the log:\n{}", self.log());
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// The agent's log.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.dir);
    }
}
