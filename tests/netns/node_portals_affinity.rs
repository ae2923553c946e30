//! Session affinity at the node: by the client's real address, which only the node's table sees.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;

use netns_nft::{Socket, encode_node};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, socket};
use proxy_core::portal::{PortalKey, portals};
use proxy_core::ruleset::node::{NodeRuleset, node_plan};
use proxy_core::sample::{ip, slice, snapshot};
use proxy_core::service::Protocol;
use proxy_core::snapshot::Change;
use test_support::backend_server::REPLY_TIMEOUT;
use test_support::namespace::{add_address, add_address_to, load, run};

use crate::node_case::{Client, NodeCase};
use crate::node_network::{
    CLUSTER_IP, LOCAL_POD, NODE, NodeNetwork, REMOTE_POD, current_node_table, detecting, endpoints,
    environment, node_ruleset, node_table_context, on_node, program, serve, web_service,
};

/// The number of clients: all of them select the same of two backends with a probability of 2^-19.
const CLIENTS: u16 = 20;
/// The capacity of the map of clients of one service.
const MAP_MAX: usize = 65_535;
/// Another address of the other pod.
const THIRD: [&str; 2] = ["10.1.1.3", "2001:db8:11::3"];

/// Returns the address of a client outside the cluster.
fn client_address(family: usize, index: u16) -> IpAddr {
    let text =
        if family == 0 { format!("192.0.2.{}", 100 + index) } else { format!("2001:db8:2::c:{index:x}") };
    ip(&text)
}

fn add_clients(network: &NodeNetwork) {
    let add = |index| {
        let [v4, v6] = [0, 1].map(|family| client_address(family, index));
        format!("address add {v4}/24 dev eth0\naddress add {v6}/64 dev eth0 nodad\n")
    };
    let commands: String = (0..CLIENTS).map(add).collect();
    network.outside.within(|| {
        run("ip", &["-batch", "-"], &commands);
        // The kernel adds routes of IPv6 addresses a little later, in the order of the addresses.
        add_address_to("eth0", "2001:db8:2::d/64");
    });
}

/// Returns the name that the server sends to a client with this address.
fn ask_from(client: IpAddr, server: &str, port: u16) -> String {
    let family = if client.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let fd = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).expect("a socket");
    bind(fd.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(client, 0))).expect("bind");
    let server = SocketAddr::new(ip(server), port);
    connect(fd.as_raw_fd(), &SockaddrStorage::from(server)).expect("connect");
    let mut stream = TcpStream::from(fd);
    stream.set_read_timeout(Some(REPLY_TIMEOUT)).expect("set a timeout");
    let mut reply = String::new();
    stream.read_to_string(&mut reply).expect("a reply");
    reply.split(' ').next().expect("a name").to_owned()
}

/// Returns the backend of each client at the node port, after some connections of each.
fn backends_of_clients(network: &NodeNetwork, family: usize) -> BTreeMap<IpAddr, String> {
    let backend_of = |index| {
        let client = client_address(family, index);
        let first = ask_from(client, NODE[family], 30_080);
        for _ in 0..3 {
            assert_eq!(ask_from(client, NODE[family], 30_080), first, "{client}");
        }
        (client, first)
    };
    network.outside.within(|| (0..CLIENTS).map(backend_of).collect())
}

fn node_port(family: usize) -> PortalKey {
    PortalKey { address: ip(NODE[family]), protocol: Protocol::Tcp, port: 30_080 }
}

#[test]
fn clients_outside_have_independent_backends() {
    on_node(|network| {
        add_clients(network);
        let changes = [web_service().sticky(60).into(), endpoints("web", true, true)];
        let case = NodeCase::new(network, changes, detecting());
        for family in [0, 1] {
            let chosen = backends_of_clients(network, family);
            let names: BTreeSet<&str> = chosen.values().map(String::as_str).collect();
            assert_eq!(names, BTreeSet::from(["local", "remote"]));
            let traced = case.trace_results(Client::Outside, node_port(family));
            assert_eq!(traced, BTreeSet::from(["local masqueraded".into(), "remote masqueraded".into()]));
            // The cluster address shares the entries of the node port.
            let (client, name) = chosen.first_key_value().expect("a client");
            let shared = network.outside.within(|| ask_from(*client, CLUSTER_IP[family], 80));
            assert_eq!(shared, *name);
        }
    });
}

/// The slice of three backends, or of the first two.
fn three_backends(has_third: bool) -> Change {
    let mut three = slice("web").tcp("", 8080);
    for family in [0, 1] {
        three = three.at(LOCAL_POD[family]).on("n1").at(REMOTE_POD[family]).on("n2");
        if has_third {
            three = three.at(THIRD[family]).on("n2");
        }
    }
    three.into()
}

#[test]
fn clients_of_remaining_backends_stay_if_another_backend_is_removed() {
    on_node(|network| {
        add_clients(network);
        network.remote.within(|| {
            THIRD.iter().for_each(|address| add_address(address));
            serve("third", &THIRD, 8080);
        });
        let mut services = snapshot([web_service().sticky(60).into(), three_backends(true)]);
        let mut portals = portals(&services, &node_table_context());
        let before = NodeRuleset::new(&portals, detecting(), environment());
        program(&before);
        let first: Vec<_> = [0, 1].map(|family| backends_of_clients(network, family)).into();
        let changed = services.apply(three_backends(false));
        let keys = portals.refresh(&services, &node_table_context(), &changed);
        let mut after = before.clone();
        let changes = after.refresh(&portals, &keys);
        let batch = encode_node(&node_plan(&before, &after, &changes));
        Socket::open().and_then(|socket| socket.apply(&batch)).expect("apply the change");
        assert_eq!(current_node_table().elements, after.elements().into_iter().collect());
        for family in [0, 1] {
            for (client, name) in backends_of_clients(network, family) {
                match &*first[family][&client] {
                    "third" => assert!(["local", "remote"].contains(&&*name), "{client}: {name}"),
                    stayed => assert_eq!(name, stayed, "{client}"),
                }
            }
        }
    });
}

/// Adds entries of other clients to the map of clients.
fn fill_clients(ruleset: &NodeRuleset, family: usize, count: usize) {
    let unspecified = ip(if family == 0 { "0.0.0.0" } else { "::" });
    let frontend = ruleset.frontend_at(PortalKey { address: unspecified, ..node_port(family) });
    let number = frontend.and_then(|frontend| frontend.action.target()).expect("a target");
    let id = ruleset.target(number).expect("a target").ids[0];
    let client = |index: usize| {
        let (high, low) = (index >> 8, index & 255);
        if family == 0 { format!("100.64.{high}.{low}") } else { format!("2001:db8:64::{index:x}") }
    };
    let elements: Vec<String> =
        (0..count).map(|index| format!("{} timeout 1h : {id:#x}", client(index))).collect();
    let map = format!("clients{}-{number}", [4, 6][family]);
    load(&format!("add element inet portico-node {map} {{ {} }}", elements.join(", ")));
}

#[test]
fn full_map_of_clients_balances_new_clients_and_keeps_known_ones() {
    on_node(|network| {
        add_clients(network);
        let ruleset =
            node_ruleset([web_service().sticky(3_600).into(), endpoints("web", true, true)], detecting());
        program(&ruleset);
        for family in [0, 1] {
            let ask = |index| {
                let client = client_address(family, index);
                network.outside.within(|| ask_from(client, NODE[family], 30_080))
            };
            let known = ask(0);
            fill_clients(&ruleset, family, MAP_MAX - 1);
            let names: BTreeSet<String> = (0..40).map(|_| ask(1)).collect();
            assert_eq!(names, BTreeSet::from(["local".to_owned(), "remote".to_owned()]));
            for _ in 0..8 {
                assert_eq!(ask(0), known);
            }
        }
    });
}
