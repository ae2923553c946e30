//! The schedulers of relayed portals over thousands of real connections, each against its definition.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use proxy_core::sample::{svc, tcp};
use proxy_core::service::Scheduler;
use test_support::backend_server::{backend_of, serve};
use test_support::eventually::eventually;
use test_support::relay_fixture::{
    POD6, RelayFixture, Server, accept, connect_with_timeouts, listen, read_name, relayed_service,
    web_service, with_relay,
};

const BACKENDS: [&str; 3] = ["10.1.0.1", "10.1.0.2", "10.1.0.3"];
const PORTAL: &str = "10.96.0.1:80";
const CLIENTS: usize = 4;

fn start_greeters() {
    serve("a", "10.1.0.1:8080");
    serve("b", "10.1.0.2:8080");
    serve("c", "10.1.0.3:8080");
}

fn start_servers() -> [Server; 3] {
    [("a", BACKENDS[0]), ("b", BACKENDS[1]), ("c", BACKENDS[2])]
        .map(|(name, address)| Server::start(name, &format!("{address}:8080")))
}

/// The number of connections by backend, opened by concurrent clients.
fn count_backends_concurrently(fixture: &RelayFixture, times: usize) -> BTreeMap<String, usize> {
    let one = || (0..times / CLIENTS).map(|_| backend_of(PORTAL)).collect::<Vec<_>>();
    let names = fixture.within(|| {
        thread::scope(|scope| {
            let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(one)).collect();
            clients.into_iter().flat_map(|client| client.join().expect("no failure")).collect::<Vec<_>>()
        })
    });
    let mut tally = BTreeMap::new();
    names.into_iter().for_each(|name| *tally.entry(name).or_default() += 1);
    tally
}

/// Open connections, and the name of the backend of each.
fn open_connections(fixture: &RelayFixture, count: usize) -> Vec<(String, TcpStream)> {
    fixture.within(|| {
        let one = || connect_with_timeouts(PORTAL);
        (0..count).map(|_| one()).map(|mut stream| (read_name(&mut stream), stream)).collect()
    })
}

fn count_names<'a>(names: impl Iterator<Item = &'a String>) -> BTreeMap<&'a str, usize> {
    let mut counts = BTreeMap::new();
    names.for_each(|name| *counts.entry(&**name).or_default() += 1);
    counts
}

#[test]
fn default_scheduler_is_strict_round_robin() {
    with_relay(relayed_service(web_service("10.96.0.1").ip("2001:db8:96::1"), &BACKENDS), |fixture| {
        start_greeters();
        let names: Vec<String> = fixture.within(|| (0..301).map(|_| backend_of(PORTAL)).collect());
        assert!(names.chunks_exact(3).all(|turn| turn == &names[..3]), "{names:?}");
        // 9,700 more make 10,001 connections, so the counts differ by one.
        let others = count_backends_concurrently(fixture, 9_700);
        let all = count_names(names.iter());
        let sums: Vec<usize> = ["a", "b", "c"].iter().map(|name| all[name] + others[*name]).collect();
        let (least, most) = (sums.iter().min().expect("three"), sums.iter().max().expect("three"));
        assert_eq!((sums.iter().sum::<usize>(), most - least), (10_001, 1), "{sums:?}");
    });
}

#[test]
fn random_scheduler_gives_each_backend_its_share() {
    with_relay(
        relayed_service(web_service("10.96.0.1").scheduler(Scheduler::Random), &BACKENDS),
        |fixture| {
            start_greeters();
            let tally = count_backends_concurrently(fixture, 10_000);
            // Six standard deviations of 47 on either side.
            assert!(
                tally.len() == 3 && tally.values().all(|count| (3_050..=3_617).contains(count)),
                "{tally:?}"
            );
        },
    );
}

#[test]
fn least_connection_spreads_open_connections_evenly() {
    with_relay(
        relayed_service(web_service("10.96.0.1").scheduler(Scheduler::LeastConnection), &BACKENDS),
        |fixture| {
            let _servers = start_servers();
            let mut all = open_connections(fixture, 300);
            assert_eq!(
                count_names(all.iter().map(|(name, _)| name)),
                [("a", 100), ("b", 100), ("c", 100)].into()
            );
            // The connections of one backend are closed, and it gets the next ones.
            all.retain(|(name, _)| name != "b");
            eventually("the connections to b have ended", || {
                fixture.report(tcp(PORTAL)).backends[1].active == 0
            });
            let next = open_connections(fixture, 100);
            assert_eq!(count_names(next.iter().map(|(name, _)| name)), [("b", 100)].into());
        },
    );
}

#[test]
fn least_connection_spreads_concurrent_clients_evenly() {
    with_relay(
        relayed_service(web_service("10.96.0.1").scheduler(Scheduler::LeastConnection), &BACKENDS),
        |fixture| {
            let servers = start_servers();
            let clients = fixture.within(|| {
                thread::scope(|scope| {
                    let one = || (0..75).map(|_| connect_with_timeouts(PORTAL)).collect::<Vec<_>>();
                    let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(one)).collect();
                    clients
                        .into_iter()
                        .flat_map(|client| client.join().expect("no failure"))
                        .collect::<Vec<_>>()
                })
            });
            eventually("all are served", || {
                servers.iter().map(Server::count).sum::<usize>() == clients.len()
            });
            assert_eq!(servers.each_ref().map(Server::count), [100; 3]);
        },
    );
}

#[test]
fn hashing_is_constant_in_a_pod_and_by_source_equal_for_all_portals() {
    let scheduled = |name: &str, address: &str, scheduler| {
        relayed_service(svc(name).ip(address).tcp("http", 80).scheduler(scheduler), &BACKENDS)
    };
    let [one, ones] = scheduled("one", "10.96.0.1", Scheduler::SourceHashing);
    let [two, twos] = scheduled("two", "10.96.0.2", Scheduler::SourceHashing);
    let [three, threes] = scheduled("three", "10.96.0.3", Scheduler::DestinationHashing);
    with_relay([one, ones, two, twos, three, threes], |fixture| {
        start_greeters();
        let ask = |portal: &str| -> Vec<String> { (0..100).map(|_| backend_of(portal)).collect() };
        let [one, two, three] =
            ["10.96.0.1:80", "10.96.0.2:80", "10.96.0.3:80"].map(|portal| fixture.within(|| ask(portal)));
        for names in [&one, &two, &three] {
            assert!(names.iter().all(|name| *name == names[0]), "{names:?}");
        }
        assert_eq!(one, two);
    });
}

/// Starts a server that sends its name after a delay.
fn serve_after(address: &str, name: &'static [u8], delay: Duration) {
    let listener = listen(address);
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            thread::spawn(move || {
                thread::sleep(delay);
                let _ = stream.write_all(name);
                let _ = stream.read(&mut [0]);
            });
        }
    });
}

#[test]
fn shortest_expected_delay_prefers_the_fastest_backend_and_never_queue_an_idle_one() {
    let scheduled = |name: &str, address: &str, scheduler| {
        relayed_service(svc(name).ip(address).tcp("http", 80).scheduler(scheduler), &BACKENDS[..2])
    };
    let [sed, seds] = scheduled("sed", "10.96.0.1", Scheduler::ShortestExpectedDelay);
    let [nq, nqs] = scheduled("nq", "10.96.0.2", Scheduler::NeverQueue);
    with_relay([sed, seds, nq, nqs], |fixture| {
        serve_after("10.1.0.1:8080", b"q", Duration::ZERO);
        serve_after("10.1.0.2:8080", b"s", Duration::from_millis(300));
        let ask = |portal: &str| read_name(&mut connect_with_timeouts(portal));
        let names: Vec<String> = fixture.within(|| (0..100).map(|_| ask(PORTAL)).collect());
        let slow = names.iter().filter(|name| **name == "s").count();
        assert!((1..=2).contains(&slow), "tried once to measure it: {names:?}");
        // Both portals have measured the slow backend now. One open connection to the fast one does not change the
        // choice of SED.
        fixture.within(|| (0..4).for_each(|_| drop(ask("10.96.0.2:80"))));
        for (portal, expected) in [("10.96.0.1:80", ["q", "q"]), ("10.96.0.2:80", ["q", "s"])] {
            let is_idle = || fixture.report(tcp(portal)).backends.iter().all(|backend| backend.active == 0);
            eventually("no connection is left", is_idle);
            let mut streams = [fixture.connect(portal), fixture.connect(portal)];
            let mut names = streams.each_mut().map(read_name);
            names.sort();
            assert_eq!(names, expected, "{portal}");
        }
    });
}

#[test]
fn mute_backend_does_not_get_every_connection() {
    let service = web_service("10.96.0.1").scheduler(Scheduler::ShortestExpectedDelay);
    with_relay(relayed_service(service, &BACKENDS[..2]), |fixture| {
        let mute = listen("10.1.0.1:8080");
        let server = Server::start("a", "10.1.0.2:8080");
        let clients: Vec<TcpStream> = (0..40).map(|_| fixture.connect(PORTAL)).collect();
        eventually("half of them or more are served", || server.count() >= clients.len() / 2);
        drop(mute);
    });
}

#[test]
fn affinity_lasts_until_the_backend_fails_and_then_moves() {
    with_relay(relayed_service(web_service("10.96.0.1").sticky(10_800), &BACKENDS), |fixture| {
        let mut servers: BTreeMap<_, _> = ["a", "b", "c"].into_iter().zip(start_servers()).collect();
        let ask = || {
            fixture
                .within(|| (0..20).map(|_| read_name(&mut connect_with_timeouts(PORTAL))).collect::<Vec<_>>())
        };
        let first = ask();
        assert!(first.iter().all(|name| *name == first[0]), "{first:?}");
        drop(servers.remove(&*first[0]));
        let second = ask();
        assert!(second.iter().all(|name| *name == second[0] && *name != first[0]), "{first:?} {second:?}");
        let back = BACKENDS.iter().zip(["a", "b", "c"]).find(|(_, name)| *name == first[0]);
        let (address, name) = back.expect("one of three");
        let listener = TcpListener::bind((*address, 8080)).expect("the backend is back");
        let _server = Server::on(listener, name);
        assert_eq!(ask(), second, "the affinity remains");
    });
}

#[test]
fn affinity_expires_after_its_timeout() {
    with_relay(relayed_service(web_service("10.96.0.1").sticky(1), &BACKENDS), |fixture| {
        let _servers = start_servers();
        let ask = || fixture.within(|| read_name(&mut connect_with_timeouts(PORTAL)));
        let first = ask();
        let start = Instant::now();
        // The timeout itself is tested, so the test must wait for it.
        thread::sleep(Duration::from_millis(1_100));
        assert_ne!(ask(), first, "in turn, after {:?}", start.elapsed());
    });
}

#[test]
fn ipv6_connections_take_turns_as_well() {
    with_relay(
        relayed_service(web_service("2001:db8:96::1"), &["2001:db8:1::1", "2001:db8:1::2"]),
        |fixture| {
            let (one, two) = (listen("[2001:db8:1::1]:8080"), listen("[2001:db8:1::2]:8080"));
            for listener in [&one, &two, &one, &two] {
                let _client = fixture.connect("[2001:db8:96::1]:80");
                let (_, from) = accept(listener);
                assert_eq!(from.ip().to_string(), POD6);
            }
        },
    );
}
