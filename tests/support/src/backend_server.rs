//! Servers that send their names, and clients that connect to them through a portal.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};
use proxy_core::sample::backend;

use crate::namespace::{add_address, add_address_to, run};

/// The timeout of a reply. A lost packet is sent again after one second and after three.
pub const REPLY_TIMEOUT: Duration = Duration::from_secs(10);
/// The timeout if packets are expected to be dropped. A reply within one machine takes 0.1 ms.
pub const DROP_TIMEOUT: Duration = Duration::from_millis(300);

/// Starts a server on this address that sends its name on each connection.
pub fn serve(name: &'static str, address: &str) {
    add_address(address.rsplit_once(':').expect("a port").0.trim_matches(['[', ']']));
    let listener = TcpListener::bind(address).expect("listen on the backend's address");
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let _ = connection.and_then(|mut stream| stream.write_all(name.as_bytes()));
        }
    });
}

/// Starts a server in another network namespace. Connections to this address that bypass the portals reach it.
pub fn serve_outside(name: &'static str, address: &str) {
    let (sender, beyond) = channel();
    let (wired, is_wired) = channel::<()>();
    let listen_at = address.to_owned();
    let ip = address.rsplit_once(':').expect("a port").0.to_owned();
    let there = ip.clone();
    std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("a new network namespace");
        let netns = File::open("/proc/thread-self/ns/net").expect("open the namespace");
        sender.send(netns.as_raw_fd()).expect("the test waits");
        is_wired.recv().expect("a veth pair");
        add_address_to("beyond", "10.209.0.2/24");
        run("ip", &["link", "set", "beyond", "up"], "");
        run("ip", &["route", "add", "default", "via", "10.209.0.1"], "");
        serve_on(name, &there, &listen_at, &sender);
    });
    let netns = beyond.recv_timeout(REPLY_TIMEOUT).expect("a namespace beyond");
    let path = format!("/proc/{}/fd/{netns}", std::process::id());
    run("ip", &["link", "add", "to-beyond", "type", "veth", "peer", "name", "beyond", "netns", &path], "");
    add_address_to("to-beyond", "10.209.0.1/24");
    run("ip", &["link", "set", "to-beyond", "up"], "");
    wired.send(()).expect("the server waits");
    beyond.recv_timeout(REPLY_TIMEOUT).expect("a server beyond");
    run("ip", &["route", "add", &ip, "via", "10.209.0.2"], "");
}

fn serve_on(name: &'static str, ip: &str, address: &str, ready: &Sender<i32>) {
    run("ip", &["link", "set", "lo", "up"], "");
    add_address(ip);
    let listener = TcpListener::bind(address).expect("listen beyond");
    ready.send(0).expect("the test waits");
    for connection in listener.incoming() {
        let _ = connection.and_then(|mut stream| stream.write_all(name.as_bytes()));
    }
}

/// Connects to a portal and returns the name that the server sends.
pub fn try_backend_of(portal: &str, timeout: Duration) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&backend(portal), timeout)?;
    let mut name = String::new();
    stream.set_read_timeout(Some(timeout))?;
    stream.read_to_string(&mut name)?;
    Ok(name)
}

pub fn backend_of(portal: &str) -> String {
    try_backend_of(portal, REPLY_TIMEOUT).unwrap_or_else(|why| panic!("no reply from {portal}: {why}"))
}

pub fn count_backends(portal: &str, times: usize) -> BTreeMap<String, usize> {
    let mut tally = BTreeMap::new();
    for _ in 0..times {
        *tally.entry(backend_of(portal)).or_default() += 1;
    }
    tally
}

pub fn assert_refused(portal: &str) {
    let kind = try_backend_of(portal, REPLY_TIMEOUT).expect_err("no server replies").kind();
    assert_eq!(kind, ErrorKind::ConnectionRefused, "{portal}");
}

pub fn assert_silent(portal: &str) {
    let kind = try_backend_of(portal, DROP_TIMEOUT).expect_err("no server replies").kind();
    assert_eq!(kind, ErrorKind::TimedOut, "{portal}");
}
