//! The cost of a relayed portal: streams, connections, requests and the first byte, compared with HAProxy in TCP mode in
//! the same network namespace, and without a proxy.
//!
//! Client and server are two network namespaces, connected by veth pairs to a forwarding node. All paths take turns in
//! each round.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::haproxy::{HaProxy, Splice};
use crate::routed_pod::routed_pod;
use bench_report::{Sheet, Spread, Verdict, is_quick};
use proxy_core::portal::{NodeContext, ServiceFilter, portals};
use proxy_core::ruleset::{Ruleset, Settings};
use proxy_core::sample::{slice, svc};
use proxy_core::service::Mode;
use proxy_core::snapshot::Snapshot;
use relay::{Options, Relay};
use serde_json::Value;
use test_support::child_guard::ChildGuard;
use test_support::namespace::{in_new_netns, run};
use test_support::pod::Pod;
use test_support::proc_memory::resident_kb;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::Builder;

/// The duration of a round of streams, connections or requests.
const ROUND: Duration = Duration::from_secs(1);
const PORTAL: &str = "10.200.0.1";
const SERVER: &str = "10.1.2.2";
/// The ports of the iperf3 server and of the echo server.
const STREAM_PORT: u16 = 5201;
const ECHO_PORT: u16 = 8080;
/// The number of concurrent clients.
const CLIENTS: usize = 8;

/// A path from client to server.
struct Path {
    name: &'static str,
    stream: SocketAddr,
    echo: SocketAddr,
}

pub(crate) fn bench() {
    let (rounds, firsts, idle) = if is_quick() { (1, 300, 200) } else { (7, 5_000, 2_000) };
    in_new_netns(|| {
        run("ip", &["link", "set", "lo", "up"], "");
        fs::write("/proc/sys/net/ipv4/ip_forward", "1").expect("forward packets");
        let (client, server) = (pod_without_time_wait(1), pod_without_time_wait(2));
        let _iperf = server.within(serve);
        let _relay = start_relay(&client);
        let _peers = client.within(|| {
            [
                HaProxy::start(7_000, &[(0, SERVER, STREAM_PORT), (1, SERVER, ECHO_PORT)], Splice::Off),
                HaProxy::start(7_010, &[(0, SERVER, STREAM_PORT), (1, SERVER, ECHO_PORT)], Splice::Auto),
            ]
        });
        let paths = [
            path("no proxy", SERVER, STREAM_PORT, ECHO_PORT),
            path("peer: HAProxy", "127.0.0.1", 7_000, 7_001),
            path("peer: HAProxy with option splice-auto", "127.0.0.1", 7_010, 7_011),
            path("relay", PORTAL, STREAM_PORT, ECHO_PORT),
        ];
        let sheet = Sheet::open("relay_speed");
        let times_the_peer = |took: &[Spread], least: f64| {
            let peer = took[1].median.max(took[2].median);
            vec![Verdict::at_least("times the better HAProxy", took[3].median / peer, least)]
        };
        let put = |table, title: &str, unit, took: Vec<Spread>, targets: Vec<Verdict>| {
            let table = sheet.rows(table, title, unit);
            for (number, (path, took)) in paths.iter().zip(&took).enumerate() {
                table.put(path.name, took, if number == 3 { &targets } else { &[] });
            }
        };
        let took = Spread::in_turns(rounds, &paths, |path| client.within(|| stream(path.stream)));
        let targets = times_the_peer(&took, 1.05);
        put("stream", "one stream, iperf3", "Gbit/s", took, targets);
        let took = Spread::in_turns(rounds, &paths, |path| client.within(|| connections(path.echo)));
        let targets = times_the_peer(&took, 0.8);
        put(
            "connections",
            &format!("short connections of {CLIENTS} clients"),
            "thousands a second",
            took,
            targets,
        );
        let took = Spread::in_turns(rounds, &paths, |path| client.within(|| requests(path.echo)));
        let targets = times_the_peer(&took, 1.0);
        let title = format!("requests of 64 bytes on {CLIENTS} kept connections");
        put("requests", &title, "thousands a second", took, targets);
        let took = Spread::in_turns(firsts, &paths, |path| client.within(|| first_byte(path.echo)));
        let targets = vec![
            Verdict::at_most("us over no proxy", took[3].median - took[0].median, 60.0),
            Verdict::at_most("p99, us over no proxy", took[3].p99 - took[0].p99, 300.0),
        ];
        put("first_byte", "connect to first byte", "us", took, targets);
        measure_memory(&sheet, &client, &paths, idle);
    });
}

fn path(name: &'static str, host: &str, stream: u16, echo: u16) -> Path {
    let to = |port| SocketAddr::new(host.parse().expect("an address"), port);
    Path { name, stream: to(stream), echo: to(echo) }
}

/// A pod connected to this node, without connections in TIME-WAIT. Otherwise the search for a free port would dominate
/// after some ten thousand connections.
fn pod_without_time_wait(number: u8) -> Pod {
    let pod = routed_pod(number);
    pod.within(|| fs::write("/proc/sys/net/ipv4/tcp_max_tw_buckets", "1")).expect("limit TIME-WAIT");
    pod
}

fn start_relay(client: &Pod) -> Relay {
    let service = svc("s").ip(PORTAL).tcp("stream", STREAM_PORT).tcp("echo", ECHO_PORT).mode(Mode::Relay);
    let slice = slice("s").tcp("stream", STREAM_PORT).tcp("echo", ECHO_PORT).at(SERVER);
    let snapshot: Snapshot = [service.into(), slice.into()].into_iter().collect();
    let portals = portals(&snapshot, &NodeContext::default());
    client.change(&Ruleset::empty(), &Ruleset::new(&portals, Settings::default()));
    let (used, _) = tokio::sync::mpsc::channel(4_096);
    let options = Options {
        workers: 2,
        port: Settings::default().relay_port,
        connections_max: 20_000,
        buffer_bytes_max: 1 << 30,
    };
    let relay = Relay::start(options, &used).expect("start the relay");
    relay.set_portals(&ServiceFilter::All, portals);
    relay.open_netns(&client.netns, &ServiceFilter::All, false).expect("listen in the pod");
    relay
}

/// Starts an iperf3 server and an echo server.
fn serve() -> ChildGuard {
    let listener = TcpListener::bind((SERVER, ECHO_PORT)).expect("listen");
    listener.set_nonblocking(true).expect("for an event loop");
    thread::spawn(move || {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async move {
            let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
            while let Ok((connection, _)) = listener.accept().await {
                tokio::spawn(echo(connection));
            }
        });
    });
    let mut command = Command::new("iperf3");
    command.args(["-s", "-p", &STREAM_PORT.to_string()]).stdin(Stdio::null()).stdout(Stdio::null());
    ChildGuard::spawn(&mut command)
}

async fn echo(mut connection: tokio::net::TcpStream) {
    connection.set_nodelay(true).expect("no delay");
    let mut buffer = [0; 64];
    while let Ok(bytes @ 1..) = connection.read(&mut buffer).await {
        if connection.write_all(&buffer[..bytes]).await.is_err() {
            return;
        }
    }
}

fn stream(to: SocketAddr) -> f64 {
    let (host, port, time) = (to.ip().to_string(), to.port().to_string(), ROUND.as_secs().to_string());
    let text = run("iperf3", &["-c", &host, "-p", &port, "-t", &time, "-J"], "");
    let answer: Value = serde_json::from_str(&text).expect("JSON");
    answer["end"]["sum_received"]["bits_per_second"].as_f64().expect("a rate") / 1e9
}

fn exchange(connection: &mut TcpStream, bytes: usize) {
    let mut buffer = [7; 64];
    connection.write_all(&buffer[..bytes]).expect("send");
    connection.read_exact(&mut buffer[..bytes]).expect("receive");
}

fn connect(to: SocketAddr) -> TcpStream {
    let connection = TcpStream::connect(to).expect("connect");
    connection.set_nodelay(true).expect("no delay");
    connection
}

/// Returns the rate of all clients together, in thousands per second.
fn total_rate(work: impl Fn(&mut Option<TcpStream>) + Sync) -> f64 {
    let (done, is_over) = (AtomicU64::new(0), AtomicBool::new(false));
    let start = Instant::now();
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                let mut kept = None;
                while !is_over.load(Ordering::Relaxed) {
                    work(&mut kept);
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        thread::sleep(ROUND);
        is_over.store(true, Ordering::Relaxed);
    });
    done.load(Ordering::Relaxed) as f64 / start.elapsed().as_secs_f64() / 1e3
}

fn connections(to: SocketAddr) -> f64 {
    total_rate(|_| exchange(&mut connect(to), 1))
}

fn requests(to: SocketAddr) -> f64 {
    total_rate(|kept| exchange(kept.get_or_insert_with(|| connect(to)), 64))
}

fn first_byte(to: SocketAddr) -> f64 {
    let start = Instant::now();
    exchange(&mut connect(to), 1);
    start.elapsed().as_secs_f64() * 1e6
}

/// Measures the memory of an idle connection in the relay. Clients and servers are in this process, too; a connection
/// without a relay measures their part.
fn measure_memory(sheet: &Sheet, client: &Pod, paths: &[Path], idle: usize) {
    let grown = |path: &Path| {
        let before = resident_kb();
        let open = || (0..idle).map(|_| connect(path.echo)).collect::<Vec<_>>();
        let mut kept = client.within(open);
        kept.iter_mut().for_each(|connection| exchange(connection, 1));
        let grown = (resident_kb() - before) / idle as f64;
        (grown, kept)
    };
    // The first round allocates memory that later ones reuse; all connections stay open.
    let (none, _kept) = grown(&paths[0]);
    let (relayed, _relayed) = grown(&paths[3]);
    let table = sheet.rows("memory", &format!("memory of an idle connection, of {idle}"), "KB");
    table.put("client and server", &Spread::one(none), &[]);
    let ours = relayed - none;
    table.put("the relay, both sides", &Spread::one(ours), &[Verdict::at_most("KB", ours, 8.0)]);
}
