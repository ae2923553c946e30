//! Node ports at the loopback addresses of the node, which the relay serves.

use std::io::ErrorKind;
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use proxy_core::portal::{NodeContext, Place, Portals, portals};
use proxy_core::sample::{backend, node_context, slice, snapshot, svc};
use relay::{Options, Relay};
use test_support::backend_server::assert_refused;
use test_support::eventually::eventually;
use test_support::namespace::{in_routed_netns, load};
use test_support::relay_fixture::{
    OPTIONS, Server, TIMEOUT, accept, connect_with_timeouts, exchange_byte, listen, read_name, read_to_end,
};
use tokio::runtime::Builder;
use tokio::sync::mpsc::channel;

const PORT: u16 = 15_998;
/// The node port at the loopback addresses.
const LOOPBACK: [&str; 2] = ["127.0.0.1:30080", "[::1]:30080"];
const BACKENDS: [&str; 2] = ["10.1.0.1:8080", "[2001:db8:1::1]:8080"];

/// The rules that redirect connections to a loopback address and a node port.
const RULES: &str = "table inet loopback {
  chain output { type nat hook output priority -100; policy accept;
    ip daddr 127.0.0.0/8 tcp dport 30000-32767 redirect to :15998
    ip6 daddr ::1 tcp dport 30000-32767 redirect to :15998
  }
}";

/// The node's portals of a service with port 30080, which leads to port 8080 of these addresses.
fn node_portals(addresses: &[&str]) -> Portals {
    let service = svc("web").ip("10.96.0.1").ip("fd00::1").tcp("http", 80).node_port(30_080);
    let slice = addresses.iter().fold(slice("web").tcp("http", 8080), |slice, address| slice.at(address));
    let context = NodeContext { place: Place::Node, ..node_context() };
    portals(&snapshot([service.into(), slice.into()]), &context)
}

fn start(options: Options, addresses: &[&str]) -> Relay {
    let relay = Relay::start(options, &channel(16).0).expect("start the relay");
    relay.set_node_portals(node_portals(addresses));
    relay.open_node(PORT).expect("listen on the node");
    relay
}

/// Runs `body` on a node whose node port 30080 leads to these addresses.
fn on_node(addresses: &[&str], body: impl FnOnce(&Relay) + Send) {
    on_node_with(OPTIONS, addresses, body);
}

fn on_node_with(options: Options, addresses: &[&str], body: impl FnOnce(&Relay) + Send) {
    in_routed_netns(|| {
        load(RULES);
        body(&start(options, addresses));
    });
}

fn connect_outcome(address: &str) -> Result<(), ErrorKind> {
    let mut stream = TcpStream::connect(backend(address)).map_err(|error| error.kind())?;
    stream.set_read_timeout(Some(TIMEOUT)).expect("set a time-out");
    read_to_end(&mut stream)
}

fn unmatched(relay: &Relay) -> u64 {
    relay.report(Instant::now()).unmatched
}

#[test]
fn node_port_is_served_at_the_loopback_addresses_of_both_families() {
    on_node(&["10.1.0.1", "10.1.0.2", "2001:db8:1::1"], |relay| {
        let _servers = [("a", BACKENDS[0]), ("b", "10.1.0.2:8080"), ("c", BACKENDS[1])]
            .map(|(name, address)| Server::start(name, address));
        let names: Vec<String> =
            (0..10).map(|_| read_name(&mut connect_with_timeouts(LOOPBACK[0]))).collect();
        assert_eq!(names.iter().filter(|name| *name == "a").count(), 5, "{names:?}");
        assert_eq!(
            read_name(&mut connect_with_timeouts("127.0.0.2:30080")).len(),
            1,
            "every IPv4 loopback address"
        );
        let mut stream = connect_with_timeouts(LOOPBACK[1]);
        assert_eq!(read_name(&mut stream), "c");
        exchange_byte(&mut stream).expect("the connection is copied");
        let report = relay.report(Instant::now());
        let portals: Vec<&str> = (report.namespaces.iter())
            .flat_map(|netns| &netns.portals)
            .map(|portal| portal.portal.as_str())
            .collect();
        assert_eq!((portals.len(), report.unmatched), (2, 0), "{portals:?}");
    });
}

#[test]
fn backend_sees_an_address_of_the_node() {
    on_node(&["10.1.0.1"], |_| {
        let listener = listen(BACKENDS[0]);
        let _client = connect_with_timeouts(LOOPBACK[0]);
        let (_stream, from) = accept(&listener);
        assert!(!from.ip().is_loopback(), "{from}");
    });
}

#[test]
fn connection_to_the_listener_itself_is_closed_at_once() {
    on_node(&["10.1.0.1"], |relay| {
        let server = Server::start("a", BACKENDS[0]);
        for own in ["127.0.0.1:15998", "[::1]:15998"] {
            assert_eq!(connect_outcome(own), Err(ErrorKind::ConnectionReset), "{own}");
        }
        assert_eq!((unmatched(relay), server.count()), (2, 0));
    });
}

#[test]
fn listener_of_the_node_is_only_at_its_loopback_addresses() {
    on_node(&["10.1.0.1"], |relay| {
        for own in ["10.200.0.1:15998", "[2001:db8:200::1]:15998"] {
            assert_refused(own);
        }
        assert_eq!(unmatched(relay), 0);
    });
}

#[test]
fn port_without_a_portal_is_reset_and_not_dialled() {
    on_node(&["10.1.0.1"], |relay| {
        let server = Server::start("a", BACKENDS[0]);
        assert_eq!(connect_outcome("127.0.0.1:30081"), Err(ErrorKind::ConnectionReset));
        // The portal of IPv6 exists, and has no backend.
        assert_eq!(connect_outcome(LOOPBACK[1]), Err(ErrorKind::ConnectionReset));
        assert_eq!((unmatched(relay), server.count()), (1, 0));
        relay.set_node_portals(node_portals(&["2001:db8:1::1"]));
        let _server = Server::start("c", BACKENDS[1]);
        assert_eq!(read_name(&mut connect_with_timeouts(LOOPBACK[1])), "c", "portals are replaced");
    });
}

#[test]
fn backend_at_a_loopback_address_is_not_dialled() {
    on_node(&["127.0.0.1"], |relay| {
        let own = TcpListener::bind("127.0.0.1:8080").expect("a server of the node");
        own.set_nonblocking(true).expect("do not block");
        assert_eq!(connect_outcome(LOOPBACK[0]), Err(ErrorKind::ConnectionReset));
        assert_eq!(own.accept().expect_err("no connection").kind(), ErrorKind::WouldBlock);
        eventually("no connection is left", || relay.report(Instant::now()).connections == 0);
    });
}

#[test]
fn node_has_the_share_of_one_pod() {
    let options = Options { connections_max: 256, ..OPTIONS };
    on_node_with(options, &["10.1.0.1"], |relay| {
        let _server = Server::start("a", BACKENDS[0]);
        let mut streams: Vec<TcpStream> = (0..64).map(|_| connect_with_timeouts(LOOPBACK[0])).collect();
        streams.iter_mut().for_each(|stream| assert_eq!(read_name(stream), "a"));
        assert_eq!(connect_outcome(LOOPBACK[0]), Err(ErrorKind::ConnectionReset));
        assert_eq!(relay.report(Instant::now()).refused.pod, 1);
    });
}

#[test]
fn port_in_use_is_an_error_and_closed_port_is_free() {
    in_routed_netns(|| {
        load(RULES);
        let relay = Relay::start(OPTIONS, &channel(16).0).expect("start the relay");
        let other = TcpListener::bind(("127.0.0.1", PORT)).expect("another process");
        let error = relay.open_node(PORT).expect_err("the port is in use");
        assert_eq!(error.to_string(), "failed to listen on port 15998 at the loopback addresses of the node");
        relay.open_node(PORT + 1).expect("another port");
        drop(other);
        relay.open_node(PORT).expect("the port is free");
        relay.open_node(PORT).expect("the same port again");
        relay.close_node();
        eventually("the port is free", || TcpListener::bind(("127.0.0.1", PORT)).is_ok());
    });
}

#[test]
fn node_without_ipv6_is_served_over_ipv4() {
    in_routed_netns(|| {
        load(RULES);
        std::fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1").expect("turn IPv6 off");
        let _relay = start(OPTIONS, &["10.1.0.1"]);
        let _server = Server::start("a", BACKENDS[0]);
        assert_eq!(read_name(&mut connect_with_timeouts(LOOPBACK[0])), "a");
    });
}

#[test]
fn shutdown_hands_the_node_over_to_the_successor() {
    on_node(&["10.1.0.1"], |relay| {
        let _server = Server::start("a", BACKENDS[0]);
        let mut open: Vec<TcpStream> = (0..20).map(|_| connect_with_timeouts(LOOPBACK[0])).collect();
        open.iter_mut().for_each(|stream| assert_eq!(read_name(stream), "a"));
        let successor = start(OPTIONS, &["10.1.0.1"]);
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        std::thread::scope(|scope| {
            let shutdown = scope.spawn(|| runtime.block_on(relay.shut_down(Duration::from_secs(60))));
            for _ in 0..100 {
                assert_eq!(read_name(&mut connect_with_timeouts(LOOPBACK[0])), "a");
                open.iter_mut().for_each(|stream| exchange_byte(stream).expect("open connections go on"));
            }
            assert!(!shutdown.is_finished(), "open connections are drained");
            open.clear();
            shutdown.join().expect("no panic");
        });
        assert_eq!(read_name(&mut connect_with_timeouts(LOOPBACK[0])), "a");
        drop(successor);
    });
}
