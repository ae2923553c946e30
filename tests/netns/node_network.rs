//! A node with its neighbours: a host outside the cluster, a pod on the node, and a pod on another node.
//!
//! ```text
//! outside 192.0.2.2 ── 192.0.2.1 node 10.240.0.5 ── 10.1.0.2 local pod, 10.1.3.2 client pod
//!                                      └── 198.51.100.2 other node, 10.1.1.2 its pod
//! ```
//! The node is this network namespace. Each server sends its name and the address of its client. The client pod serves
//! nothing.

use std::io::Write;
use std::net::{IpAddr, TcpListener, UdpSocket};

use netns_nft::{NodeTableState, Socket, encode_node_fresh};
use proxy_core::portal::{NodeContext, Place, portals};
use proxy_core::ruleset::node::{NodeEnvironment, NodeRuleset, NodeSettings, NodeTable, PodDetection};
use proxy_core::sample::{ip, node_context, slice, snapshot, svc};
use proxy_core::service::Service;
use proxy_core::snapshot::Change;
use test_support::namespace::{add_address, add_address_to, in_new_netns, run};
pub(crate) use test_support::node_places::{
    CLIENT_POD, GATEWAY, LOCAL_POD, NODE, NODE_ON_LINK, OUTSIDE, REMOTE_POD,
};
use test_support::pod::Pod;

/// Addresses of a service: its cluster addresses, external addresses and load-balancer addresses.
pub(crate) const CLUSTER_IP: [&str; 2] = ["10.96.0.1", "2001:db8:96::1"];
pub(crate) const EXTERNAL_IP: [&str; 2] = ["203.0.113.8", "2001:db8:cb::8"];
pub(crate) const BALANCED: [&str; 2] = ["203.0.113.9", "2001:db8:cb::9"];

pub(crate) struct NodeNetwork {
    pub(crate) outside: Pod,
    pub(crate) local: Pod,
    pub(crate) client: Pod,
    pub(crate) remote: Pod,
}

impl NodeNetwork {
    fn new() -> Self {
        run("ip", &["link", "set", "lo", "up"], "");
        NODE.iter().for_each(|address| add_address(address));
        for key in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
            std::fs::write(format!("/proc/sys/net/{key}"), "1").expect("enable forwarding");
        }
        let outside = neighbour("outside", ["192.0.2.1/24", "2001:db8:2::1/64"], &OUTSIDE);
        let local = neighbour("local", ["10.1.0.1/24", "2001:db8:10::1/64"], &LOCAL_POD);
        let client = neighbour("client", ["10.1.3.1/24", "2001:db8:10:1::1/64"], &CLIENT_POD);
        let on_link = ["198.51.100.1/24", "2001:db8:51::1/64"];
        let remote = neighbour("remote", on_link, &["198.51.100.2", "2001:db8:51::2"]);
        remote.within(|| REMOTE_POD.iter().for_each(|address| add_address(address)));
        run("ip", &["route", "add", "10.1.1.0/24", "via", "198.51.100.2"], "");
        run("ip", &["-6", "route", "add", "2001:db8:11::/64", "via", "2001:db8:51::2"], "");
        // Addresses of services that no interface has.
        for net in ["10.96.0.0/16", "203.0.113.0/24"] {
            run("ip", &["route", "add", net, "dev", "to-outside", "src", NODE[0]], "");
        }
        for net in ["2001:db8:96::/64", "2001:db8:cb::/64"] {
            run("ip", &["-6", "route", "add", net, "dev", "to-outside", "src", NODE[1]], "");
        }
        Self { outside, local, client, remote }
    }
}

/// Runs `body` in a new network namespace with these neighbours, which serve on port 8080.
pub(crate) fn on_node<T: Send>(body: impl FnOnce(&NodeNetwork) -> T + Send) -> T {
    on_node_without_servers(|network| {
        network.local.within(|| serve("local", &LOCAL_POD, 8080));
        network.remote.within(|| serve("remote", &REMOTE_POD, 8080));
        body(network)
    })
}

/// Runs `body` in a new network namespace with these neighbours, which serve nothing.
pub(crate) fn on_node_without_servers<T: Send>(body: impl FnOnce(&NodeNetwork) -> T + Send) -> T {
    in_new_netns(|| body(&NodeNetwork::new()))
}

fn neighbour(name: &str, node: [&str; 2], own: &[&str; 2]) -> Pod {
    let pod = Pod::new();
    let outer = format!("to-{name}");
    pod.wire(&outer, "eth0");
    node.iter().for_each(|address| add_address_to(&outer, address));
    pod.within(|| {
        for (address, node) in own.iter().zip(node) {
            let (gateway, length) = node.split_once('/').expect("a length");
            add_address_to("eth0", &format!("{address}/{length}"));
            run("ip", &["route", "add", "default", "via", gateway], "");
        }
    });
    pod
}

/// Replies to datagrams at these addresses of this network namespace with the name, and the address of the client.
pub(crate) fn serve_datagrams(name: &'static str, addresses: &[&str], port: u16) {
    for address in addresses {
        let socket = UdpSocket::bind((ip(address), port)).expect("bind");
        std::thread::spawn(move || {
            while let Ok((_, client)) = socket.recv_from(&mut [0; 128]) {
                let _ = socket.send_to(format!("{name} {}", client.ip()).as_bytes(), client);
            }
        });
    }
}

/// A service at the cluster addresses and the node port 30080.
pub(crate) fn web_service() -> Service {
    svc("web").ip(CLUSTER_IP[0]).ip(CLUSTER_IP[1]).tcp("", 80).node_port(30_080)
}

/// A service with all kinds of addresses.
pub(crate) fn web_with_all_kinds() -> Service {
    let both =
        |service: Service, [v4, v6]: [&str; 2], add: fn(Service, &str) -> Service| add(add(service, v4), v6);
    both(both(web_service(), EXTERNAL_IP, Service::external), BALANCED, Service::balanced)
}

/// The settings of a node that recognises pods.
pub(crate) fn detecting() -> NodeSettings {
    NodeSettings { detects_pods: PodDetection::BOTH, ..NodeSettings::default() }
}

/// A slice with the pod on this node, on the other one, or both.
pub(crate) fn endpoints(name: &str, is_local: bool, is_remote: bool) -> Change {
    let mut slice = slice(name).tcp("", 8080);
    for (pods, node, is_used) in [(LOCAL_POD, "n1", is_local), (REMOTE_POD, "n2", is_remote)] {
        for address in pods.iter().filter(|_| is_used) {
            slice = slice.at(address).on(node);
        }
    }
    slice.into()
}

/// Serves on these addresses of this network namespace: sends the name, and the address of the client.
pub(crate) fn serve(name: &'static str, addresses: &[&str], port: u16) {
    for address in addresses {
        let listener = TcpListener::bind((ip(address), port)).expect("listen");
        std::thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let mut connection = connection;
                let client = connection.peer_addr().map_or_else(|e| e.to_string(), |a| a.ip().to_string());
                let _ = connection.write_all(format!("{name} {client}").as_bytes());
            }
        });
    }
}

pub(crate) fn node_table_context() -> NodeContext {
    NodeContext { place: Place::Node, ..node_context() }
}

pub(crate) fn environment() -> NodeEnvironment {
    let addresses: Vec<IpAddr> = NODE.iter().map(|address| ip(address)).collect();
    let pods = ["10.1.0.0/16", "2001:db8:10::/60"].map(|net| net.parse().expect("a CIDR"));
    NodeEnvironment {
        addresses: addresses.into_iter().collect::<std::collections::BTreeSet<_>>().into(),
        pod_ranges: std::collections::BTreeSet::from(pods).into(),
        ..NodeEnvironment::default()
    }
}

pub(crate) fn node_ruleset(changes: impl IntoIterator<Item = Change>, settings: NodeSettings) -> NodeRuleset {
    NodeRuleset::new(&portals(&snapshot(changes), &node_table_context()), settings, environment())
}

/// Programs this network namespace, and verifies that the table is read back unchanged.
pub(crate) fn program(ruleset: &NodeRuleset) {
    let socket = Socket::open().expect("a socket");
    let batch = encode_node_fresh(ruleset);
    socket.apply(&batch).unwrap_or_else(|error| panic!("{error}: {error:?}"));
    let elements = ruleset.elements().into_iter().collect();
    assert_eq!(current_node_table().elements, elements);
}

pub(crate) fn current_node_table() -> NodeTable {
    match Socket::open().and_then(Socket::read_node_table).expect("read the table") {
        NodeTableState::Intact(table) => table,
        other => panic!("{other:?}"),
    }
}
