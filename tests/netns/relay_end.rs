//! How relaying ends: with its pod, with its service, and with the process that takes over from another.

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

fn greeted(world: &Relayed) -> TcpStream {
    let mut stream = world.connect(PORTAL);
    name(&mut stream);
    stream
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// Another relay for the same pods, as a new agent starts beside the old one.
fn successor(world: &Relayed) -> Relay {
    let (used, _) = channel(4_096);
    let relay = Relay::start(OPTIONS, &used).expect("start the relay");
    relay.set_portals(&ServiceFilter::All, way::portals_of(leads(web("10.96.0.1"), &[BACKEND])));
    relay.open_netns(&world.pod.netns, &ServiceFilter::All, false).expect("listen beside the other");
    relay
}

#[test]
fn a_pod_that_is_let_go_really_goes_and_others_stay() {
    relayed(leads(web("10.96.0.1"), &[BACKEND]), |world| {
        let _server = Server::start("a", "10.1.0.1:8080");
        let other = wired("10.245.0", "2001:db8:245:", "w2");
        other.change(
            &proxy_core::ruleset::Ruleset::empty(),
            &way::ruleset_of(leads(web("10.96.0.1"), &[BACKEND])),
        );
        // Held by the relay alone, once the pod itself is gone.
        let held =
            Netns::from_fd(File::open(other.path()).expect("the other pod").into()).expect("a namespace");
        world.relay.open_netns(&held, &ServiceFilter::All, false).expect("listen there");
        let mut kept = greeted(world);
        let leaving: Vec<TcpStream> = other.within(|| (0..20).map(|_| connected(PORTAL)).collect());
        eventually("all are relayed", || world.connections() == 21);
        let id = held.id();
        drop((leaving, other, held));
        assert!(run("ip", &["link"], "").contains("w2"), "what is relayed keeps it");
        world.relay.close_netns(id);
        // With its network namespace a pod's end of the wire goes, and with it ours.
        eventually("the network namespace is gone", || !run("ip", &["link"], "").contains("w2"));
        eventually("one connection is left", || world.connections() == 1);
        talk(&mut kept).expect("the other pod lives");
    });
}

#[test]
fn what_is_let_go_is_reset_at_both_ends() {
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
fn connections_outlive_their_service_and_then_nothing_is_remembered() {
    relayed(leads(web("10.96.0.1"), &[BACKEND]), |world| {
        let _server = Server::start("a", "10.1.0.1:8080");
        let mut stream = greeted(world);
        world.show([]);
        world.relay.gc(Instant::now());
        talk(&mut stream).expect("it lives");
        assert_eq!(world.report(tcp(PORTAL)).service, None);
        drop(stream);
        eventually("nothing is remembered", || {
            world.relay.gc(Instant::now());
            world.relay.report(Instant::now()).namespaces.is_empty()
        });
    });
}

#[test]
fn who_finishes_leaves_new_connections_to_another_and_serves_the_old_ones_to_their_end() {
    relayed(leads(web("10.96.0.1"), &[BACKEND]), |world| {
        serve("a", "10.1.0.1:8080");
        let _server = Server::start("b", "10.1.0.9:8080");
        let (asked, is_over) = (AtomicUsize::new(0), AtomicBool::new(false));
        let client = || {
            world.within(|| {
                while !is_over.load(Ordering::Relaxed) {
                    name(&mut connected(PORTAL));
                    asked.fetch_add(1, Ordering::Relaxed);
                }
            });
        };
        thread::scope(|scope| {
            let clients: Vec<_> = (0..4).map(|_| scope.spawn(client)).collect();
            let goes_on = |what: &str| {
                let before = asked.load(Ordering::Relaxed);
                let is_any_over = || clients.iter().any(thread::ScopedJoinHandle::is_finished);
                eventually(what, || asked.load(Ordering::Relaxed) > before + 300 || is_any_over());
            };
            goes_on("it is under load");
            let next = successor(world);
            goes_on("both serve");
            let finished = Instant::now();
            runtime().block_on(world.relay.shut_down(Duration::from_secs(60)));
            assert!(finished.elapsed() < Duration::from_secs(30), "it ends with its last connection");
            assert_eq!(world.connections(), 0);
            goes_on("the other serves");
            is_over.store(true, Ordering::Relaxed);
            clients.into_iter().for_each(|client| client.join().expect("no connection was refused"));
            drop(next);
        });
    });
}

#[test]
fn what_is_left_when_patience_ends_is_broken_off() {
    relayed(leads(web("10.96.0.1"), &[BACKEND]), |world| {
        let _server = Server::start("a", "10.1.0.1:8080");
        let mut stream = greeted(world);
        let patience = Duration::from_millis(300);
        let start = Instant::now();
        thread::scope(|scope| {
            scope.spawn(|| runtime().block_on(world.relay.shut_down(patience)));
            talk(&mut stream).expect("it is still served");
        });
        assert!(start.elapsed() >= patience);
        assert_eq!(end_of(&mut stream), Err(ErrorKind::ConnectionReset));
        assert_eq!(world.connections(), 0);
    });
}

#[test]
fn a_pod_can_be_let_go_while_the_relay_finishes() {
    relayed(leads(web("10.96.0.1"), &[BACKEND]), |world| {
        let _server = Server::start("a", "10.1.0.1:8080");
        let mut stream = greeted(world);
        thread::scope(|scope| {
            let finishing =
                scope.spawn(|| runtime().block_on(world.relay.shut_down(Duration::from_secs(60))));
            // It takes nothing new any more.
            let connect = || TcpStream::connect(backend(PORTAL)).map(drop).map_err(|error| error.kind());
            eventually("it finishes", || world.within(connect) == Err(ErrorKind::ConnectionRefused));
            talk(&mut stream).expect("it is still served");
            world.relay.close_netns(world.pod.netns.id());
            assert_eq!(end_of(&mut stream), Err(ErrorKind::ConnectionReset));
            finishing.join().expect("nothing is left to wait for");
        });
    });
}

#[test]
fn with_the_relay_everything_goes() {
    relayed(leads(web("10.96.0.1"), &[BACKEND]), |world| {
        let _server = Server::start("a", "10.1.0.1:8080");
        let next = successor(world);
        runtime().block_on(world.relay.shut_down(Duration::ZERO));
        let mut stream = greeted(world);
        drop(next);
        assert_eq!(end_of(&mut stream), Err(ErrorKind::ConnectionReset));
        // Its threads end one after the other.
        let connect = || TcpStream::connect(backend(PORTAL)).map(drop).map_err(|error| error.kind());
        let is_refused = || world.within(connect) == Err(ErrorKind::ConnectionRefused);
        eventually("nobody listens any more", is_refused);
    });
}
