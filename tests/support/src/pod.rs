//! `Pod`: a network namespace that represents a pod, while the test's own represents the node.
//!
//! It contains only the interfaces, addresses and routes that the test adds.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};

use netns_nft::{Netns, encode};
use proxy_core::plan::plan;
use proxy_core::ruleset::Ruleset;

use crate::namespace::{add_address_to, in_new_netns, run};

pub struct Pod {
    pub netns: Netns,
    file: OwnedFd,
}

impl Pod {
    /// Creates a pod with only the loopback interface, which is up.
    pub fn new() -> Self {
        let file: OwnedFd = in_new_netns(|| {
            run("ip", &["link", "set", "lo", "up"], "");
            File::open("/proc/thread-self/ns/net").expect("open the namespace").into()
        });
        let netns = Netns::from_fd(file.try_clone().expect("a second descriptor")).expect("a namespace");
        Self { netns, file }
    }

    /// Adds a veth pair with `outer` in this namespace and `inner` in the pod; both ends are up.
    pub fn wire(&self, outer: &str, inner: &str) {
        let peer = ["peer", "name", inner, "netns", &self.path()];
        run("ip", &[&["link", "add", outer, "type", "veth"][..], &peer].concat(), "");
        run("ip", &["link", "set", outer, "up"], "");
        self.ip(&["link", "set", inner, "up"]);
    }

    /// Creates a pod with a veth pair and a default route in both families. The pod has the second address of each
    /// network, and this namespace the first. `net` and `net6` are the addresses without the last part.
    pub fn routed(outer: &str, net: &str, net6: &str) -> Self {
        let pod = Self::new();
        pod.wire(outer, "eth0");
        add_address_to(outer, &format!("{net}.1/24"));
        add_address_to(outer, &format!("{net6}:1/64"));
        pod.within(|| {
            add_address_to("eth0", &format!("{net}.2/24"));
            add_address_to("eth0", &format!("{net6}:2/64"));
        });
        pod.ip(&["route", "add", "default", "via", &format!("{net}.1")]);
        pod.ip(&["-6", "route", "add", "default", "via", &format!("{net6}:1")]);
        pod
    }

    /// The path of the network namespace for other programs.
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd())
    }

    /// Runs `ip` in the pod.
    pub fn ip(&self, args: &[&str]) -> String {
        self.within(|| run("ip", args, ""))
    }

    /// Runs `body` in the pod.
    pub fn within<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        self.netns.within(body).expect("enter the pod")
    }

    /// Replaces the ruleset `before` of the pod with `after`.
    pub fn change(&self, before: &Ruleset, after: &Ruleset) {
        let socket = self.netns.socket().expect("a socket in the pod");
        socket.apply(&encode(&plan(before, after))).unwrap_or_else(|error| panic!("{error}: {error:?}"));
    }
}
