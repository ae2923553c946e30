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
use test_support::conversation::serve;
use test_support::namespace::run;
use test_support::relayed;
use test_support::relayed::{
    OPTIONS, Relayed, Server, connected, end_of, eventually, leads, listener, name, relayed, talk, web, wired,
};
use test_support::way;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc::channel;

const BACKEND: &str = "10.1.0.1";
const PORTAL: &str = "10.96.0.1:80";

fn connect(world: &Relayed) -> TcpStream {
    let mut stream = world.connect(PORTAL);
    name(&mut stream);
    stream
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// Another relay for the same pods, as a new agent starts while the old one runs.
fn successor(world: &Relayed) -> Relay {
    let (used, _) = channel(4_096);
    let relay = Relay::start(OPTIONS, &used).expect("start the relay");
    relay.set_portals(&ServiceFilter::All, way::portals_of(leads(web("10.96.0.1"), &[BACKEND])));
    relay.open_netns(&world.pod.netns, &ServiceFilter::All, false).expect("listen in addition to the other");
    relay
}

#[test]
fn closing_a_netns_releases_it_and_keeps_others() {
    relayed(leads(web("10.96.0.1"), &[BACKEND]), |world| {
        let _server = Server::start("a", "10.1.0.1:8080");
        let other = wired("10.245.0", "2001:db8:245:", "w2");
        other.change(
            &proxy_core::ruleset::Ruleset::empty(),
            &way::ruleset_of(leads(web("10.96.0.1"), &[BACKEND])),
        );
        // After the pod is deleted, only the relay keeps the network namespace alive.
        let held =
            Netns::from_fd(File::open(other.path()).expect("the other pod").into()).expect("a namespace");
        world.relay.open_netns(&held, &ServiceFilter::All, false).expect("listen there");
        let mut remaining = connect(world);
        let leaving: Vec<TcpStream> = other.within(|| (0..20).map(|_| connected(PORTAL)).collect());
        eventually("all are relayed", || world.connections() == 21);
        let id = held.id();
        drop((leaving, other, held));
        assert!(run("ip", &["link"], "").contains("w2"), "relayed connections keep it alive");
        world.relay.close_netns(id);
        // The kernel deletes the veth pair with the network namespace.
        eventually("the network namespace is gone", || !run("ip", &["link"], "").contains("w2"));
        eventually("one connection is left", || world.connections() == 1);
        talk(&mut remaining).expect("the other pod is served");
    });
}

#[test]
fn closing_a_netns_resets_both_ends_of_its_connections() {
    relayed(leads(web("10.96.0.1"), &[BACKEND]), |world| {
        let listener = listener("10.1.0.1:8080");
        let mut client = world.connect(PORTAL);
        let (mut backend, _) = relayed::accepted(&listener);
        world.relay.close_netns(world.pod.netns.id());
        assert_eq!(end_of(&mut client), Err(ErrorKind::ConnectionReset));
        assert_eq!(end_of(&mut backend), Err(ErrorKind::ConnectionReset));
        world.relay.open_netns(&world.pod.netns, &ServiceFilter::All, false).expect("listen again");
        let _again = world.connect(PORTAL);
        relayed::accepted(&listener);
    });
}

#[test]
fn netns_with_another_view_or_guests_is_opened_again() {
    relayed(leads(web("10.96.0.1"), &[BACKEND]), |world| {
        let _server = Server::start("a", "10.1.0.1:8080");
        let view = ServiceFilter::Only([web("10.96.0.1").key].into());
        world.relay.set_portals(&view, way::portals_of(leads(web("10.96.0.1"), &[BACKEND])));
        for (filter, has_guests) in [(&view, false), (&view, true), (&ServiceFilter::All, true)] {
            let mut before = connect(world);
            world.relay.open_netns(&world.pod.netns, filter, has_guests).expect("listen again");
            assert_eq!(end_of(&mut before), Err(ErrorKind::ConnectionReset), "connections of the old view");
            connect(world);
        }
    });
}

#[test]
fn connections_outlive_their_service_and_leave_no_state() {
    relayed(leads(web("10.96.0.1"), &[BACKEND]), |world| {
        let _server = Server::start("a", "10.1.0.1:8080");
        let mut stream = connect(world);
        world.show([]);
        world.relay.gc(Instant::now());
        talk(&mut stream).expect("the connection is open");
        assert_eq!(world.report(tcp(PORTAL)).service, None);
        drop(stream);
        eventually("no state is left", || {
            world.relay.gc(Instant::now());
            world.relay.report(Instant::now()).namespaces.is_empty()
        });
    });
}

#[test]
fn shutdown_drains_connections_and_leaves_new_ones_to_the_successor() {
    relayed(leads(web("10.96.0.1"), &[BACKEND]), |world| {
        serve("a", "10.1.0.1:8080");
        let _server = Server::start("b", "10.1.0.9:8080");
        let (requests, is_over) = (AtomicUsize::new(0), AtomicBool::new(false));
        let client = || {
            world.within(|| {
                while !is_over.load(Ordering::Relaxed) {
                    name(&mut connected(PORTAL));
                    requests.fetch_add(1, Ordering::Relaxed);
                }
            });
        };
        thread::scope(|scope| {
            let clients: Vec<_> = (0..4).map(|_| scope.spawn(client)).collect();
            let expect_progress = |what: &str| {
                let before = requests.load(Ordering::Relaxed);
                let is_any_over = || clients.iter().any(thread::ScopedJoinHandle::is_finished);
                eventually(what, || requests.load(Ordering::Relaxed) > before + 300 || is_any_over());
            };
            expect_progress("the relay is under load");
            let next = successor(world);
            expect_progress("both relays serve");
            let start = Instant::now();
            runtime().block_on(world.relay.shut_down(Duration::from_secs(60)));
            assert!(start.elapsed() < Duration::from_secs(30), "it stops with its last connection");
            assert_eq!(world.connections(), 0);
            expect_progress("the successor serves");
            is_over.store(true, Ordering::Relaxed);
            clients.into_iter().for_each(|client| client.join().expect("no connection was refused"));
            drop(next);
        });
    });
}

#[test]
fn connections_are_reset_after_the_grace_period() {
    relayed(leads(web("10.96.0.1"), &[BACKEND]), |world| {
        let _server = Server::start("a", "10.1.0.1:8080");
        let mut stream = connect(world);
        let grace_period = Duration::from_millis(300);
        let start = Instant::now();
        thread::scope(|scope| {
            scope.spawn(|| runtime().block_on(world.relay.shut_down(grace_period)));
            talk(&mut stream).expect("it is still served");
        });
        assert!(start.elapsed() >= grace_period);
        assert_eq!(end_of(&mut stream), Err(ErrorKind::ConnectionReset));
        assert_eq!(world.connections(), 0);
    });
}

#[test]
fn netns_can_be_closed_during_shutdown() {
    relayed(leads(web("10.96.0.1"), &[BACKEND]), |world| {
        let _server = Server::start("a", "10.1.0.1:8080");
        let mut stream = connect(world);
        thread::scope(|scope| {
            let shutdown = scope.spawn(|| runtime().block_on(world.relay.shut_down(Duration::from_secs(60))));
            // The relay accepts no new connections.
            let attempt = || TcpStream::connect(backend(PORTAL)).map(drop).map_err(|error| error.kind());
            eventually("the shutdown begins", || world.within(attempt) == Err(ErrorKind::ConnectionRefused));
            talk(&mut stream).expect("it is still served");
            world.relay.close_netns(world.pod.netns.id());
            assert_eq!(end_of(&mut stream), Err(ErrorKind::ConnectionReset));
            shutdown.join().expect("the shutdown ends");
        });
    });
}

#[test]
fn dropping_the_relay_closes_everything() {
    relayed(leads(web("10.96.0.1"), &[BACKEND]), |world| {
        let _server = Server::start("a", "10.1.0.1:8080");
        let next = successor(world);
        runtime().block_on(world.relay.shut_down(Duration::ZERO));
        let mut stream = connect(world);
        drop(next);
        assert_eq!(end_of(&mut stream), Err(ErrorKind::ConnectionReset));
        // Its threads stop one after the other.
        let attempt = || TcpStream::connect(backend(PORTAL)).map(drop).map_err(|error| error.kind());
        let is_refused = || world.within(attempt) == Err(ErrorKind::ConnectionRefused);
        eventually("no listener is left", is_refused);
    });
}
