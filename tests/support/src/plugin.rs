//! `PluginCall`: a call of the real plugin as by a runtime, and its outcome.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::{Value, json};

/// The input from a runtime: environment and configuration.
#[derive(Clone)]
pub struct PluginCall {
    program: PathBuf,
    env: Vec<(String, String)>,
    input: Vec<u8>,
}

/// The result of a call.
#[derive(Debug)]
pub struct Outcome {
    pub status: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl PluginCall {
    /// A call of a verb for interface eth0 of container c1.
    pub fn new(program: &Path, verb: &str, conf: &Value) -> Self {
        let call = Self { program: program.to_owned(), env: Vec::new(), input: conf.to_string().into() };
        let pod = "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0;K8S_POD_UID=u1";
        call.env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", "c1")
            .env("CNI_IFNAME", "eth0")
            .env("CNI_NETNS", "/proc/self/ns/net")
            .env("CNI_ARGS", pod)
    }

    pub fn env(mut self, name: &str, value: &str) -> Self {
        self = self.without(name);
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn without(mut self, name: &str) -> Self {
        self.env.retain(|(known, _)| known != name);
        self
    }

    pub fn input(self, input: impl Into<Vec<u8>>) -> Self {
        Self { input: input.into(), ..self }
    }

    pub fn start(&self, stdout: Stdio) -> Child {
        let mut child = Command::new(&self.program)
            .env_clear()
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(stdout)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|why| panic!("start {}: {why}", self.program.display()));
        // The plugin may exit before it has read all input.
        let _ = child.stdin.take().expect("piped above").write_all(&self.input);
        child
    }

    pub fn run(&self) -> Outcome {
        let output = self.start(Stdio::piped()).wait_with_output().expect("wait for the plugin");
        let Output { status, stdout, stderr } = output;
        let [stdout, stderr] = [stdout, stderr].map(|bytes| String::from_utf8(bytes).expect("UTF-8"));
        Outcome { status: status.code(), stdout, stderr }
    }
}

impl Outcome {
    /// Asserts that the plugin succeeded with this output.
    #[track_caller]
    pub fn assert_success(&self, stdout: &str) {
        assert!(self.status == Some(0) && self.stdout == stdout, "{self:?}");
    }

    /// Asserts that the plugin failed with this code and a message that contains these words.
    #[track_caller]
    pub fn assert_error(&self, code: u32, words: &[&str]) {
        let failure: Value = serde_json::from_str(&self.stdout).unwrap_or_else(|_| panic!("{self:?}"));
        let message = failure["msg"].as_str().unwrap_or_else(|| panic!("{self:?}"));
        assert!(self.status == Some(1) && failure["code"] == code, "{self:?}");
        assert!(failure["cniVersion"].is_string(), "{self:?}");
        assert!(words.iter().all(|word| message.contains(word)), "{words:?} in {message}");
    }
}

/// A configuration with a `prevResult`, and with the agent's socket and the state in this directory.
pub fn conf(dir: &Path) -> Value {
    json!({
        "cniVersion": "1.1.0",
        "name": "net",
        "type": "portico-cni",
        "socket": dir.join("agent.sock"),
        "stateDir": dir,
        "prevResult": {
            "cniVersion": "1.1.0",
            "interfaces": [{"name": "veth0", "mac": "aa:bb:cc:dd:ee:01"}, {"name": "eth0", "sandbox": "/x"}],
            "ips": [{"address": "10.244.1.5/24", "interface": 1, "gateway": "10.244.1.1"}],
            "routes": [{"dst": "0.0.0.0/0"}],
            "dns": {},
        },
    })
}

/// The configuration with one key set.
pub fn with(mut conf: Value, key: &str, value: Value) -> Value {
    conf[key] = value;
    conf
}

/// The configuration without one key.
pub fn without(mut conf: Value, key: &str) -> Value {
    conf.as_object_mut().expect("an object").remove(key);
    conf
}
