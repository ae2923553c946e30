//! `Runtime` and `Container`: the common interface of podman and containerd.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::thread;

use netns_nft::Netns;

use crate::backend::{tcp_answers, udp_answers, wgets};
use crate::process::show;
use test_support::namespace::run;

/// The command of each container: a web server that replies "itself".
pub(crate) const COMMAND: [&str; 6] = ["/bin/httpd", "-f", "-p", "8080", "-h", "/www"];

/// A container runtime. Its methods return failures, so that a test can expect them.
pub(crate) trait Runtime {
    /// Starts a container in a network.
    fn run(&self, name: &str, network: &str) -> Result<(), String>;
    /// Stops and removes a container if it exists.
    fn remove(&self, name: &str) -> Result<(), String>;
    /// Returns the first process of a container.
    fn pid(&self, name: &str) -> Result<u32, String>;
    /// Runs a command in a container.
    fn exec(&self, name: &str, command: &[&str]) -> Result<String, String>;
    /// Returns the names of all containers.
    fn names(&self) -> BTreeSet<String>;
}

/// A container, which is removed at the end of the test.
pub(crate) struct Container<'a> {
    runtime: &'a dyn Runtime,
    name: &'static str,
    is_removed: Cell<bool>,
}

impl<'a> Container<'a> {
    /// Starts a container.
    pub(crate) fn start(runtime: &'a dyn Runtime, name: &'static str, network: &str) -> Self {
        let container = Self::new(runtime, name);
        runtime.run(name, network).unwrap_or_else(|why| panic!("start container {name}: {why}"));
        container
    }

    /// Wraps a container that the caller starts.
    pub(crate) fn new(runtime: &'a dyn Runtime, name: &'static str) -> Self {
        Self { runtime, name, is_removed: Cell::new(false) }
    }

    /// Removes the container, and asserts that the runtime has removed it.
    pub(crate) fn remove(self) {
        self.is_removed.set(true);
        self.runtime.remove(self.name).unwrap_or_else(|why| panic!("remove container {}: {why}", self.name));
        assert!(!self.runtime.names().contains(self.name), "{} still exists", self.name);
    }

    /// Runs a command in the container.
    pub(crate) fn exec(&self, command: &[&str]) -> Result<String, String> {
        self.runtime.exec(self.name, command)
    }

    /// Returns the backends that reply to `wget` in the container. A failure counts as a reply.
    pub(crate) fn wget(&self, portal: SocketAddr) -> BTreeSet<String> {
        let output =
            self.exec(&["/bin/sh", "-c", &wgets(portal)]).unwrap_or_else(|why| format!("failed: {why}"));
        output.lines().map(str::to_owned).collect()
    }

    /// Returns the backends that reply over TCP.
    pub(crate) fn tcp(&self, portal: SocketAddr) -> BTreeSet<String> {
        self.within(|| tcp_answers(portal))
    }

    /// Returns the backends that reply over UDP.
    pub(crate) fn udp(&self, portal: SocketAddr) -> BTreeSet<String> {
        self.within(|| udp_answers(portal))
    }

    /// Runs `body` in the container's network namespace.
    pub(crate) fn within<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        let pid = self.runtime.pid(self.name).expect("a running container");
        // Opened for each call, since an open file would keep the namespace after the container.
        let netns = Netns::open(&PathBuf::from(format!("/proc/{pid}/ns/net"))).expect("a pod's namespace");
        netns.within(body).expect("enter the pod")
    }

    /// The container's address of a family.
    pub(crate) fn address(&self, family: &str) -> String {
        let listing =
            self.within(|| run("ip", &[family, "-o", "address", "show", "eth0", "scope", "global"], ""));
        let net = listing.split_whitespace().nth(3).unwrap_or_else(|| panic!("no address: {listing}"));
        let address: IpAddr = net.split('/').next().unwrap_or(net).parse().expect("an address");
        address.to_string()
    }
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        if self.is_removed.get() {
            return;
        }
        if thread::panicking() && self.runtime.pid(self.name).is_ok() {
            let listing = || {
                let routes = run("ip", &["route"], "") + &run("ip", &["-6", "route"], "");
                run("nft", &["list", "ruleset"], "") + &routes
            };
            show(&format!("in container {}", self.name), &self.within(listing));
        }
        if let Err(why) = self.runtime.remove(self.name) {
            show(&format!("remove container {}", self.name), &why);
        }
    }
}
