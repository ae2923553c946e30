//! `Node`: a simulated machine for one test, and its network.
//!
//! ```text
//! node: wire ═ veth ═ lan0 :lan, with the backends             10.77.0.101.. fd77::101..
//!        │ in the bridge pods0, or the master of macvlans      pods: 10.77.0.10.. fd77::10..
//! ```
//! It has its own network and mount namespaces, so it is isolated from the containers, the CNI configuration and the
//! state of the real machine, and its files disappear with it.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::backend::BackendNetwork;
use test_support::eventually::eventually_equal;
use test_support::namespace::{in_new_netns, run};

/// The directory of the node's files. `/run` is empty at the start.
pub(crate) const HOME: &str = "/run/node";
/// The root file system of every container.
pub(crate) const ROOTFS: &str = "/run/node/rootfs";
/// The directory from which runtimes read the configuration of networks.
pub(crate) const CNI_CONF: &str = "/etc/cni/net.d";
/// The directory of the CNI project's plugins in Debian.
const CNI_PLUGINS: &str = "/usr/lib/cni";
/// The directory from which containerd executes plugins.
pub(crate) const CNI_BIN: &str = "/opt/cni/bin";
const CNI_STATE: &str = "/var/lib/cni";
/// Directories that runtimes would share with the real machine.
const MOUNTS: [&str; 5] = ["/run", "/dev/shm", "/opt", "/etc/cni", CNI_STATE];

/// A simulated machine.
pub(crate) struct Node {
    pub(crate) lan: BackendNetwork,
}

/// Shared by the tests with containers, and held exclusively by a test that counts the processes of the whole machine.
pub(crate) static MACHINE: RwLock<()> = RwLock::new(());

/// Runs `body` on a new machine, and asserts that nothing is left over.
pub(crate) fn on_a_node(body: impl FnOnce(&Node) + Send) {
    // If another test panicked, it has failed by itself.
    let _shared = MACHINE.read().unwrap_or_else(PoisonError::into_inner);
    in_new_netns(|| {
        unshare(CloneFlags::CLONE_NEWNS).expect("a mount namespace: start with scripts/container-test");
        run("mount", &["--make-rprivate", "/"], "");
        for path in MOUNTS {
            fs::create_dir_all(path).expect("create a mount point");
            run("mount", &["-t", "tmpfs", "tmpfs", path], "");
        }
        run("ip", &["link", "set", "lo", "up"], "");
        let sweep = KillAllOnDrop;
        set_up();
        let node = Node { lan: BackendNetwork::new() };
        body(&node);
        node.assert_nothing_is_left();
        drop(sweep);
    });
}

/// Creates the directories, the containers' files and the links to plugins.
fn set_up() {
    for dir in ["bin", "dev", "etc", "host", "proc", "sys", "tmp", "www"] {
        fs::create_dir_all(Path::new(ROOTFS).join(dir)).expect("a directory of the containers");
    }
    let inside = |path: &str| format!("{ROOTFS}/{path}");
    let busybox = run("sh", &["-c", "command -v busybox"], "");
    fs::copy(busybox.trim(), inside("bin/busybox")).expect("busybox, which scripts/setup installs");
    for applet in ["chroot", "httpd", "sh", "timeout", "wget"] {
        symlink("busybox", inside(&format!("bin/{applet}"))).expect("an applet");
    }
    fs::write(inside("www/index.html"), "itself\n").expect("a page");
    for dir in [&format!("{HOME}/manifests"), CNI_CONF, CNI_BIN] {
        fs::create_dir_all(dir).expect("a directory of the node");
    }
    for plugin in ["bridge", "host-local", "loopback", "macvlan", "portmap"] {
        symlink(format!("{CNI_PLUGINS}/{plugin}"), format!("{CNI_BIN}/{plugin}")).expect("a plugin");
    }
    symlink(built("portico-cni"), format!("{CNI_BIN}/portico-cni")).expect("Portico's plugin");
}

/// The path of one of Portico's programs, which cargo builds next to the directory of the tests.
pub(crate) fn built(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("this test's own path");
    let program = test.ancestors().nth(2).expect("target/debug/deps/test").join(name);
    assert!(program.exists(), "no {}: scripts/container-test builds it", program.display());
    program
}

impl Node {
    /// The state of CNI for pods: assigned addresses, and cached results.
    fn cni_state(&self) -> BTreeSet<String> {
        let is_of_a_pod = |name: &str| !matches!(name, "lock") && !name.starts_with("last_reserved_ip");
        files(Path::new(CNI_STATE)).into_iter().filter(|path| is_of_a_pod(name(path))).collect()
    }

    fn interfaces(&self) -> BTreeSet<String> {
        let listing = run("ip", &["-o", "link", "show"], "");
        let name = |line: &str| Some(line.split(": ").nth(1)?.split('@').next()?.to_owned());
        listing.lines().filter_map(name).collect()
    }

    fn assert_nothing_is_left(&self) {
        let nothing = BTreeSet::new();
        eventually_equal("processes end", &nothing, || processes().iter().map(ToString::to_string).collect());
        eventually_equal("addresses and results of pods go", &nothing, || self.cni_state());
        eventually_equal("network namespaces go", &nothing, || files(Path::new("/run/netns")));
        eventually_equal("records go", &nothing, || files(Path::new("/run/portico/attachments")));
        let own = ["lo", "pods0", "wire"].map(str::to_owned).into();
        eventually_equal("interfaces of pods go", &nothing, || &self.interfaces() - &own);
    }
}

fn name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// The files in a directory and its subdirectories.
fn files(dir: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => found.append(&mut files(&entry.path())),
            _ => drop(found.insert(entry.path().display().to_string())),
        }
    }
    found
}

/// The processes in this node's mount namespace. Containers have their own mount namespaces, but each has a monitor
/// process in this one.
fn processes() -> Vec<Pid> {
    let own = fs::read_link("/proc/thread-self/ns/mnt").expect("this thread's mount namespace");
    let numbers = fs::read_dir("/proc").expect("list processes").flatten();
    let pids = numbers.filter_map(|entry| entry.file_name().to_str()?.parse().ok().map(Pid::from_raw));
    pids.filter(|pid| fs::read_link(format!("/proc/{pid}/ns/mnt")).is_ok_and(|theirs| theirs == own))
        .collect()
}

/// Kills all remaining processes of the node, also after a panic.
struct KillAllOnDrop;

impl Drop for KillAllOnDrop {
    fn drop(&mut self) {
        for pid in processes() {
            // The process may have exited already.
            let _ = kill(pid, Signal::SIGKILL);
        }
    }
}
