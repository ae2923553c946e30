//! The real kube-proxy, as a peer of tests.
//!
//! `KUBE_PROXY` is the path of the program.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::temp_dir::TempDir;

/// A running kube-proxy, which is stopped when the value is dropped.
pub struct KubeProxy {
    child: Child,
    dir: TempDir,
}

impl KubeProxy {
    /// Returns the path of the program, if there is one.
    pub fn program() -> Option<PathBuf> {
        std::env::var_os("KUBE_PROXY").filter(|path| !path.is_empty()).map(PathBuf::from)
    }

    /// Starts the program with this configuration in this network namespace.
    pub fn start(program: &Path, config: &Value) -> Self {
        let dir = TempDir::new("kube-proxy");
        let config = dir.write("config.json", config.to_string());
        let log = File::create(dir.join("log")).expect("create a log");
        let mut command = Command::new(program);
        command.arg("--config").arg(config).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        Self { child: command.spawn().expect("start kube-proxy"), dir }
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("log")).expect("read the log")
    }
}

impl Drop for KubeProxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
