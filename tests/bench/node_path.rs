//! The cost of node ports for connections from outside.
//!
//! A client is connected to a server through a node by two veth pairs. The node either has Portico's table with 10,000
//! services with node ports, or one handwritten rule that does the same for the measured port: DNAT and masquerade. Each
//! node has its own client and server, so the tables do not influence each other. Both take turns in each round.

use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Instant;
use std::{fs, thread};

use crate::cluster_objects::node_port_snapshot;
use crate::routed_pod::routed_pod;
use bench_report::{Rows, Sheet, Spread, Verdict, is_quick};
use netns_nft::{Socket, encode_node_fresh};
use nix::sys::socket::{setsockopt, sockopt};
use proxy_core::portal::{NodeContext, Place, portals};
use proxy_core::ruleset::node::{NodeEnvironment, NodeRuleset, NodeSettings, PodDetection};
use proxy_core::sample::{node_context, slice, svc};
use test_support::namespace::load;
use test_support::pod::Pod;

/// The addresses of `routed_pod`: the node on the client's link, and the server.
const NODE_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 1, 1, 1);
const SERVER: &str = "10.1.2.2:8080";
/// A port above those of the other services.
const NODE_PORT: u16 = 9_999;
/// The clients that open connections at the same time.
const CLIENTS: usize = 4;

pub(crate) fn bench() {
    let (services, connects, rounds, connections) =
        if is_quick() { (1_000, 200, 2, 40) } else { (10_000, 5_000, 40, 400) };
    let paths = [
        ("a handwritten rule with DNAT and masquerade", NodePath::new(|| load(&handwritten_rules()))),
        ("through a node port", NodePath::new(|| program(services))),
    ];
    let sheet = Sheet::open("node_path");
    let put = |table: Rows<'_>, took: Vec<Spread>, speed: fn(&Spread, &Spread) -> f64| {
        for (number, ((name, _), took_by)) in paths.iter().zip(&took).enumerate() {
            let target = (number == 1)
                .then(|| Verdict::at_least("of the speed of the rule", speed(took_by, &took[0]), 0.97));
            table.put(name, took_by, target.as_slice());
        }
    };
    let took = Spread::in_turns(connects, &paths, |(_, path)| path.connect_time());
    let title = format!("connect, {services} services with node ports");
    put(sheet.rows("connect", &title, "us"), took, |ours, rule| rule.times(ours));
    let rates = Spread::in_turns(rounds, &paths, |(_, path)| path.connection_rate(connections));
    let title = format!("connections of {CLIENTS} clients, {services} services with node ports");
    put(sheet.rows("connections", &title, "thousands a second"), rates, |ours, rule| ours.times(rule));
}

/// A client, a node and a server.
struct NodePath {
    _node: Pod,
    client: Pod,
    _server: Pod,
}

impl NodePath {
    /// Creates the network, and the rules of the node with `program`.
    fn new(program: impl FnOnce() + Send) -> Self {
        let node = Pod::new();
        let (client, server) = node.within(|| {
            fs::write("/proc/sys/net/ipv4/ip_forward", "1").expect("forward packets");
            let ends = (routed_pod(1), routed_pod(2));
            program();
            // The entries of closed connections would fill the table. The file exists with connection tracking.
            fs::write("/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_close", "1").expect("a time-out");
            ends
        });
        server.within(serve);
        Self { _node: node, client, _server: server }
    }

    fn connect_time(&self) -> f64 {
        self.client.within(|| {
            let start = Instant::now();
            let stream = connect();
            let took = start.elapsed().as_secs_f64() * 1e6;
            drop(stream);
            took
        })
    }

    /// Opens this number of connections by each client, and returns the rate of all of them.
    fn connection_rate(&self, connections: usize) -> f64 {
        let start = Instant::now();
        self.client.within(|| {
            thread::scope(|scope| {
                for _ in 0..CLIENTS {
                    scope.spawn(|| (0..connections).for_each(|_| finish(connect())));
                }
            });
        });
        (CLIENTS * connections) as f64 / start.elapsed().as_secs_f64() / 1e3
    }
}

fn connect() -> TcpStream {
    TcpStream::connect(SocketAddr::from((NODE_ADDRESS, NODE_PORT))).expect("connect")
}

/// Waits until the server has accepted and closed the connection, so that its queue does not overflow. Closes the
/// connection without a TIME_WAIT state, so that ports do not run out.
fn finish(mut stream: TcpStream) {
    assert_eq!(stream.read(&mut [0]).expect("the end of the stream"), 0);
    let at_once = nix::libc::linger { l_onoff: 1, l_linger: 0 };
    setsockopt(&stream, sockopt::Linger, &at_once).expect("set an option");
    drop(stream);
}

/// Starts a server that accepts connections.
fn serve() {
    let listener = TcpListener::bind(SERVER).expect("listen");
    thread::spawn(move || listener.incoming().flatten().for_each(drop));
}

fn handwritten_rules() -> String {
    format!(
        "table ip node {{\n chain prerouting {{\n  type nat hook prerouting priority -100\n  \
         ip daddr {NODE_ADDRESS} tcp dport {NODE_PORT} dnat to {SERVER}\n }}\n \
         chain postrouting {{\n  type nat hook postrouting priority 100\n  \
         ct status dnat tcp dport 8080 masquerade fully-random\n }}\n}}\n"
    )
}

fn program(services: u32) {
    let mut snapshot = node_port_snapshot(services, 3);
    snapshot.apply(svc("path").ip("10.200.0.1").tcp("", 80).node_port(NODE_PORT).into());
    snapshot.apply(slice("path").tcp("", 8080).at("10.1.2.2").into());
    let context = NodeContext { place: Place::Node, ..node_context() };
    let environment = NodeEnvironment {
        addresses: std::collections::BTreeSet::from([NODE_ADDRESS.into()]).into(),
        pod_ranges: std::collections::BTreeSet::from(["11.0.0.0/8".parse().expect("a network")]).into(),
        ..NodeEnvironment::default()
    };
    let settings = NodeSettings { detects_pods: PodDetection::BOTH, ..NodeSettings::default() };
    let ruleset = NodeRuleset::new(&portals(&snapshot, &context), settings, environment);
    let socket = Socket::open().expect("a socket");
    socket.apply(&encode_node_fresh(&ruleset)).expect("apply");
}
