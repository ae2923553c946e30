//! `Node`: a machine of a test's own, and the network that it stands in.
//!
//! ```text
//! node: wire ═ veth ═ lan0 :lan, where the backends are        10.77.0.101.. fd77::101..
//!        │ in the bridge pods0, or the master of macvlans      pods: 10.77.0.10.. fd77::10..
//! ```
//! It has network and mount namespaces of its own, so containers, CNI configuration and state of the real
//! machine are neither seen nor touched, and all files are gone with it.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::backend::Lan;
use test_support::eventually::until_equal;
use test_support::namespace::{bare, run};

/// Where the node keeps what is its own; `/run` is empty when it begins.
pub(crate) const HOME: &str = "/run/node";
/// What every container is made of.
pub(crate) const ROOTFS: &str = "/run/node/rootfs";
/// Where runtimes find the configuration of networks.
pub(crate) const CNI_CONF: &str = "/etc/cni/net.d";
/// Where Debian keeps the plugins of the CNI project.
const CNI_PLUGINS: &str = "/usr/lib/cni";
/// Where containerd looks for plugins.
pub(crate) const CNI_BIN: &str = "/opt/cni/bin";
const CNI_STATE: &str = "/var/lib/cni";
/// Places that runtimes share with the whole machine unless something else is mounted there.
const PLACES: [&str; 5] = ["/run", "/dev/shm", "/opt", "/etc/cni", CNI_STATE];

/// A machine.
pub(crate) struct Node {
    pub(crate) lan: Lan,
}

/// Shared by the tests with containers, and held exclusively by a test that counts the processes of the whole machine.
pub(crate) static MACHINE: RwLock<()> = RwLock::new(());

/// Runs `body` on a new machine, and sees to it that it leaves nothing behind.
pub(crate) fn on_a_node(body: impl FnOnce(&Node) + Send) {
    // If another test panicked, it has failed by itself.
    let _shared = MACHINE.read().unwrap_or_else(PoisonError::into_inner);
    bare(|| {
        unshare(CloneFlags::CLONE_NEWNS).expect("a mount namespace: start with scripts/container-test");
        run("mount", &["--make-rprivate", "/"], "");
        for place in PLACES {
            fs::create_dir_all(place).expect("a place to mount on");
            run("mount", &["-t", "tmpfs", "tmpfs", place], "");
        }
        run("ip", &["link", "set", "lo", "up"], "");
        let sweep = Sweep;
        furnish();
        let node = Node { lan: Lan::new() };
        body(&node);
        node.assert_nothing_is_left();
        drop(sweep);
    });
}

/// Makes the folders, the containers' files and the plugins.
fn furnish() {
    for folder in ["bin", "dev", "etc", "host", "proc", "sys", "tmp", "www"] {
        fs::create_dir_all(Path::new(ROOTFS).join(folder)).expect("a folder of the containers");
    }
    let inside = |path: &str| format!("{ROOTFS}/{path}");
    let busybox = run("sh", &["-c", "command -v busybox"], "");
    fs::copy(busybox.trim(), inside("bin/busybox")).expect("busybox, which scripts/setup installs");
    for applet in ["chroot", "httpd", "sh", "timeout", "wget"] {
        symlink("busybox", inside(&format!("bin/{applet}"))).expect("an applet");
    }
    fs::write(inside("www/index.html"), "itself\n").expect("a page");
    for folder in [&format!("{HOME}/manifests"), CNI_CONF, CNI_BIN] {
        fs::create_dir_all(folder).expect("a folder of the node");
    }
    for plugin in ["bridge", "host-local", "loopback", "macvlan", "portmap"] {
        symlink(format!("{CNI_PLUGINS}/{plugin}"), format!("{CNI_BIN}/{plugin}")).expect("a plugin");
    }
    symlink(built("portico-cni"), format!("{CNI_BIN}/portico-cni")).expect("our plugin");
}

/// One of our programs: cargo puts it beside the folder of the tests.
pub(crate) fn built(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("this test's own path");
    let program = test.ancestors().nth(2).expect("target/debug/deps/test").join(name);
    assert!(program.exists(), "no {}: scripts/container-test builds it", program.display());
    program
}

impl Node {
    /// What CNI plugins keep of pods: addresses that are taken, and results of the runtimes.
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
        until_equal("processes end", &nothing, || processes().iter().map(ToString::to_string).collect());
        until_equal("addresses and results of pods go", &nothing, || self.cni_state());
        until_equal("network namespaces go", &nothing, || files(Path::new("/run/netns")));
        until_equal("records go", &nothing, || files(Path::new("/run/portico/attachments")));
        let own = ["lo", "pods0", "wire"].map(str::to_owned).into();
        until_equal("interfaces of pods go", &nothing, || &self.interfaces() - &own);
    }
}

fn name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// The files in a folder and in those below it.
fn files(folder: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => found.append(&mut files(&entry.path())),
            _ => drop(found.insert(entry.path().display().to_string())),
        }
    }
    found
}

/// Other programs on this node: they share its mount namespace. Containers have their own, but each has a
/// keeper that is among these.
fn processes() -> Vec<Pid> {
    let own = fs::read_link("/proc/thread-self/ns/mnt").expect("this thread's mount namespace");
    let numbers = fs::read_dir("/proc").expect("list processes").flatten();
    let pids = numbers.filter_map(|entry| entry.file_name().to_str()?.parse().ok().map(Pid::from_raw));
    pids.filter(|pid| fs::read_link(format!("/proc/{pid}/ns/mnt")).is_ok_and(|theirs| theirs == own))
        .collect()
}

/// Ends whatever still runs on the node, also after a panic.
struct Sweep;

impl Drop for Sweep {
    fn drop(&mut self) {
        for pid in processes() {
            // It may be gone already.
            let _ = kill(pid, Signal::SIGKILL);
        }
    }
}
