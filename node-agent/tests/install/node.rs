//! `Node`: the folders of a node in which runtimes look, and `portico` on it.
//!
//! What must not go in here: what should come of it.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, ChildStderr, Command, Stdio};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

#[path = "../command.rs"]
mod command;
#[path = "../../../attachment/tests/fixture/folder.rs"]
mod folder;

use command::{Answer, portico};
use folder::Folder;

/// A conflist without us.
pub(crate) const BARE: &str =
    r#"{"cniVersion": "1.0.0", "name": "pods", "plugins": [{"type": "bridge"}, {"type": "portmap"}]}"#;
/// Our entry.
pub(crate) const ENTRY: &str =
    r#"{"type": "portico-cni", "capabilities": {"io.kubernetes.cri.pod-annotations": true}}"#;
/// Speaks as the plugin does; the real one is tried by the tests with containers.
const PLUGIN: &str = r#"#!/bin/sh
[ "$CNI_COMMAND" = VERSION ] || { echo "portico-cni 0.0.0: a test's" >&2; exit 0; }
echo '{"cniVersion":"1.1.0","supportedVersions":["0.4.0","1.0.0","1.1.0"]}'
"#;

/// A node.
pub(crate) struct Node {
    pub(crate) folder: Folder,
    /// What is to be installed.
    pub(crate) plugin: PathBuf,
}

impl Node {
    pub(crate) fn new(test: &str) -> Self {
        let folder = Folder::new(&format!("install-{test}"));
        for name in ["bin", "net.d", "results"] {
            fs::create_dir_all(folder.join(name)).expect("a folder");
        }
        let plugin = folder.join("portico-cni");
        fs::write(&plugin, PLUGIN).expect("a plugin");
        fs::set_permissions(&plugin, fs::Permissions::from_mode(0o755)).expect("a mode");
        Self { folder, plugin }
    }

    pub(crate) fn conf(&self, name: &str) -> PathBuf {
        self.folder.join("net.d").join(name)
    }

    pub(crate) fn bin(&self, name: &str) -> PathBuf {
        self.folder.join("bin").join(name)
    }

    /// Writes a configuration as a careful CNI does.
    pub(crate) fn configure(&self, name: &str, text: &str) {
        let new = self.folder.join("net.d/other.tmp");
        fs::write(&new, text).expect("write a configuration");
        fs::rename(new, self.conf(name)).expect("put a configuration in place");
    }

    pub(crate) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.conf(name)).expect("a configuration")
    }

    /// What a runtime keeps of a pod that was started with this configuration.
    pub(crate) fn result(&self, name: &str, conf: &str) -> PathBuf {
        let path = self.folder.join("results").join(name);
        let text = serde_json::json!({"kind": "cniCacheV1", "config": BASE64_STANDARD.encode(conf)});
        fs::write(&path, text.to_string()).expect("write a result");
        path
    }

    /// All that lies in both folders, but for the folder that a test has made.
    pub(crate) fn names(&self) -> Vec<String> {
        let entries = ["bin", "net.d"].map(|name| fs::read_dir(self.folder.join(name)).expect("a folder"));
        let names = entries.into_iter().flatten().flatten().map(|entry| entry.file_name());
        let mut names: Vec<String> = names.map(|name| name.to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    fn args(&self, verb: &str, more: &[&str]) -> Vec<String> {
        let path = |name: &str| self.folder.join(name).display().to_string();
        let own =
            [verb.to_owned(), "--cni-bin-dir".into(), path("bin"), "--cni-conf-dir".into(), path("net.d")];
        own.into_iter().chain(more.iter().map(|arg| (*arg).to_owned())).collect()
    }

    fn run(&self, verb: &str, more: &[&str]) -> Answer {
        let args = self.args(verb, more);
        portico(&args.iter().map(String::as_str).collect::<Vec<_>>())
    }

    pub(crate) fn install(&self, more: &[&str]) -> Answer {
        let plugin = self.plugin.display().to_string();
        self.run("install", &[&["--plugin", &plugin], more].concat())
    }

    pub(crate) fn uninstall(&self, more: &[&str]) -> Answer {
        let results = self.folder.join("results").display().to_string();
        self.run("uninstall", &[&["--cni-cache", &results], more].concat())
    }

    pub(crate) fn check(&self) -> Answer {
        self.run("check", &[])
    }

    /// One that stays.
    pub(crate) fn watch(&self, more: &[&str]) -> Watch {
        let plugin = self.plugin.display().to_string();
        let args = self.args("install", &[&["--plugin", &plugin, "--watch"], more].concat());
        let mut command = Command::new(env!("CARGO_BIN_EXE_portico"));
        let mut child = command.args(args).stderr(Stdio::piped()).spawn().expect("start portico");
        let log = BufReader::new(child.stderr.take().expect("piped above"));
        Watch { child, log }
    }
}

/// A running `portico install --watch`.
pub(crate) struct Watch {
    child: Child,
    log: BufReader<ChildStderr>,
}

impl Watch {
    /// Waits until its log says so.
    pub(crate) fn until(&mut self, what: &str) -> String {
        let mut heard = String::new();
        loop {
            let before = heard.len();
            let read = self.log.read_line(&mut heard).expect("its log");
            assert!(read > 0, "it ended before it said {what:?}:\n{heard}");
            if heard[before..].contains(what) {
                return heard[before..].to_owned();
            }
        }
    }

    /// Ends it as the kubelet does.
    pub(crate) fn end(mut self) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").arg(&pid).status().expect("kill").success());
        assert!(self.child.wait().expect("its end").success());
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
