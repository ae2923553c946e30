//! `Webhook`: a running webhook.
//!
//! The webhook is killed at the end of the test. If the test fails, the end of its log is printed.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use nix::sys::signal::Signal;

use crate::child_guard::ChildGuard;
use crate::eventually::{Attempt, eventually};
use crate::program::program;
use crate::temp_dir::TempDir;

/// Returns a port that was free a moment ago.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("listen on loopback");
    listener.local_addr().expect("an address").port()
}

/// A running webhook.
pub struct Webhook {
    child: ChildGuard,
    log: PathBuf,
    pub address: SocketAddr,
    pub admin: SocketAddr,
}

impl Webhook {
    /// Starts a webhook with these arguments, and waits until it logs its addresses.
    pub fn start(dir: &Path, port: u16, args: &[&str]) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let log = dir.join(format!("webhook-{}.log", NUMBER.fetch_add(1, Ordering::Relaxed)));
        let out = File::create(&log).expect("create the log");
        let mut command = Command::new(program("portico-webhook"));
        command.args(["--listen", &format!("127.0.0.1:{port}"), "--admin", "127.0.0.1:0"]);
        let child = ChildGuard::spawn(command.args(args).stdin(Stdio::null()).stderr(out));
        let unknown = SocketAddr::from(([0, 0, 0, 0], 0));
        let mut webhook = Self { child, log, address: unknown, admin: unknown };
        webhook.address = webhook.logged_address("serving /mutate");
        webhook.admin = webhook.logged_address("serving /metrics");
        webhook
    }

    /// Starts a webhook and waits until it is ready.
    pub fn start_ready(dir: &Path, port: u16, args: &[&str]) -> Self {
        let webhook = Self::start(dir, port, args);
        webhook.wait_until("the webhook is ready", |webhook| webhook.readyz().0 == 200);
        webhook
    }

    /// Starts a webhook with manifests and a self-managed CA, whose certificate is written to `ca.pem`.
    pub fn on_manifests(dir: &TempDir, manifest: &str, args: &[&str]) -> Self {
        // In its own directory, so that the watch does not see changes of the log.
        fs::create_dir_all(dir.join("manifests")).expect("create the directory");
        let manifests = dir.write("manifests/services.yaml", manifest);
        let ca_certificate = dir.join("ca.pem");
        let text = |path: &Path| path.to_str().expect("a path").to_owned();
        let (manifests, ca_certificate) = (text(&manifests), text(&ca_certificate));
        let mut all = vec!["--manifests", &manifests, "--ca-out", &ca_certificate];
        all.extend(args);
        Self::start_ready(dir.path(), 0, &all)
    }

    fn logged_address(&self, what: &str) -> SocketAddr {
        eventually(what, || {
            let log = self.log();
            let line = log.lines().find(|line| line.contains(what))?;
            let rest = line.split("address=").nth(1)?;
            rest.split_whitespace().next()?.parse().ok()
        })
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    #[track_caller]
    pub fn wait_until<A: Attempt>(&self, what: &str, attempt: impl Fn(&Self) -> A) -> A::Value {
        eventually(what, || attempt(self))
    }

    /// Returns the status and the text of a page at the admin address.
    fn page(&self, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.admin).expect("connect to the admin address");
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").expect("send");
        let mut text = String::new();
        let _ = stream.read_to_string(&mut text);
        let status = text.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        (status, text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
    }

    pub fn readyz(&self) -> (u16, String) {
        self.page("/readyz")
    }

    /// Returns a metric, or 0 if it is missing.
    pub fn metric(&self, name: &str) -> f64 {
        let page = self.page("/metrics").1;
        let line = page.lines().find_map(|line| line.strip_prefix("portico_webhook_")?.strip_prefix(name));
        line.and_then(|value| value.trim().parse().ok()).unwrap_or(0.0)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends SIGTERM.
    pub fn terminate(&self) {
        self.child.signal(Signal::SIGTERM);
    }

    /// Waits for the exit.
    pub fn wait(mut self) -> ExitStatus {
        self.child.wait().expect("wait for the webhook")
    }
}

impl Drop for Webhook {
    fn drop(&mut self) {
        self.child.kill_and_wait();
        if thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let _ = writeln!(
                std::io::stderr(),
                "the webhook's log ends:\n{}",
                lines[lines.len().saturating_sub(40)..].join("\n")
            );
        }
    }
}
