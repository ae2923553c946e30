//! A pod that is connected to this node by a veth pair, for benchmarks of connections.

use test_support::namespace::run;
use test_support::pod::Pod;

/// Creates a pod with the second address of a network in which the node has the first.
pub(crate) fn wired(number: u8) -> Pod {
    let pod = Pod::new();
    let (outer, net) = (format!("w{number}"), format!("10.1.{number}"));
    pod.wire(&outer, "eth0");
    run("ip", &["address", "add", &format!("{net}.1/24"), "dev", &outer], "");
    pod.ip(&["address", "add", &format!("{net}.2/24"), "dev", "eth0"]);
    pod.ip(&["route", "add", "default", "via", &format!("{net}.1")]);
    pod
}
