//! `Podman`: podman with its CNI backend and with all state in the node's directories.
//!
//! Containers are created from a root file system, so no image is needed.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};

use crate::backend::TCP_PORT;
use crate::node::{CNI_BIN, CNI_CONF, HOME, ROOTFS};
use crate::process::{Process, show, try_command};
use crate::runtime::{COMMAND, Runtime};
use test_support::eventually::Wait;

/// It uses runc, because crun does not support machines with both versions of cgroups.
const CONF: &str = r#"
[network]
network_backend = "cni"
cni_plugin_dirs = ["CNI_BIN"]
network_config_dir = "CNI_CONF"
default_network = "pods"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "none"
runtime = "runc"
"#;

/// The node port that is published for the first container. Each further container gets the next port.
pub(crate) const PUBLISHED: u16 = 18080;

/// The path of the configuration.
pub(crate) const CONTAINERS_CONF: &str = "/run/node/containers.conf";

/// Without CAP_SYS_RESOURCE podman cannot raise limits to its defaults.
const LIMITS: [&str; 4] = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"];

/// Podman and its settings.
pub(crate) struct Podman {
    cgroup: String,
    published: AtomicU16,
}

impl Podman {
    pub(crate) fn new() -> Self {
        let conf = CONF.replace("CNI_BIN", CNI_BIN).replace("CNI_CONF", CNI_CONF);
        fs::write(CONTAINERS_CONF, conf).expect("write podman's configuration");
        let tid = fs::read_link("/proc/thread-self").expect("this thread");
        let tid = tid.file_name().expect("a number").to_string_lossy().into_owned();
        Self {
            cgroup: format!("portico-test-{}-{tid}", std::process::id()),
            published: AtomicU16::new(PUBLISHED),
        }
    }

    /// Disconnects a running container from a network.
    pub(crate) fn disconnect(&self, name: &str, network: &str) {
        try_command(&mut self.podman(&["network", "disconnect", network, name]))
            .expect("disconnect from a network");
    }

    /// The command and the options that restrict it to this node.
    pub(crate) fn words() -> Vec<String> {
        let dirs = [("--root", "root"), ("--runroot", "runroot"), ("--tmpdir", "tmp")];
        let own = dirs.map(|(option, dir)| [option.to_owned(), format!("{HOME}/podman/{dir}")]);
        let words = ["podman".to_owned()].into_iter().chain(own.into_iter().flatten());
        words.chain(["--storage-driver".to_owned(), "vfs".to_owned()]).collect()
    }

    /// A container from an image, restricted as in the chart: read-only and without capabilities.
    pub(crate) fn restricted_container(&self, args: &[&str]) -> Command {
        let mut command = self.podman(&["run", "--rm", "--read-only", "--cap-drop", "ALL"]);
        command.args(["--cgroup-parent", &self.cgroup]).args(LIMITS).args(args);
        command
    }

    pub(crate) fn podman(&self, args: &[&str]) -> Command {
        let words = Self::words();
        let mut command = Command::new(&words[0]);
        command.env("CONTAINERS_CONF", CONTAINERS_CONF);
        // Like runtimes of the kubelet; podman adds the container's name.
        command.env("CNI_ARGS", "K8S_POD_NAMESPACE=default;K8S_POD_UID=uid-1");
        command.args(&words[1..]).args(args);
        command
    }
}

impl Runtime for Podman {
    fn run(&self, name: &str, network: &str) -> Result<(), String> {
        let port = self.published.fetch_add(1, Ordering::Relaxed);
        let mut command = self.podman(&["run", "-d", "--name", name, "--network", network]);
        command.args(["--cgroup-parent", &self.cgroup]);
        command.args(["--dns", "none", "--no-hosts", "--publish", &format!("{port}:{TCP_PORT}")]);
        command.args(LIMITS);
        // The machine's nft is mounted for a pod that changes its rules.
        command.args(["--cap-add", "NET_ADMIN", "--volume", "/:/host:ro"]);
        command.args(["--rootfs", ROOTFS]).args(COMMAND);
        // The output goes to a file, since the monitor of the container would inherit a pipe.
        let log = format!("{HOME}/podman-run-{name}.log");
        let mut process = Process::start(&mut command, Path::new(&log));
        if process.wait().success() { Ok(()) } else { Err(process.output()) }
    }

    fn remove(&self, name: &str) -> Result<(), String> {
        try_command(&mut self.podman(&["rm", "--force", "--ignore", "--time", "0", name])).map(drop)
    }

    fn pid(&self, name: &str) -> Result<u32, String> {
        let text = try_command(&mut self.podman(&["inspect", "--format", "{{.State.Pid}}", name]))?;
        text.trim().parse().ok().filter(|pid| *pid > 0).ok_or(text)
    }

    fn exec(&self, name: &str, command: &[&str]) -> Result<String, String> {
        try_command(self.podman(&["exec", name]).args(command))
    }

    fn names(&self) -> BTreeSet<String> {
        let text = try_command(&mut self.podman(&["ps", "--all", "--format", "{{.Names}}"]))
            .expect("list containers");
        text.lines().map(str::to_owned).collect()
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        // For both versions of cgroups: one directory, or one in each hierarchy.
        let roots = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten().map(|entry| entry.path());
        let roots = roots.chain([Path::new("/sys/fs/cgroup").to_owned()]);
        for path in roots.map(|root| root.join(&self.cgroup)).filter(|path| path.exists()) {
            // A killed process remains in its cgroup for a moment.
            if let Err(why) = Wait::DEFAULT.try_until(|| remove_cgroup(&path)) {
                show(&format!("remove {}", path.display()), &why);
            }
        }
    }
}

/// Removes a cgroup and its descendants. The kernel removes the files.
fn remove_cgroup(path: &Path) -> Result<(), String> {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_cgroup(&entry.path())?;
        }
    }
    fs::remove_dir(path).map_err(|why| why.to_string())
}
