//! The end of relaying: of a pod, of a service, and of a relay whose successor takes over.

use std::fs::File;
use std::io::ErrorKind;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use netns_nft::Netns;
use proxy_core::portal::ServiceFilter;
use proxy_core::sample::{backend, tcp};
use relay::Relay;
use test_support::backend_server::serve;
use test_support::eventually::eventually;
use test_support::namespace::run;
use test_support::pod::Pod;
use test_support::relay_fixture::{
    OPTIONS, RelayFixture, Server, accept, connect_with_timeouts, exchange_byte, listen, read_name,
    read_to_end, relayed_service, web_service, with_relay,
};
use test_support::ruleset_loader;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc::channel;

const BACKEND: &str = "10.1.0.1";
const PORTAL: &str = "10.96.0.1:80";

fn connect(fixture: &RelayFixture) -> TcpStream {
    let mut stream = fixture.connect(PORTAL);
    read_name(&mut stream);
    stream
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// Another relay for the same pods, as a new agent starts while the old one runs.
fn successor(fixture: &RelayFixture) -> Relay {
    let (used, _) = channel(4_096);
    let relay = Relay::start(OPTIONS, &used).expect("start the relay");
    relay.set_portals(
        &ServiceFilter::All,
        ruleset_loader::portals_of(relayed_service(web_service("10.96.0.1"), &[BACKEND])),
    );
    relay
        .open_netns(&fixture.pod.netns, &ServiceFilter::All, false)
        .expect("listen in addition to the other");
    relay
}

#[test]
fn closing_a_netns_releases_it_and_keeps_others() {
    with_relay(relayed_service(web_service("10.96.0.1"), &[BACKEND]), |fixture| {
        let _server = Server::start("a", "10.1.0.1:8080");
        let other = Pod::routed("w2", "10.245.0", "2001:db8:245:");
        other.change(
            &proxy_core::ruleset::Ruleset::empty(),
            &ruleset_loader::ruleset_of(relayed_service(web_service("10.96.0.1"), &[BACKEND])),
        );
        // After the pod is deleted, only the relay keeps the network namespace alive.
        let held =
            Netns::from_fd(File::open(other.path()).expect("the other pod").into()).expect("a namespace");
        fixture.relay.open_netns(&held, &ServiceFilter::All, false).expect("listen there");
        let mut remaining = connect(fixture);
        let leaving: Vec<TcpStream> =
            other.within(|| (0..20).map(|_| connect_with_timeouts(PORTAL)).collect());
        eventually("all are relayed", || fixture.connections() == 21);
        let id = held.id();
        drop((leaving, other, held));
        assert!(run("ip", &["link"], "").contains("w2"), "relayed connections keep it alive");
        fixture.relay.close_netns(id);
        // The kernel deletes the veth pair with the network namespace.
        eventually("the network namespace is gone", || !run("ip", &["link"], "").contains("w2"));
        eventually("one connection is left", || fixture.connections() == 1);
        exchange_byte(&mut remaining).expect("the other pod is served");
    });
}

#[test]
fn closing_a_netns_resets_both_ends_of_its_connections() {
    with_relay(relayed_service(web_service("10.96.0.1"), &[BACKEND]), |fixture| {
        let listener = listen("10.1.0.1:8080");
        let mut client = fixture.connect(PORTAL);
        let (mut backend, _) = accept(&listener);
        fixture.relay.close_netns(fixture.pod.netns.id());
        assert_eq!(read_to_end(&mut client), Err(ErrorKind::ConnectionReset));
        assert_eq!(read_to_end(&mut backend), Err(ErrorKind::ConnectionReset));
        fixture.relay.open_netns(&fixture.pod.netns, &ServiceFilter::All, false).expect("listen again");
        let _again = fixture.connect(PORTAL);
        accept(&listener);
    });
}

#[test]
fn netns_with_another_view_or_guests_is_opened_again() {
    with_relay(relayed_service(web_service("10.96.0.1"), &[BACKEND]), |fixture| {
        let _server = Server::start("a", "10.1.0.1:8080");
        let view = ServiceFilter::Only([web_service("10.96.0.1").key].into());
        fixture.relay.set_portals(
            &view,
            ruleset_loader::portals_of(relayed_service(web_service("10.96.0.1"), &[BACKEND])),
        );
        for (filter, has_guests) in [(&view, false), (&view, true), (&ServiceFilter::All, true)] {
            let mut before = connect(fixture);
            fixture.relay.open_netns(&fixture.pod.netns, filter, has_guests).expect("listen again");
            assert_eq!(
                read_to_end(&mut before),
                Err(ErrorKind::ConnectionReset),
                "connections of the old view"
            );
            connect(fixture);
        }
    });
}

#[test]
fn connections_outlive_their_service_and_leave_no_state() {
    with_relay(relayed_service(web_service("10.96.0.1"), &[BACKEND]), |fixture| {
        let _server = Server::start("a", "10.1.0.1:8080");
        let mut stream = connect(fixture);
        fixture.set_services([]);
        fixture.relay.gc(Instant::now());
        exchange_byte(&mut stream).expect("the connection is open");
        assert_eq!(fixture.report(tcp(PORTAL)).service, None);
        drop(stream);
        eventually("no state is left", || {
            fixture.relay.gc(Instant::now());
            fixture.relay.report(Instant::now()).namespaces.is_empty()
        });
    });
}

#[test]
fn shutdown_drains_connections_and_leaves_new_ones_to_the_successor() {
    with_relay(relayed_service(web_service("10.96.0.1"), &[BACKEND]), |fixture| {
        serve("a", "10.1.0.1:8080");
        let _server = Server::start("b", "10.1.0.9:8080");
        let (requests, is_over) = (AtomicUsize::new(0), AtomicBool::new(false));
        let client = || fixture.connect_repeatedly(PORTAL, &requests, &is_over);
        thread::scope(|scope| {
            let clients: Vec<_> = (0..4).map(|_| scope.spawn(client)).collect();
            let expect_progress = |what: &str| {
                let before = requests.load(Ordering::Relaxed);
                let is_any_over = || clients.iter().any(thread::ScopedJoinHandle::is_finished);
                eventually(what, || requests.load(Ordering::Relaxed) > before + 300 || is_any_over());
            };
            expect_progress("the relay is under load");
            let next = successor(fixture);
            expect_progress("both relays serve");
            let start = Instant::now();
            runtime().block_on(fixture.relay.shut_down(Duration::from_secs(60)));
            assert!(start.elapsed() < Duration::from_secs(30), "it stops with its last connection");
            assert_eq!(fixture.connections(), 0);
            expect_progress("the successor serves");
            is_over.store(true, Ordering::Relaxed);
            clients.into_iter().for_each(|client| client.join().expect("no connection was refused"));
            drop(next);
        });
    });
}

#[test]
fn connections_are_reset_after_the_grace_period() {
    with_relay(relayed_service(web_service("10.96.0.1"), &[BACKEND]), |fixture| {
        let _server = Server::start("a", "10.1.0.1:8080");
        let mut stream = connect(fixture);
        let grace_period = Duration::from_millis(300);
        let start = Instant::now();
        thread::scope(|scope| {
            scope.spawn(|| runtime().block_on(fixture.relay.shut_down(grace_period)));
            exchange_byte(&mut stream).expect("it is still served");
        });
        assert!(start.elapsed() >= grace_period);
        assert_eq!(read_to_end(&mut stream), Err(ErrorKind::ConnectionReset));
        assert_eq!(fixture.connections(), 0);
    });
}

#[test]
fn netns_can_be_closed_during_shutdown() {
    with_relay(relayed_service(web_service("10.96.0.1"), &[BACKEND]), |fixture| {
        let _server = Server::start("a", "10.1.0.1:8080");
        let mut stream = connect(fixture);
        thread::scope(|scope| {
            let shutdown =
                scope.spawn(|| runtime().block_on(fixture.relay.shut_down(Duration::from_secs(60))));
            // The relay accepts no new connections.
            let attempt = || TcpStream::connect(backend(PORTAL)).map(drop).map_err(|error| error.kind());
            eventually("the shutdown begins", || {
                fixture.within(attempt) == Err(ErrorKind::ConnectionRefused)
            });
            exchange_byte(&mut stream).expect("it is still served");
            fixture.relay.close_netns(fixture.pod.netns.id());
            assert_eq!(read_to_end(&mut stream), Err(ErrorKind::ConnectionReset));
            shutdown.join().expect("the shutdown ends");
        });
    });
}

#[test]
fn dropping_the_relay_closes_everything() {
    with_relay(relayed_service(web_service("10.96.0.1"), &[BACKEND]), |fixture| {
        let _server = Server::start("a", "10.1.0.1:8080");
        let next = successor(fixture);
        runtime().block_on(fixture.relay.shut_down(Duration::ZERO));
        let mut stream = connect(fixture);
        drop(next);
        assert_eq!(read_to_end(&mut stream), Err(ErrorKind::ConnectionReset));
        // Its threads stop one after the other.
        let attempt = || TcpStream::connect(backend(PORTAL)).map(drop).map_err(|error| error.kind());
        let is_refused = || fixture.within(attempt) == Err(ErrorKind::ConnectionRefused);
        eventually("no listener is left", is_refused);
    });
}
