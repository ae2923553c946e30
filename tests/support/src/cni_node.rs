//! `Node`: the CNI directories of a node, and `portico` commands that run on them.
//!
//! Assertions belong in the tests.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{ChildStderr, Command, Stdio};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use nix::sys::signal::Signal;

use crate::child_guard::ChildGuard;
use crate::command::{CommandOutput, portico};
use crate::program::program;
use crate::temp_dir::TempDir;

/// A conflist without Portico's entry.
pub const BARE: &str =
    r#"{"cniVersion": "1.0.0", "name": "pods", "plugins": [{"type": "bridge"}, {"type": "portmap"}]}"#;
/// Portico's entry.
pub const ENTRY: &str =
    r#"{"type": "portico-cni", "capabilities": {"io.kubernetes.cri.pod-annotations": true, "dns": true}}"#;
/// Replies to VERSION as the plugin does. The tests with containers use the real plugin.
const PLUGIN: &str = r#"#!/bin/sh
[ "$CNI_COMMAND" = VERSION ] || { echo "portico-cni 0.0.0: a test's" >&2; exit 0; }
echo '{"cniVersion":"1.1.0","supportedVersions":["0.4.0","1.0.0","1.1.0"]}'
"#;

/// The directories of a node.
pub struct Node {
    pub dir: TempDir,
    /// The plugin to install.
    pub plugin: PathBuf,
}

impl Node {
    pub fn new(test: &str) -> Self {
        let dir = TempDir::new(&format!("install-{test}"));
        for name in ["bin", "net.d", "results"] {
            fs::create_dir_all(dir.join(name)).expect("create a directory");
        }
        let plugin = dir.join("portico-cni");
        fs::write(&plugin, PLUGIN).expect("write the plugin");
        fs::set_permissions(&plugin, fs::Permissions::from_mode(0o755)).expect("set the mode");
        Self { dir, plugin }
    }

    pub fn conf(&self, name: &str) -> PathBuf {
        self.dir.join("net.d").join(name)
    }

    pub fn bin(&self, name: &str) -> PathBuf {
        self.dir.join("bin").join(name)
    }

    /// Writes a configuration with a rename, as other CNI installers do.
    pub fn configure(&self, name: &str, text: &str) {
        let new = self.dir.join("net.d/other.tmp");
        fs::write(&new, text).expect("write a configuration");
        fs::rename(new, self.conf(name)).expect("rename a configuration");
    }

    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.conf(name)).expect("read a configuration")
    }

    /// Writes the result that a runtime caches for a pod that was started with this configuration.
    pub fn result(&self, name: &str, conf: &str) -> PathBuf {
        let path = self.dir.join("results").join(name);
        let text = serde_json::json!({"kind": "cniCacheV1", "config": BASE64_STANDARD.encode(conf)});
        fs::write(&path, text.to_string()).expect("write a result");
        path
    }

    /// The sorted names of all files in both directories.
    pub fn names(&self) -> Vec<String> {
        let entries =
            ["bin", "net.d"].map(|name| fs::read_dir(self.dir.join(name)).expect("read a directory"));
        let names = entries.into_iter().flatten().flatten().map(|entry| entry.file_name());
        let mut names: Vec<String> = names.map(|name| name.to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    fn args(&self, command: &str, more: &[&str]) -> Vec<String> {
        let path = |name: &str| self.dir.join(name).display().to_string();
        let dirs =
            [command.to_owned(), "--cni-bin-dir".into(), path("bin"), "--cni-conf-dir".into(), path("net.d")];
        dirs.into_iter().chain(more.iter().map(|arg| (*arg).to_owned())).collect()
    }

    fn run(&self, command: &str, more: &[&str]) -> CommandOutput {
        let args = self.args(command, more);
        portico(&args.iter().map(String::as_str).collect::<Vec<_>>())
    }

    pub fn install(&self, more: &[&str]) -> CommandOutput {
        let plugin = self.plugin.display().to_string();
        self.run("install", &[&["--plugin", &plugin], more].concat())
    }

    pub fn uninstall(&self, more: &[&str]) -> CommandOutput {
        let results = self.dir.join("results").display().to_string();
        self.run("uninstall", &[&["--cni-cache", &results], more].concat())
    }

    pub fn check(&self) -> CommandOutput {
        self.run("check", &[])
    }

    /// Starts `portico install --watch`.
    pub fn watch(&self, more: &[&str]) -> InstallWatch {
        let plugin = self.plugin.display().to_string();
        let args = self.args("install", &[&["--plugin", &plugin, "--watch"], more].concat());
        let mut command = Command::new(program("portico"));
        let mut child = ChildGuard::spawn(command.args(args).stderr(Stdio::piped()));
        let log = BufReader::new(child.stderr.take().expect("piped above"));
        InstallWatch { child, log }
    }
}

/// A running `portico install --watch`.
pub struct InstallWatch {
    child: ChildGuard,
    log: BufReader<ChildStderr>,
}

impl InstallWatch {
    /// Reads the log until a line contains this text. Returns the line.
    pub fn wait_for_log(&mut self, text: &str) -> String {
        let mut log = String::new();
        loop {
            let before = log.len();
            let read = self.log.read_line(&mut log).expect("read the log");
            assert!(read > 0, "the process ended before it logged {text:?}:\n{log}");
            if log[before..].contains(text) {
                return log[before..].to_owned();
            }
        }
    }

    /// Sends SIGTERM, as the kubelet does, and waits for the process.
    pub fn terminate(mut self) {
        self.child.signal(Signal::SIGTERM);
        assert!(self.child.wait().expect("wait for the process").success());
    }
}
