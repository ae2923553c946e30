//! Clients of a relayed portal whose backends refuse, are silent, are killed, or do not exist.

use std::io::{ErrorKind, Read};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use proxy_core::sample::{backend, tcp};
use proxy_core::service::Scheduler;
use test_support::backend_server::{assert_refused, backend_of, serve};
use test_support::eventually::eventually;
use test_support::namespace::{add_address, load, run};
use test_support::relay_fixture::{Server, TIMEOUT, read_to_end, relayed_service, web_service, with_relay};

const BACKENDS: [&str; 3] = ["10.1.0.1", "10.1.0.2", "10.1.0.3"];
const PORTAL: &str = "10.96.0.1:80";

/// Drops all packets to an address.
fn drop_packets_to(address: &str) {
    let rule = format!("ip daddr {address} drop");
    load(&format!("table ip quiet {{ chain in {{ type filter hook input priority 0; {rule}\n }}\n }}"));
}

#[test]
fn refusing_backend_is_invisible_to_clients() {
    let changes = relayed_service(web_service("10.96.0.1"), &BACKENDS);
    with_relay(changes, |fixture| {
        serve("a", "10.1.0.1:8080");
        BACKENDS[1..].iter().for_each(|address| add_address(address));
        let names: Vec<String> = fixture.within(|| (0..60).map(|_| backend_of(PORTAL)).collect());
        assert!(names.iter().all(|name| name == "a"), "{names:?}");
        let report = fixture.report(tcp(PORTAL));
        assert_eq!((report.totals.connections, report.totals.failed), (60, 0), "{report:?}");
        for refusing in &report.backends[1..] {
            assert!(refusing.is_ejected && refusing.connections == 0, "{refusing:?}");
            assert!((1..10).contains(&refusing.failures), "tried once and then ejected: {refusing:?}");
        }
    });
}

#[test]
fn refusing_ipv6_backend_is_invisible_to_clients() {
    with_relay(
        relayed_service(web_service("2001:db8:96::1"), &["2001:db8:1::1", "2001:db8:1::2"]),
        |fixture| {
            serve("a", "[2001:db8:1::1]:8080");
            add_address("2001:db8:1::2");
            let names: Vec<String> =
                fixture.within(|| (0..10).map(|_| backend_of("[2001:db8:96::1]:80")).collect());
            assert!(names.iter().all(|name| name == "a"), "{names:?}");
        },
    );
}

#[test]
fn silent_backend_delays_one_client_by_250_ms_and_is_ejected() {
    with_relay(relayed_service(web_service("10.96.0.1"), &BACKENDS[..2]), |fixture| {
        serve("a", "10.1.0.1:8080");
        add_address("10.1.0.2");
        drop_packets_to("10.1.0.2");
        let times: Vec<Duration> = fixture.within(|| {
            let timed = || {
                let start = Instant::now();
                assert_eq!(backend_of(PORTAL), "a");
                start.elapsed()
            };
            (0..20).map(|_| timed()).collect()
        });
        let silent = &fixture.report(tcp(PORTAL)).backends[1];
        assert_eq!((silent.failures, silent.is_ejected), (1, true), "{times:?}");
        assert!(times.iter().any(|time| *time >= Duration::from_millis(250)), "{times:?}");
    });
}

#[test]
fn client_is_reset_after_four_attempts_if_all_backends_are_silent() {
    with_relay(relayed_service(web_service("10.96.0.1"), &BACKENDS[..1]), |fixture| {
        add_address("10.1.0.1");
        drop_packets_to("10.1.0.1");
        let start = Instant::now();
        let mut stream = fixture.connect(PORTAL);
        assert_eq!(read_to_end(&mut stream), Err(ErrorKind::ConnectionReset));
        let (taken, timeouts) = (start.elapsed(), Duration::from_millis(250 + 500 + 1_000 + 2_000));
        // Between two rounds the relay waits for up to half of the next timeout, to spread the retries of clients.
        let delays = Duration::from_millis(250 + 500 + 1_000);
        assert!(taken >= timeouts && taken < timeouts + delays + Duration::from_secs(3), "{taken:?}");
        let report = fixture.report(tcp(PORTAL));
        assert_eq!((report.totals.failed, report.backends[0].failures), (1, 4));
    });
}

#[test]
fn client_is_reset_at_once_if_all_backends_refuse() {
    with_relay(relayed_service(web_service("10.96.0.1"), &BACKENDS), |fixture| {
        BACKENDS.iter().for_each(|address| add_address(address));
        assert_eq!(fixture.connect_outcome(PORTAL), Err(ErrorKind::ConnectionReset));
        let report = fixture.report(tcp(PORTAL));
        assert_eq!((report.totals.failed, report.backends.len()), (1, 3));
    });
}

#[test]
fn connection_dials_at_most_eight_of_3000_refusing_backends() {
    let addresses: Vec<String> =
        (0..3_000).map(|i| format!("10.1.{}.{}", 16 + i / 250, 1 + i % 250)).collect();
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    for scheduler in [Scheduler::LeastConnection, Scheduler::SourceHashing] {
        with_relay(relayed_service(web_service("10.96.0.1").scheduler(scheduler), &addresses), |fixture| {
            run("ip", &["route", "add", "local", "10.1.16.0/20", "dev", "lo"], "");
            let start = Instant::now();
            assert_eq!(fixture.connect_outcome(PORTAL), Err(ErrorKind::ConnectionReset));
            assert!(start.elapsed() < Duration::from_secs(2), "{scheduler:?}: {:?}", start.elapsed());
            let report = fixture.report(tcp(PORTAL));
            let dialled: u64 = report.backends.iter().map(|backend| backend.failures).sum();
            assert_eq!((dialled, report.totals.failed), (8, 1), "{scheduler:?}");
        });
    }
}

#[test]
fn killing_a_backend_under_load_is_invisible_to_clients() {
    const CLIENTS: usize = 4;
    with_relay(relayed_service(web_service("10.96.0.1"), &BACKENDS[..2]), |fixture| {
        let victim = Server::start("a", "10.1.0.1:8080");
        let survivor = Server::start("b", "10.1.0.2:8080");
        let (requests, is_over) = (AtomicUsize::new(0), AtomicBool::new(false));
        let client = || fixture.connect_repeatedly(PORTAL, &requests, &is_over);
        thread::scope(|scope| {
            let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(client)).collect();
            eventually("the backend is under load", || victim.count() > 300 || is_any_over(&clients));
            drop(victim);
            let (before, since) = (requests.load(Ordering::Relaxed), survivor.count());
            eventually("the load goes on", || {
                requests.load(Ordering::Relaxed) > before + 600 || is_any_over(&clients)
            });
            is_over.store(true, Ordering::Relaxed);
            assert!(survivor.count() >= since + 300);
        });
        assert_eq!(fixture.report(tcp(PORTAL)).totals.failed, 0);
    });
}

fn is_any_over<T>(clients: &[thread::ScopedJoinHandle<'_, T>]) -> bool {
    clients.iter().any(thread::ScopedJoinHandle::is_finished)
}

#[test]
fn portal_without_backend_is_rejected_by_the_kernel() {
    with_relay(relayed_service(web_service("10.96.0.1").ip("2001:db8:96::1"), &[]), |fixture| {
        fixture.within(|| ["10.96.0.1:80", "10.96.0.1:81", "[2001:db8:96::1]:80"].map(assert_refused));
        assert!(
            fixture.relay.report(Instant::now()).namespaces.is_empty(),
            "no connection reached the relay"
        );
    });
}

#[test]
fn held_connection_is_served_by_the_first_backend() {
    let held = || web_service("10.96.0.1").hold_ms(60_000);
    with_relay(relayed_service(held(), &[]), |fixture| {
        serve("a", "10.1.0.1:8080");
        let mut stream = fixture.connect(PORTAL);
        eventually("the connection is pending", || fixture.pending() == 1);
        fixture.set_services(relayed_service(held(), &BACKENDS[..1]));
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("an answer");
        assert_eq!(text, "a");
        assert!(fixture.pending() == 0);
    });
}

#[test]
fn held_connection_is_reset_after_its_hold_time_or_if_its_service_is_deleted() {
    with_relay(relayed_service(web_service("10.96.0.1").hold_ms(300), &[]), |fixture| {
        let start = Instant::now();
        assert_eq!(fixture.connect_outcome(PORTAL), Err(ErrorKind::ConnectionReset));
        let taken = start.elapsed();
        assert!(taken >= Duration::from_millis(300) && taken < TIMEOUT / 2, "{taken:?}");
        fixture.set_services(relayed_service(web_service("10.96.0.1").hold_ms(60_000), &[]));
        let mut stream = fixture.connect(PORTAL);
        eventually("the connection is pending", || fixture.pending() == 1);
        fixture.set_services([]);
        assert_eq!(read_to_end(&mut stream), Err(ErrorKind::ConnectionReset));
    });
}

#[test]
fn number_of_held_connections_of_a_pod_is_bounded() {
    const PENDING_MAX: usize = 1_024;
    let held = || web_service("10.96.0.1").hold_ms(60_000);
    with_relay(relayed_service(held(), &[]), |fixture| {
        serve("a", "10.1.0.1:8080");
        let connect = |_| TcpStream::connect(backend(PORTAL)).ok();
        let mut streams: Vec<TcpStream> =
            fixture.within(|| (0..PENDING_MAX + 76).filter_map(connect).collect());
        eventually("the others are refused", || fixture.report(tcp(PORTAL)).totals.failed == 76);
        assert_eq!(fixture.pending(), PENDING_MAX);
        fixture.set_services(relayed_service(held(), &BACKENDS[..1]));
        let served = streams.iter_mut().filter_map(|stream| read_to_end(stream).ok()).count();
        assert_eq!(served, PENDING_MAX);
    });
}
