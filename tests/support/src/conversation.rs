//! Conversations with what is behind a portal: servers that say their name, and clients that ask for it.

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

/// How long an answer may take: a lost packet is sent again after a second, and after three.
pub const ANSWER: Duration = Duration::from_secs(10);
/// How long nothing must come where everything is dropped: an answer within one machine takes 0.1 ms.
pub const SILENCE: Duration = Duration::from_millis(300);

/// A server on this address that answers each connection with its own name.
pub fn serve(name: &'static str, address: &str) {
    add_address(address.rsplit_once(':').expect("a port").0.trim_matches(['[', ']']));
    let listener = TcpListener::bind(address).expect("listen on the backend's address");
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let _ = connection.and_then(|mut stream| stream.write_all(name.as_bytes()));
        }
    });
}

/// The same on another machine: this address is not the namespace's own, and what passes the portals goes there.
pub fn serve_beyond(name: &'static str, address: &str) {
    let (tell, beyond) = channel();
    let (wired, go_on) = channel::<()>();
    let listen_at = address.to_owned();
    let ip = address.rsplit_once(':').expect("a port").0.to_owned();
    let there = ip.clone();
    std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("a new network namespace");
        let netns = File::open("/proc/thread-self/ns/net").expect("open the namespace");
        tell.send(netns.as_raw_fd()).expect("the test waits");
        go_on.recv().expect("a wire");
        add_address_to("beyond", "10.209.0.2/24");
        run("ip", &["link", "set", "beyond", "up"], "");
        run("ip", &["route", "add", "default", "via", "10.209.0.1"], "");
        serve_on(name, &there, &listen_at, &tell);
    });
    let patience = ANSWER;
    let netns = beyond.recv_timeout(patience).expect("a namespace beyond");
    let path = format!("/proc/{}/fd/{netns}", std::process::id());
    run("ip", &["link", "add", "to-beyond", "type", "veth", "peer", "name", "beyond", "netns", &path], "");
    add_address_to("to-beyond", "10.209.0.1/24");
    run("ip", &["link", "set", "to-beyond", "up"], "");
    wired.send(()).expect("the server waits");
    beyond.recv_timeout(patience).expect("a server beyond");
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

/// Who answers at a portal.
pub fn ask(portal: &str, patience: Duration) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&backend(portal), patience)?;
    let mut name = String::new();
    stream.set_read_timeout(Some(patience))?;
    stream.read_to_string(&mut name)?;
    Ok(name)
}

pub fn answer(portal: &str) -> String {
    ask(portal, ANSWER).unwrap_or_else(|why| panic!("{portal} does not answer: {why}"))
}

pub fn tally(portal: &str, times: usize) -> BTreeMap<String, usize> {
    let mut tally = BTreeMap::new();
    for _ in 0..times {
        *tally.entry(answer(portal)).or_default() += 1;
    }
    tally
}

pub fn assert_refused(portal: &str) {
    let kind = ask(portal, ANSWER).expect_err("nobody answers").kind();
    assert_eq!(kind, ErrorKind::ConnectionRefused, "{portal}");
}

pub fn assert_silent(portal: &str) {
    let kind = ask(portal, SILENCE).expect_err("nobody answers").kind();
    assert_eq!(kind, ErrorKind::TimedOut, "{portal}");
}
