//! `Runtime` and `Container`: what the tests ask of podman and of containerd alike.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::thread;

use netns_nft::Netns;

use crate::backend::{tcp_answers, udp_answers, wgets};
use crate::process::show;
use test_support::namespace::run;

/// What runs in each container: a web server that says "itself".
pub(crate) const COMMAND: [&str; 6] = ["/bin/httpd", "-f", "-p", "8080", "-h", "/www"];

/// A container runtime. Failures of the runtime itself are told, so that a test can expect them.
pub(crate) trait Runtime {
    /// Starts a container in a network.
    fn run(&self, name: &str, network: &str) -> Result<(), String>;
    /// Ends and removes it; that it is gone is no fault.
    fn remove(&self, name: &str) -> Result<(), String>;
    /// The first process in it.
    fn pid(&self, name: &str) -> Result<u32, String>;
    /// Runs a command in it.
    fn exec(&self, name: &str, command: &[&str]) -> Result<String, String>;
    /// The containers that it knows.
    fn names(&self) -> BTreeSet<String>;
}

/// A running container, which ends with the test.
pub(crate) struct Container<'a> {
    runtime: &'a dyn Runtime,
    name: &'static str,
    is_removed: Cell<bool>,
}

impl<'a> Container<'a> {
    /// Starts one.
    pub(crate) fn start(runtime: &'a dyn Runtime, name: &'static str, network: &str) -> Self {
        let container = Self::new(runtime, name);
        runtime.run(name, network).unwrap_or_else(|why| panic!("start container {name}: {why}"));
        container
    }

    /// Looks after one that somebody else starts.
    pub(crate) fn new(runtime: &'a dyn Runtime, name: &'static str) -> Self {
        Self { runtime, name, is_removed: Cell::new(false) }
    }

    /// Ends it; nothing of it is left with the runtime.
    pub(crate) fn remove(self) {
        self.is_removed.set(true);
        self.runtime.remove(self.name).unwrap_or_else(|why| panic!("remove container {}: {why}", self.name));
        assert!(!self.runtime.names().contains(self.name), "{} is still there", self.name);
    }

    /// What a command in it says.
    pub(crate) fn exec(&self, command: &[&str]) -> Result<String, String> {
        self.runtime.exec(self.name, command)
    }

    /// Who answers its own `wget`; a failure is among the answers.
    pub(crate) fn wget(&self, portal: SocketAddr) -> BTreeSet<String> {
        let said =
            self.exec(&["/bin/sh", "-c", &wgets(portal)]).unwrap_or_else(|why| format!("failed: {why}"));
        said.lines().map(str::to_owned).collect()
    }

    /// Who answers over TCP.
    pub(crate) fn tcp(&self, portal: SocketAddr) -> BTreeSet<String> {
        self.within(|| tcp_answers(portal))
    }

    /// Who answers over UDP.
    pub(crate) fn udp(&self, portal: SocketAddr) -> BTreeSet<String> {
        self.within(|| udp_answers(portal))
    }

    /// Runs `body` in its network namespace, as a program in the container would.
    pub(crate) fn within<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        let pid = self.runtime.pid(self.name).expect("a running container");
        // Opened each time: one that is held open would not go with the container.
        let netns = Netns::open(&PathBuf::from(format!("/proc/{pid}/ns/net"))).expect("a pod's namespace");
        netns.within(body).expect("enter the pod")
    }

    /// Its address of a family.
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
