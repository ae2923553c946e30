//! `Containerd`: containerd without its CRI plugin, controlled with `ctr run --cni`.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::node::{HOME, ROOTFS};
use crate::process::{Process, try_command};
use crate::runtime::{COMMAND, Runtime};
use test_support::eventually::eventually;

const CONF: &str = r#"
version = 2
root = "HOME/containerd/root"
state = "HOME/containerd/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt"]
[grpc]
address = "HOME/containerd.sock"
"#;

/// A running containerd.
pub(crate) struct Containerd {
    /// The `ctr run` process of each container, which releases the network after the container ends. Dropped first.
    running: RefCell<BTreeMap<String, Process>>,
    execs: Cell<u32>,
    _daemon: Process,
}

impl Containerd {
    pub(crate) fn start() -> Self {
        let conf = format!("{HOME}/containerd.toml");
        fs::write(&conf, CONF.replace("HOME", HOME)).expect("write containerd's configuration");
        let log = Path::new(HOME).join("containerd.log");
        let daemon = Process::start(Command::new("containerd").args(["--config", &conf]), &log);
        eventually("containerd replies", || try_command(&mut ctr(&["version"])));
        Self { running: RefCell::default(), execs: Cell::new(0), _daemon: daemon }
    }
}

fn ctr(args: &[&str]) -> Command {
    let mut command = Command::new("ctr");
    command.args(["--address", &format!("{HOME}/containerd.sock")]).args(args);
    command
}

impl Runtime for Containerd {
    /// Containerd uses the first configured network.
    fn run(&self, name: &str, _network: &str) -> Result<(), String> {
        let mut command = ctr(&["run", "--rm", "--cni", "--cgroup", "", "--rootfs", ROOTFS, name]);
        command.args(COMMAND);
        let log = Path::new(HOME).join(format!("ctr-run-{name}.log"));
        let mut process = Process::start(&mut command, &log);
        eventually("the container runs or fails", || match process.exit_status() {
            Some(status) => Ok(Err(format!("{status}: {}", process.output()))),
            None => self.pid(name).map(|_| Ok(())),
        })?;
        self.running.borrow_mut().insert(name.to_owned(), process);
        Ok(())
    }

    fn remove(&self, name: &str) -> Result<(), String> {
        let Some(mut process) = self.running.borrow_mut().remove(name) else { return Ok(()) };
        try_command(&mut ctr(&["task", "kill", "--signal", "KILL", name]))?;
        process.wait();
        Ok(())
    }

    fn pid(&self, name: &str) -> Result<u32, String> {
        let tasks = try_command(&mut ctr(&["task", "list"]))?;
        let mut words = tasks.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let running = words.find(|words| words.len() == 3 && words[0] == name && words[2] == "RUNNING");
        running.and_then(|words| words[1].parse().ok()).ok_or(tasks)
    }

    fn exec(&self, name: &str, command: &[&str]) -> Result<String, String> {
        self.execs.set(self.execs.get() + 1);
        let id = format!("exec-{}", self.execs.get());
        try_command(ctr(&["task", "exec", "--exec-id", &id, name]).args(command))
    }

    fn names(&self) -> BTreeSet<String> {
        let text = try_command(&mut ctr(&["container", "list", "--quiet"])).expect("list containers");
        text.lines().map(str::to_owned).collect()
    }
}
