//! Faults of a node with node portals: changes of its ruleset by other processes, ports in use, and bad input.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use netns_nft::{NodeTableState, Socket};
use proxy_core::ruleset::node::NodeElement;
use proxy_core::sample::ip;
use serde_json::{Value, json};
use test_support::agent::{Agent, AgentDir};
use test_support::backend_server::{
    DROP_TIMEOUT, REPLY_TIMEOUT, assert_refused, assert_silent, backend_of, try_backend_of,
};
use test_support::namespace::{add_address, run};

use crate::node_agent::{
    NODE_OBJECT, NODE_PORT, Objects, from_outside, node_report, service, start, with_service,
};
use crate::node_network::{
    BALANCED, CLIENT_POD, LOCAL_POD, NODE, NODE_ON_LINK, NodeNetwork, REMOTE_POD, on_node,
};

/// The limit of a repair of the table, which takes less than 200 ms on an idle machine.
const REPAIR_LIMIT: Duration = Duration::from_secs(1);
/// The limit until a new address is served.
const ADDRESS_LIMIT: Duration = Duration::from_millis(100);
const METRICS: &str = "127.0.0.1:9477";
const HEALTH_CHECK_PORT: u16 = 31_999;

/// Returns what the remote pod sends to a client that the node masquerades.
fn masqueraded_reply() -> String {
    format!("remote {}", NODE_ON_LINK[0])
}

/// Returns the time since `start` until a new connection from outside to the node port is served.
fn time_until_served(network: &NodeNetwork, address: &str, start: Instant) -> Duration {
    let portal = format!("{address}:{NODE_PORT}");
    network.outside.within(|| {
        while try_backend_of(&portal, DROP_TIMEOUT).is_err() {
            assert!(start.elapsed() < REPLY_TIMEOUT, "{portal} is not served");
        }
    });
    start.elapsed()
}

/// Returns the content of a page over HTTP.
fn get(address: &str, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(REPLY_TIMEOUT)).ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut page = String::new();
    stream.read_to_string(&mut page).ok()?;
    Some(page)
}

/// A service with the load-balancer address 203.0.113.9:80, the node port, and more fields in its spec.
fn load_balancer_service(more: &[(&str, Value)], endpoint: (&str, &str)) -> String {
    let mut spec = json!({"type": "LoadBalancer", "clusterIP": "10.96.0.2",
        "ports": [{"port": 80, "nodePort": 30_090}],
        "status": {"loadBalancer": {"ingress": [{"ip": BALANCED[0]}]}}});
    more.iter().for_each(|(key, value)| spec[*key] = value.clone());
    Objects { name: "balanced", spec, protocol: "TCP", port: 8080, endpoints: &[endpoint] }.to_string()
}

/// Starts a server that returns what it receives.
pub(crate) fn serve_echo(address: &str, port: u16) {
    let listener = TcpListener::bind((ip(address), port)).expect("bind");
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            thread::spawn(move || {
                let mut buffer = [0; 64];
                while let Ok(length @ 1..) = stream.read(&mut buffer) {
                    if stream.write_all(&buffer[..length]).is_err() {
                        return;
                    }
                }
            });
        }
    });
}

/// A service with the node port 30081 to a server that returns what it receives.
pub(crate) fn echo_service() -> String {
    let spec =
        json!({"type": "NodePort", "clusterIP": "10.96.0.7", "ports": [{"port": 80, "nodePort": 30_081}]});
    let endpoints = [(REMOTE_POD[0], "n2")];
    Objects { name: "echo", spec, protocol: "TCP", port: 9090, endpoints: &endpoints }.to_string()
}

/// Opens connections from outside to the node port of `echo_service`.
pub(crate) fn open_connections(network: &NodeNetwork, count: usize) -> Vec<TcpStream> {
    let portal: SocketAddr = format!("{}:30081", NODE[0]).parse().expect("an address");
    let connect = |_| {
        let stream = TcpStream::connect_timeout(&portal, REPLY_TIMEOUT).expect("connect");
        stream.set_read_timeout(Some(REPLY_TIMEOUT)).expect("set a timeout");
        stream
    };
    network.outside.within(|| (0..count).map(connect).collect())
}

/// Exchanges bytes over each connection, and returns the number of those that are broken.
pub(crate) fn count_broken(streams: &mut [TcpStream]) -> usize {
    let exchange = |stream: &mut TcpStream| -> std::io::Result<()> {
        stream.write_all(b"ping")?;
        stream.read_exact(&mut [0; 4])
    };
    streams.iter_mut().filter_map(|stream| exchange(stream).err()).count()
}

#[test]
fn open_connections_survive_a_flush_and_new_ones_are_served_within_a_second() {
    with_service(|network, folder| {
        network.remote.within(|| serve_echo(REMOTE_POD[0], 9090));
        folder.write_manifest("echo.json", &echo_service());
        let agent = start(folder, &[]);
        agent.wait_until("the anchor table is held", |_| {
            run("nft", &["list", "tables"], "").contains("portico-anchor")
        });
        let mut open = open_connections(network, 50);
        assert_eq!(count_broken(&mut open), 0);
        thread::scope(|scope| {
            let flushes = scope.spawn(|| {
                for _ in 0..3 {
                    run("nft", &["flush", "ruleset"], "");
                    let took = time_until_served(network, NODE[0], Instant::now());
                    println!("served {took:?} after a flush");
                    assert!(took < REPAIR_LIMIT, "{took:?}");
                    assert_eq!(from_outside(network, NODE[0]), masqueraded_reply());
                }
            });
            // A packet that arrives while there is no NAT breaks its connection.
            while !flushes.is_finished() {
                assert_eq!(count_broken(&mut open), 0, "during the flushes");
            }
            flushes.join().expect("new connections are served");
        });
        assert_eq!(count_broken(&mut open), 0);
    });
}

#[test]
fn deleted_table_is_restored_within_a_second() {
    with_service(|network, folder| {
        let _agent = start(folder, &[]);
        run("nft", &["delete", "table", "inet", "portico-node"], "");
        let took = time_until_served(network, NODE[0], Instant::now());
        println!("served {took:?} after the table was deleted");
        assert!(took < REPAIR_LIMIT, "{took:?}");
        assert_eq!(from_outside(network, NODE[0]), masqueraded_reply());
    });
}

#[test]
fn changes_of_the_table_by_another_process_are_undone() {
    with_service(|network, folder| {
        let agent = start(folder, &[]);
        let elements = node_elements();
        // The node port at another address of the node, and its chain without rules.
        run("nft", &["add", "element", "inet", "portico-node", "node-addresses4", "{ 192.0.2.1 }"], "");
        agent.wait_until("the element is removed", |_| node_elements() == elements);
        network.outside.within(|| assert_refused(&format!("192.0.2.1:{NODE_PORT}")));
        run("nft", &["flush", "chain", "inet", "portico-node", "services"], "");
        agent.wait_until("the rules are restored", |_| node_elements() == elements && is_intact());
        assert!(time_until_served(network, NODE[0], Instant::now()) < REPLY_TIMEOUT);
        assert_eq!(from_outside(network, NODE[0]), masqueraded_reply());
    });
}

fn node_table() -> NodeTableState {
    Socket::open().and_then(Socket::read_node_table).expect("read the table")
}

fn is_intact() -> bool {
    matches!(node_table(), NodeTableState::Intact(_))
}

fn node_elements() -> BTreeSet<NodeElement> {
    match node_table() {
        NodeTableState::Intact(table) => table.elements.into_iter().collect(),
        NodeTableState::Missing | NodeTableState::Drifted(_) => BTreeSet::new(),
    }
}

#[test]
fn new_and_removed_addresses_of_the_node_are_followed() {
    with_service(|network, folder| {
        let _agent = start(folder, &["--nodeport-addresses", "all"]);
        let portal = format!("192.0.2.77:{NODE_PORT}");
        let attempt = || {
            add_address("192.0.2.77");
            let served = time_until_served(network, "192.0.2.77", Instant::now());
            run("ip", &["address", "del", "192.0.2.77/32", "dev", "lo"], "");
            let start = Instant::now();
            while node_elements().contains(&NodeElement::NodeAddress(ip("192.0.2.77"))) {
                assert!(start.elapsed() < REPLY_TIMEOUT, "{portal} is still served");
            }
            println!("served {served:?} after it was added, removed after {:?}", start.elapsed());
            served.max(start.elapsed())
        };
        // Other processes of a busy machine delay some attempts.
        let fastest = (0..5).map(|_| attempt()).min().expect("attempts");
        assert!(fastest < ADDRESS_LIMIT, "{fastest:?}");
        assert_eq!(from_outside(network, NODE[0]), masqueraded_reply());
    });
}

#[test]
fn health_check_port_in_use_is_reported_while_all_else_is_served() {
    with_service(|network, folder| {
        let taken = TcpListener::bind(("::", HEALTH_CHECK_PORT)).expect("take the port");
        let policy =
            [("externalTrafficPolicy", json!("Local")), ("healthCheckNodePort", json!(HEALTH_CHECK_PORT))];
        folder.write_manifest("balanced.json", &load_balancer_service(&policy, (LOCAL_POD[0], "n1")));
        let agent = start(folder, &["--metrics", METRICS, "--audit-interval", "1"]);
        let error = |agent: &Agent| node_report(agent)["healthChecks"][0]["error"].clone();
        agent.wait_until("the failure is reported", |agent| error(agent).is_string());
        agent.wait_until("the failure is a metric", |_| {
            get(METRICS, "/metrics").is_some_and(|page| page.contains("node_health_checks_failing 1"))
        });
        assert_eq!(from_outside(network, NODE[0]), masqueraded_reply());
        let portal = format!("{}:80", BALANCED[0]);
        assert_eq!(network.outside.within(|| backend_of(&portal)), "local 192.0.2.2");
        drop(taken);
        agent.wait_until("the port is served", |_| {
            let page = get(&format!("127.0.0.1:{HEALTH_CHECK_PORT}"), "/");
            page.is_some_and(|page| {
                page.starts_with("HTTP/1.1 200") && page.contains("\"localEndpoints\": 1")
            })
        });
        agent.wait_until("the failure is over", |agent| error(agent).is_null());
    });
}

#[test]
fn node_without_ipv6_is_served_over_ipv4() {
    with_service(|network, folder| {
        std::fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1").expect("disable IPv6");
        let dual = json!({"type": "NodePort", "clusterIP": "10.96.0.3", "clusterIPs": ["10.96.0.3", "2001:db8:96::3"],
            "ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": "RequireDualStack",
            "ports": [{"port": 80, "nodePort": 30_091}]});
        let endpoints = [(REMOTE_POD[0], "n2")];
        let objects =
            Objects { name: "dual", spec: dual, protocol: "TCP", port: 8080, endpoints: &endpoints };
        folder.write_manifest("dual.json", &objects.to_string());
        for addresses in ["primary", "all"] {
            let agent = start(folder, &["--nodeport-addresses", addresses]);
            assert_eq!(node_report(&agent)["error"], Value::Null);
            assert_eq!(from_outside(network, NODE[0]), masqueraded_reply());
            assert_eq!(network.outside.within(|| backend_of("10.240.0.5:30091")), masqueraded_reply());
        }
    });
}

#[test]
fn source_ranges_that_do_not_parse_open_nothing() {
    on_node(|network| {
        let folder = AgentDir::new();
        folder.write_manifest("node.json", NODE_OBJECT);
        let only = |ranges: &[&str]| {
            load_balancer_service(&[("loadBalancerSourceRanges", json!(ranges))], (REMOTE_POD[0], "n2"))
        };
        let pod_only = format!("{}/32", CLIENT_POD[0]);
        let portal = format!("{}:80", BALANCED[0]);
        folder.write_manifest("balanced.json", &only(&[&pod_only]));
        folder.write_manifest("web.json", &service((REMOTE_POD[0], "n2")));
        let agent = start(&folder, &[]);
        network.outside.within(|| assert_silent(&portal));
        for (index, ranges) in [vec!["nonsense"], vec!["10.0.0.0/33", &pod_only], vec![""]].iter().enumerate()
        {
            folder.write_manifest("balanced.json", &only(ranges));
            // A later change shows that this one was read.
            let (endpoint, name) =
                [((LOCAL_POD[0], "n1"), "local"), ((REMOTE_POD[0], "n2"), "remote")][index % 2];
            folder.write_manifest("web.json", &service(endpoint));
            agent.wait_until("the next change is served", |_| {
                from_outside(network, NODE[0]).starts_with(name)
            });
            network.outside.within(|| assert_silent(&portal));
            assert_eq!(network.client.within(|| backend_of(&portal)), masqueraded_reply());
        }
        drop(agent);
        // Without an earlier state, the service has no portal: nothing is translated.
        run("nft", &["delete", "table", "inet", "portico-node"], "");
        folder.write_manifest("balanced.json", &only(&["nonsense"]));
        let _agent = start(&folder, &[]);
        network.outside.within(|| assert!(try_backend_of(&portal, DROP_TIMEOUT).is_err()));
    });
}

/// The services of the test of killed agents: in each version some are there, with one of two endpoints.
fn services_at_version(number: usize) -> (String, Vec<(u16, Option<&'static str>)>) {
    let mut items = Vec::new();
    let mut expected = Vec::new();
    for index in 0..20_u16 {
        let port = 30_100 + index;
        if (number + usize::from(index)).is_multiple_of(3) {
            expected.push((port, None));
            continue;
        }
        let is_local = (number / 2 + usize::from(index)).is_multiple_of(2);
        let (endpoint, name) =
            if is_local { ((LOCAL_POD[0], "n1"), "local") } else { ((REMOTE_POD[0], "n2"), "remote") };
        let spec = json!({"type": "NodePort", "clusterIP": format!("10.96.1.{index}"),
            "ports": [{"port": 80, "nodePort": port}]});
        let name_of_service = format!("s{index}");
        let objects =
            Objects { name: &name_of_service, spec, protocol: "TCP", port: 8080, endpoints: &[endpoint] };
        let list: Value = serde_json::from_str(&objects.to_string()).expect("JSON");
        items.extend(list["items"].as_array().expect("a list").clone());
        expected.push((port, Some(name)));
    }
    (json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string(), expected)
}

#[test]
fn killed_agent_leaves_its_rules_and_the_next_one_completes_them() {
    with_service(|network, folder| {
        let mut random = 12_345_u64;
        for round in 0..8 {
            let agent = start(folder, &[]);
            let changes = 3 * round;
            thread::scope(|scope| {
                scope.spawn(|| {
                    (changes..changes + 3)
                        .for_each(|number| folder.write_manifest("all.json", &services_at_version(number).0));
                });
                random =
                    random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                // The moment of the kill, not a wait for a condition.
                thread::sleep(Duration::from_micros((random >> 33) % 40_000));
                agent.kill();
            });
            assert_eq!(from_outside(network, NODE[0]), masqueraded_reply());
            assert!(is_intact());
        }
        let agent = start(folder, &[]);
        let (_, expected) = services_at_version(3 * 8 - 1);
        for (port, name) in expected {
            let portal = format!("{}:{port}", NODE[0]);
            network.outside.within(|| match name {
                Some(name) => assert!(backend_of(&portal).starts_with(name), "{portal}"),
                None => assert_refused(&portal),
            });
        }
        let elements = node_elements();
        drop(agent);
        // The table is the one of a node without a history: its targets have other numbers at most.
        let agent = start(folder, &[]);
        assert_eq!(node_report(&agent)["applied"], 0, "{}", agent.log());
        drop(agent);
        run("nft", &["delete", "table", "inet", "portico-node"], "");
        let _agent = start(folder, &[]);
        assert_eq!(node_elements().len(), elements.len());
    });
}
