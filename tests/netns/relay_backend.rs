//! What a client of a relayed portal sees of backends that fail, and of none at all.

use std::io::{ErrorKind, Read};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use proxy_core::sample::{backend, tcp};
use proxy_core::service::Scheduler;
use test_support::conversation::{answer, assert_refused, serve};
use test_support::namespace::{add_address, load, run};
use test_support::relayed::{PATIENCE, Server, connected, end_of, eventually, leads, name, relayed, web};

const BACKENDS: [&str; 3] = ["10.1.0.1", "10.1.0.2", "10.1.0.3"];
const PORTAL: &str = "10.96.0.1:80";

/// What comes for this address is dropped.
fn silence(address: &str) {
    let rule = format!("ip daddr {address} drop");
    load(&format!("table ip quiet {{ chain in {{ type filter hook input priority 0; {rule}\n }}\n }}"));
}

#[test]
fn a_backend_that_refuses_is_never_seen() {
    let changes = leads(web("10.96.0.1"), &BACKENDS);
    relayed(changes, |world| {
        serve("a", "10.1.0.1:8080");
        BACKENDS[1..].iter().for_each(|address| add_address(address));
        let names: Vec<String> = world.within(|| (0..60).map(|_| answer(PORTAL)).collect());
        assert!(names.iter().all(|name| name == "a"), "{names:?}");
        let report = world.report(tcp(PORTAL));
        assert_eq!((report.totals.connections, report.totals.failed), (60, 0), "{report:?}");
        for refusing in &report.backends[1..] {
            assert!(refusing.is_ejected && refusing.connections == 0, "{refusing:?}");
            assert!((1..10).contains(&refusing.failures), "asked once and then left alone: {refusing:?}");
        }
    });
}

#[test]
fn an_ipv6_backend_that_refuses_is_never_seen() {
    relayed(leads(web("2001:db8:96::1"), &["2001:db8:1::1", "2001:db8:1::2"]), |world| {
        serve("a", "[2001:db8:1::1]:8080");
        add_address("2001:db8:1::2");
        let names: Vec<String> = world.within(|| (0..10).map(|_| answer("[2001:db8:96::1]:80")).collect());
        assert!(names.iter().all(|name| name == "a"), "{names:?}");
    });
}

#[test]
fn a_silent_backend_costs_one_client_a_quarter_of_a_second_and_then_rests() {
    relayed(leads(web("10.96.0.1"), &BACKENDS[..2]), |world| {
        serve("a", "10.1.0.1:8080");
        add_address("10.1.0.2");
        silence("10.1.0.2");
        let times: Vec<Duration> = world.within(|| {
            let timed = || {
                let start = Instant::now();
                assert_eq!(answer(PORTAL), "a");
                start.elapsed()
            };
            (0..20).map(|_| timed()).collect()
        });
        let silent = &world.report(tcp(PORTAL)).backends[1];
        assert_eq!((silent.failures, silent.is_ejected), (1, true), "{times:?}");
        assert!(times.iter().any(|time| *time >= Duration::from_millis(250)), "{times:?}");
    });
}

#[test]
fn where_all_are_silent_the_client_is_reset_after_four_tries() {
    relayed(leads(web("10.96.0.1"), &BACKENDS[..1]), |world| {
        add_address("10.1.0.1");
        silence("10.1.0.1");
        let start = Instant::now();
        let mut stream = world.connect(PORTAL);
        assert_eq!(end_of(&mut stream), Err(ErrorKind::ConnectionReset));
        let (taken, tries) = (start.elapsed(), Duration::from_millis(250 + 500 + 1_000 + 2_000));
        // Between two rounds each waits up to half as long as the next takes, so that not all come back at once.
        let pauses = Duration::from_millis(250 + 500 + 1_000);
        assert!(taken >= tries && taken < tries + pauses + Duration::from_secs(3), "{taken:?}");
        let report = world.report(tcp(PORTAL));
        assert_eq!((report.totals.failed, report.backends[0].failures), (1, 4));
    });
}

#[test]
fn where_all_refuse_the_client_is_reset_at_once() {
    relayed(leads(web("10.96.0.1"), &BACKENDS), |world| {
        BACKENDS.iter().for_each(|address| add_address(address));
        assert_eq!(world.outcome(PORTAL), Err(ErrorKind::ConnectionReset));
        let report = world.report(tcp(PORTAL));
        assert_eq!((report.totals.failed, report.backends.len()), (1, 3));
    });
}

#[test]
fn of_three_thousand_that_refuse_a_connection_dials_eight_and_fails_soon() {
    let addresses: Vec<String> =
        (0..3_000).map(|i| format!("10.1.{}.{}", 16 + i / 250, 1 + i % 250)).collect();
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    for scheduler in [Scheduler::LeastConnection, Scheduler::SourceHashing] {
        relayed(leads(web("10.96.0.1").scheduler(scheduler), &addresses), |world| {
            run("ip", &["route", "add", "local", "10.1.16.0/20", "dev", "lo"], "");
            let start = Instant::now();
            assert_eq!(world.outcome(PORTAL), Err(ErrorKind::ConnectionReset));
            assert!(start.elapsed() < Duration::from_secs(2), "{scheduler:?}: {:?}", start.elapsed());
            let report = world.report(tcp(PORTAL));
            let dialled: u64 = report.backends.iter().map(|backend| backend.failures).sum();
            assert_eq!((dialled, report.totals.failed), (8, 1), "{scheduler:?}");
        });
    }
}

#[test]
fn no_client_notices_that_a_backend_is_killed_under_load() {
    const CLIENTS: usize = 4;
    relayed(leads(web("10.96.0.1"), &BACKENDS[..2]), |world| {
        let victim = Server::start("a", "10.1.0.1:8080");
        let survivor = Server::start("b", "10.1.0.2:8080");
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
            let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(client)).collect();
            eventually("it is under load", || victim.count() > 300 || is_any_over(&clients));
            drop(victim);
            let (before, since) = (asked.load(Ordering::Relaxed), survivor.count());
            eventually("the load goes on", || {
                asked.load(Ordering::Relaxed) > before + 600 || is_any_over(&clients)
            });
            is_over.store(true, Ordering::Relaxed);
            assert!(survivor.count() >= since + 300);
        });
        assert_eq!(world.report(tcp(PORTAL)).totals.failed, 0);
    });
}

fn is_any_over<T>(clients: &[thread::ScopedJoinHandle<'_, T>]) -> bool {
    clients.iter().any(thread::ScopedJoinHandle::is_finished)
}

#[test]
fn a_portal_without_backend_is_refused_by_the_kernel() {
    relayed(leads(web("10.96.0.1").ip("2001:db8:96::1"), &[]), |world| {
        world.within(|| ["10.96.0.1:80", "10.96.0.1:81", "[2001:db8:96::1]:80"].map(assert_refused));
        assert!(world.relay.report(Instant::now()).namespaces.is_empty(), "nobody came to the relay");
    });
}

#[test]
fn a_held_connection_is_served_by_the_first_backend() {
    let held = || web("10.96.0.1").hold_ms(60_000);
    relayed(leads(held(), &[]), |world| {
        serve("a", "10.1.0.1:8080");
        let mut stream = world.connect(PORTAL);
        eventually("it waits", || world.held() == 1);
        world.show(leads(held(), &BACKENDS[..1]));
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("an answer");
        assert_eq!(text, "a");
        assert!(world.held() == 0);
    });
}

#[test]
fn a_held_connection_is_given_up_when_its_time_is_over_or_its_service_goes() {
    relayed(leads(web("10.96.0.1").hold_ms(300), &[]), |world| {
        let start = Instant::now();
        assert_eq!(world.outcome(PORTAL), Err(ErrorKind::ConnectionReset));
        let taken = start.elapsed();
        assert!(taken >= Duration::from_millis(300) && taken < PATIENCE / 2, "{taken:?}");
        world.show(leads(web("10.96.0.1").hold_ms(60_000), &[]));
        let mut stream = world.connect(PORTAL);
        eventually("it waits", || world.held() == 1);
        world.show([]);
        assert_eq!(end_of(&mut stream), Err(ErrorKind::ConnectionReset));
    });
}

#[test]
fn only_so_many_connections_of_a_pod_are_held() {
    const HELD: usize = 1_024;
    let held = || web("10.96.0.1").hold_ms(60_000);
    relayed(leads(held(), &[]), |world| {
        serve("a", "10.1.0.1:8080");
        let connect = |_| TcpStream::connect(backend(PORTAL)).ok();
        let mut streams: Vec<TcpStream> = world.within(|| (0..HELD + 76).filter_map(connect).collect());
        eventually("the others are refused", || world.report(tcp(PORTAL)).totals.failed == 76);
        assert_eq!(world.held(), HELD);
        world.show(leads(held(), &BACKENDS[..1]));
        let served = streams.iter_mut().filter_map(|stream| end_of(stream).ok()).count();
        assert_eq!(served, HELD);
    });
}
