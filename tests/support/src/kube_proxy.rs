//! The real kube-proxy, as a peer of tests.
//!
//! `KUBE_PROXY` is the path of the program.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::child_guard::ChildGuard;
use crate::temp_dir::TempDir;

/// A running kube-proxy, which is stopped when the value is dropped.
pub struct KubeProxy {
    child: ChildGuard,
    dir: TempDir,
}

impl KubeProxy {
    /// Returns the path of the program, if there is one.
    pub fn program() -> Option<PathBuf> {
        std::env::var_os("KUBE_PROXY").filter(|path| !path.is_empty()).map(PathBuf::from)
    }

    /// Starts the program in this network namespace. `config` needs no version, kind and limits of connection tracking,
    /// which kube-proxy leaves unchanged.
    pub fn start(program: &Path, mut config: Value) -> Self {
        config["apiVersion"] = "kubeproxy.config.k8s.io/v1alpha1".into();
        config["kind"] = "KubeProxyConfiguration".into();
        config["conntrack"] =
            json!({"maxPerCore": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"});
        let dir = TempDir::new("kube-proxy");
        let config = dir.write("config.json", config.to_string());
        let log = File::create(dir.join("log")).expect("create a log");
        let mut command = Command::new(program);
        command.arg("--config").arg(config).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        Self { child: ChildGuard::spawn(&mut command), dir }
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("log")).expect("read the log")
    }
}
