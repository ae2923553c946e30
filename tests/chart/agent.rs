//! `Agent`: the real program on an API server, without a pod.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use agent_ipc::{Reply, Request, send_request};

/// What must come comes within this time.
const PATIENCE: Duration = Duration::from_secs(60);

/// A program of this workspace; `cargo test --workspace` builds it beside the tests.
pub(crate) fn program(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("the path of this test");
    let path = test.ancestors().nth(2).expect("the target folder").join(name);
    assert!(path.exists(), "{} is not built; run: cargo build -p cli -p webhook", path.display());
    path
}

/// A running agent and its folder, which end with it.
pub(crate) struct Agent {
    child: Child,
    folder: PathBuf,
}

impl Agent {
    /// One that knows the services of this server.
    pub(crate) fn start(name: &str, kubeconfig: &Path) -> Self {
        let folder = std::env::temp_dir().join(format!("portico-chart-{}-{name}", std::process::id()));
        fs::create_dir_all(&folder).expect("make a folder");
        let log = File::create(folder.join("log")).expect("make the log");
        let mut command = Command::new(program("portico"));
        command.args(["agent", "--node", "n1", "--take-over", "--metrics", "none", "--log-level", "debug"]);
        command.arg("--kubeconfig").arg(kubeconfig);
        for (flag, at) in [
            ("--socket", "agent.sock"),
            ("--state-dir", "state"),
            ("--cni-cache", "cni"),
            ("--cni-conf", "cni"),
        ] {
            command.arg(flag).arg(folder.join(at));
        }
        let child = command.stdin(Stdio::null()).stderr(log).spawn().expect("start the agent");
        let agent = Self { child, folder };
        let socket = agent.folder.join("agent.sock");
        agent.until("it knows the services", || {
            matches!(send_request(&socket, &Request::Ready, None, PATIENCE), Ok((Reply::Done, _)))
        });
        agent
    }

    /// Waits until something is so.
    pub(crate) fn until(&self, what: &str, is_so: impl Fn() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !is_so() {
            assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}; the log:\n{}", self.log());
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Everything that it wrote.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}
