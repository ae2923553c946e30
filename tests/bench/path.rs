//! The cost of portals for a pod's connections.
//!
//! The path consists of two veth pairs and a forwarding node. It leads directly to the server, through a portal with
//! 10,000 portals in the client's network namespace, or through one NAT rule on the node. All take turns in each round.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use crate::routed_pod::routed_pod;
use bench_report::{Rows, Sheet, Spread, Verdict, is_quick};
use proxy_core::portal::{NodeContext, portals};
use proxy_core::ruleset::{Ruleset, Settings};
use proxy_core::sample::{cluster, slice, svc};
use proxy_core::snapshot::Snapshot;
use test_support::namespace::{in_new_netns, load, run};

const DIRECT: &str = "10.1.2.2:8080";
const PORTAL: &str = "10.200.0.1:80";
const NODE: &str = "10.201.0.1:80";
/// The duration of a stream.
const STREAM_TIME: Duration = Duration::from_millis(500);

pub(crate) fn bench() {
    let (loaded, connects, rounds) = if is_quick() { (1_000, 200, 2) } else { (10_000, 3_000, 10) };
    in_new_netns(|| {
        run("ip", &["link", "set", "lo", "up"], "");
        measure_paths(loaded, connects, rounds);
    });
}

fn ruleset_with(services: u32) -> Ruleset {
    let extra = [
        svc("measured").ip("10.200.0.1").tcp("", 80).into(),
        slice("measured").tcp("", 8080).at("10.1.2.2").into(),
    ];
    let snapshot: Snapshot = cluster(services, 3).chain(extra).collect();
    Ruleset::new(&portals(&snapshot, &NodeContext::default()), Settings::default())
}

fn measure_paths(loaded: u32, connects: usize, rounds: usize) {
    fs::write("/proc/sys/net/ipv4/ip_forward", "1").expect("forward packets");
    let (client, server, plain) = (routed_pod(1), routed_pod(2), routed_pod(3));
    client.change(&Ruleset::empty(), &ruleset_with(loaded));
    load(
        "table ip node {\n chain prerouting {\n  type nat hook prerouting priority -100\n  \
         ip daddr 10.201.0.1 tcp dport 80 dnat to 10.1.2.2:8080\n }\n}\n",
    );
    server.within(serve);
    let paths = [
        ("straight to the server", &plain, DIRECT),
        ("through a portal in the client's network namespace", &client, PORTAL),
        ("through a NAT rule on the node", &plain, NODE),
    ];
    let sheet = Sheet::open("path");
    let put = |table: Rows<'_>, took: Vec<Spread>, speed: fn(&Spread, &Spread) -> f64| {
        for (number, ((name, ..), took_by)) in paths.iter().zip(&took).enumerate() {
            let target = (number == 1)
                .then(|| Verdict::at_least("of the speed straight", speed(took_by, &took[0]), 0.95));
            table.put(name, took_by, target.as_slice());
        }
    };
    let took = Spread::in_turns(connects, &paths, |(_, pod, to)| pod.within(|| connect(to)));
    let title = format!("connect, {loaded} portals loaded");
    put(sheet.rows("connect", &title, "us"), took, |ours, straight| straight.times(ours));
    let rates = Spread::in_turns(rounds, &paths, |(_, pod, from)| pod.within(|| stream(from)));
    let title = format!("one stream for {STREAM_TIME:?}");
    put(sheet.rows("stream", &title, "Gbit/s"), rates, |ours, straight| ours.times(straight));
}

/// Starts a server that sends as much as the client reads.
fn serve() {
    let listener = TcpListener::bind("10.1.2.2:8080").expect("listen");
    thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            thread::spawn(move || send(connection));
        }
    });
}

fn send(mut connection: TcpStream) {
    let mut request = [0; 1];
    if connection.read_exact(&mut request).is_ok() {
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
    let (mut buffer, mut received) = (vec![0; 1 << 18], 0);
    let start = Instant::now();
    while start.elapsed() < STREAM_TIME {
        received += connection.read(&mut buffer).expect("bytes");
    }
    received as f64 * 8.0 / start.elapsed().as_secs_f64() / 1e9
}
