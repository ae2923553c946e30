//! A pod that is connected to its node, and has a route only to it.

use std::io::Write;
use std::net::TcpListener;
use std::thread;

use test_support::namespace::run;
use test_support::pod::Pod;

/// The address of the server on the node.
const SERVER: &str = "10.244.1.1:8080";

/// A pod with the address of `test_support::plugin::conf`, connected by a veth pair to this network namespace, in which a
/// server sends its name `web`.
pub(crate) fn wired_pod() -> Pod {
    let pod = Pod::new();
    pod.wire("veth0", "eth0");
    run("ip", &["address", "add", "10.244.1.1/24", "dev", "veth0"], "");
    pod.ip(&["address", "add", "10.244.1.5/24", "dev", "eth0"]);
    let listener = TcpListener::bind(SERVER).expect("listen");
    thread::spawn(move || {
        for connection in listener.incoming() {
            let _ = connection.and_then(|mut stream| stream.write_all(b"web"));
        }
    });
    pod
}
