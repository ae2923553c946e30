//! What portals cost a pod: the kernel's memory, and the way of its packets.
//!
//! Memory is what the kernel's slabs grow by over several network namespaces, divided by them, in rounds that
//! take turns; the peer is kube-proxy's shape of the same portals. The way leads over two veths and a forwarding node: straight to
//! the server, through a portal with 10,000 portals loaded in the client's network namespace, or through one
//! NAT rule on the node. All take turns in each round.

// A benchmark's report is its output.
#![allow(clippy::print_stdout)]

#[path = "netns/kube_proxy.rs"]
#[allow(dead_code)]
mod kube_proxy;
#[path = "netns/namespace.rs"]
#[allow(dead_code)]
mod namespace;
#[path = "netns/pod.rs"]
#[allow(dead_code)]
mod pod;
#[path = "netns/slabs.rs"]
mod slabs;
#[path = "netns/times.rs"]
mod times;
#[path = "netns/wired.rs"]
mod wired;

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use kube_proxy::kube_proxy_shape;
use namespace::{bare, load, run};
use proxy_core::portal::{Portals, Standpoint, portals};
use proxy_core::ruleset::{Ruleset, Settings};
use proxy_core::sample::{cluster, slice, svc};
use proxy_core::snapshot::Snapshot;
use slabs::Grown;
use times::report;
use wired::wired;

const DIRECT: &str = "10.1.2.2:8080";
const PORTAL: &str = "10.200.0.1:80";
const NODE: &str = "10.201.0.1:80";
/// What a client asks for: a connection that is closed at once, or bytes until it has enough.
const TALK: Duration = Duration::from_millis(500);

fn main() {
    let is_quick = std::env::var_os("PORTICO_BENCH_QUICK").is_some();
    let (namespaces, loaded, connects, rounds) =
        if is_quick { (4, 1_000, 200, 2) } else { (10, 10_000, 3_000, 10) };
    bare(|| {
        run("ip", &["link", "set", "lo", "up"], "");
        memory(namespaces, rounds);
        way(loaded, connects, rounds);
    });
}

fn portals_of(services: u32) -> (Portals, Ruleset) {
    let extra =
        [svc("way").ip("10.200.0.1").tcp("", 80).into(), slice("way").tcp("", 8080).at("10.1.2.2").into()];
    let snapshot: Snapshot = cluster(services, 3).chain(extra).collect();
    let portals = portals(&snapshot, &Standpoint::default());
    let ruleset = Ruleset::new(&portals, Settings::default());
    (portals, ruleset)
}

fn memory(namespaces: u16, rounds: usize) {
    let (portals, ruleset) = portals_of(1_000);
    let peer = kube_proxy_shape(&portals);
    println!("kernel memory of a network namespace with 1,000 portals of 3 backends, {rounds} rounds, in KB");
    let mut grown = Grown::default();
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        ours.push(grown.by(namespaces, |pod| pod.change(&Ruleset::empty(), &ruleset)));
        theirs.push(grown.by(namespaces, |pod| pod.within(|| load(&peer))));
    }
    report("portico", &mut ours);
    report("peer: chain and anonymous map per service", &mut theirs);
}

fn way(loaded: u32, connects: usize, rounds: usize) {
    fs::write("/proc/sys/net/ipv4/ip_forward", "1").expect("forward packets");
    let (client, server, plain) = (wired(1), wired(2), wired(3));
    client.change(&Ruleset::empty(), &portals_of(loaded).1);
    load(
        "table ip node {\n chain prerouting {\n  type nat hook prerouting priority -100\n  \
         ip daddr 10.201.0.1 tcp dport 80 dnat to 10.1.2.2:8080\n }\n}\n",
    );
    server.within(serve);
    let ways = [
        ("straight to the server", &plain, DIRECT),
        ("through a portal in the client's network namespace", &client, PORTAL),
        ("through a NAT rule on the node", &plain, NODE),
    ];
    println!("\nconnect, {loaded} portals loaded, {connects} connections each, in us");
    let mut times = ways.map(|_| Vec::new());
    for _ in 0..connects {
        for ((_, pod, to), times) in ways.iter().zip(&mut times) {
            times.push(pod.within(|| connect(to)));
        }
    }
    for ((name, ..), times) in ways.iter().zip(&mut times) {
        report(name, times);
    }
    println!("\none stream for {TALK:?}, {rounds} rounds, in Gbit/s");
    let mut rates = ways.map(|_| Vec::new());
    for _ in 0..rounds {
        for ((_, pod, to), rates) in ways.iter().zip(&mut rates) {
            rates.push(pod.within(|| stream(to)));
        }
    }
    for ((name, ..), rates) in ways.iter().zip(&mut rates) {
        report(name, rates);
    }
}

/// A server that sends as much as anybody takes.
fn serve() {
    let listener = TcpListener::bind("10.1.2.2:8080").expect("listen");
    thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            thread::spawn(move || send(connection));
        }
    });
}

fn send(mut connection: TcpStream) {
    let mut wish = [0; 1];
    if connection.read_exact(&mut wish).is_ok() {
        let bytes = vec![7; 1 << 18];
        while connection.write_all(&bytes).is_ok() {}
    }
}

fn connect(to: &str) -> f64 {
    let to: SocketAddr = to.parse().expect("an address");
    let start = Instant::now();
    let stream = TcpStream::connect(to).expect("connect");
    let took = start.elapsed().as_secs_f64() * 1e6;
    drop(stream);
    took
}

fn stream(from: &str) -> f64 {
    let mut connection = TcpStream::connect(from).expect("connect");
    connection.write_all(&[1]).expect("ask for bytes");
    let (mut buffer, mut taken) = (vec![0; 1 << 18], 0);
    let start = Instant::now();
    while start.elapsed() < TALK {
        taken += connection.read(&mut buffer).expect("bytes");
    }
    taken as f64 * 8.0 / start.elapsed().as_secs_f64() / 1e9
}
