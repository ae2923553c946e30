//! Counters in the kernel, with both loaders: a hit of a portal is one connection or UDP flow, and it is also counted
//! at its backend.

use std::collections::BTreeMap;
use std::net::UdpSocket;

use netns_nft::{Counters, Error, Limits, Socket};
use proxy_core::portal::PortalKey;
use proxy_core::ruleset::{Ruleset, Settings};
use proxy_core::sample::{backend, slice, svc, tcp, udp};
use proxy_core::service::{Mode, Scheduler};
use proxy_core::snapshot::Change;
use test_support::backend_server::{REPLY_TIMEOUT, assert_refused, count_backends, serve};
use test_support::namespace::run;
use test_support::ruleset_loader::{portals_of, with_each_loader};

/// The backends by their names, IPv4 and IPv6.
const BACKENDS: [(&str, &str, &str); 3] = [
    ("a", "10.1.0.1", "2001:db8:1::1"),
    ("b", "10.1.0.2", "2001:db8:1::2"),
    ("c", "10.1.0.3", "2001:db8:1::3"),
];
/// The number of connections to each portal.
const TIMES: u16 = 12;

/// The name of a service, its addresses, how its connections are spread, and over how many backends.
#[derive(Clone, Copy)]
struct TestService {
    name: &'static str,
    v4: &'static str,
    v6: &'static str,
    backends: usize,
}

const RANDOM: TestService =
    TestService { name: "random", v4: "10.96.0.1", v6: "2001:db8:96::1", backends: 3 };
const TURNS: TestService = TestService { name: "turns", v4: "10.96.0.2", v6: "2001:db8:96::2", backends: 3 };
const STICKY: TestService =
    TestService { name: "sticky", v4: "10.96.0.3", v6: "2001:db8:96::3", backends: 3 };
const SINGLE: TestService =
    TestService { name: "single", v4: "10.96.0.4", v6: "2001:db8:96::4", backends: 1 };

fn changes_of(test: TestService) -> [Change; 2] {
    let service = svc(test.name).ip(test.v4).ip(test.v6).tcp("t", 80).udp("u", 53);
    let service = match test.name {
        "turns" => service.scheduler(Scheduler::RoundRobin),
        "sticky" => service.sticky(60),
        _ => service,
    };
    let slice = slice(test.name).tcp("t", 8080).udp("u", 5353);
    let used = &BACKENDS[..test.backends];
    let slice = used.iter().fold(slice, |slice, (_, v4, v6)| slice.at(v4).at(v6));
    [service.into(), slice.into()]
}

fn ruleset(settings: Settings) -> Ruleset {
    Ruleset::new(&portals_of([RANDOM, TURNS, STICKY, SINGLE].into_iter().flat_map(changes_of)), settings)
}

fn ruleset_with_counters() -> Ruleset {
    ruleset(Settings { counters: true, ..Settings::default() })
}

/// Starts servers that send their names over TCP and UDP.
fn serve_all() {
    for (name, v4, v6) in BACKENDS {
        for (tcp, udp) in
            [(format!("{v4}:8080"), format!("{v4}:5353")), (format!("[{v6}]:8080"), format!("[{v6}]:5353"))]
        {
            serve(name, &tcp);
            let server = UdpSocket::bind(udp).expect("bind");
            std::thread::spawn(move || {
                while let Ok((_, client)) = server.recv_from(&mut [0; 8]) {
                    let _ = server.send_to(name.as_bytes(), client);
                }
            });
        }
    }
}

/// Returns how many flows each backend answers. Each flow has its own source port.
fn count_udp_backends(portal: &str, own: &str) -> BTreeMap<String, usize> {
    let mut tally = BTreeMap::new();
    for flow in 0..TIMES {
        let client = UdpSocket::bind(format!("{own}:{}", 40_000 + flow)).expect("bind");
        client.set_read_timeout(Some(REPLY_TIMEOUT)).expect("set a time-out");
        client.connect(portal).expect("connect");
        let mut name = [0; 8];
        client.send(b"who").expect("send");
        let length = client.recv(&mut name).expect("a reply");
        *tally.entry(String::from_utf8_lossy(&name[..length]).into_owned()).or_default() += 1;
        // Later datagrams of the flow are not evaluated by rules.
        client.send(b"who").expect("send");
        client.recv(&mut name).expect("a reply");
    }
    tally
}

fn read_counters() -> Counters {
    Socket::open().and_then(|socket| socket.counters(&Limits::default(), None)).expect("read the counters")
}

/// The hits of a portal's backends, by the names of the backends.
fn hits_by_backend(counted: &Counters, key: PortalKey) -> BTreeMap<String, u64> {
    let of = |address: String| BACKENDS.iter().find(|(_, v4, v6)| address == *v4 || address == *v6);
    let backends = counted.backends[&key].iter();
    backends
        .map(|(at, hits)| (of(at.ip().to_string()).expect("a backend of the test").0.to_owned(), *hits))
        .collect()
}

#[test]
fn each_connection_and_flow_is_one_hit_of_its_portal_and_one_of_its_backend() {
    with_each_loader(|loader| {
        serve_all();
        loader.program(&ruleset_with_counters());
        let mut answered = BTreeMap::new();
        for service in [RANDOM, TURNS, STICKY, SINGLE] {
            for (at, own) in
                [(service.v4.to_owned(), "10.200.0.1"), (format!("[{}]", service.v6), "[2001:db8:200::1]")]
            {
                let (web, dns) = (format!("{at}:80"), format!("{at}:53"));
                answered.insert(tcp(&web), (service, count_backends(&web, TIMES.into())));
                answered.insert(udp(&dns), (service, count_udp_backends(&dns, own)));
            }
        }
        let counted = read_counters();
        assert_eq!(counted.portals.len(), answered.len());
        for (key, (service, answered)) in answered {
            assert_eq!(counted.portals[&key], u64::from(TIMES), "{key}");
            let hits = hits_by_backend(&counted, key);
            let replies = |name: &String| answered.get(name).copied().unwrap_or(0) as u64;
            assert_eq!(hits.len(), service.backends, "{key}");
            assert!(hits.iter().all(|(name, hits)| *hits == replies(name)), "{key}: {hits:?}, {answered:?}");
            assert_eq!(hits.values().sum::<u64>(), u64::from(TIMES), "{key}");
            if service.name == "turns" {
                assert!(hits.values().all(|hits| *hits == u64::from(TIMES) / 3), "{key}: {hits:?}");
            }
        }
    });
}

#[test]
fn counting_keeps_the_generation_and_nft_lists_the_counters() {
    with_each_loader(|loader| {
        serve_all();
        loader.program(&ruleset_with_counters());
        let generation = || Socket::open().and_then(|socket| socket.generation()).expect("a number");
        let before = generation();
        count_backends("10.96.0.2:80", 6);
        count_backends("[2001:db8:96::2]:80", 3);
        assert_eq!(generation(), before, "a changed generation would cause an audit");
        let listed = run("nft", &["list", "ruleset"], "");
        let lists = |key: &str, packets: u64| {
            listed.lines().any(|line| line.contains(&format!("{key} counter packets {packets} bytes")))
        };
        assert!(lists("10.96.0.2 . tcp . 80", 6), "{listed}");
        assert!(lists("2001:db8:96::2 . tcp . 80", 3), "{listed}");
        assert!(lists("10.96.0.2 . tcp . 80 . 0x00000000", 2), "{listed}");
    });
}

#[test]
fn remaining_backend_keeps_its_counter_and_replaced_table_starts_at_zero() {
    with_each_loader(|loader| {
        serve_all();
        let made = |backends: usize| {
            let settings = Settings { counters: true, ..Settings::default() };
            Ruleset::new(&portals_of(changes_of(TestService { backends, ..TURNS })), settings)
        };
        let (three, two) = (made(3), made(2));
        loader.program(&three);
        count_backends("10.96.0.2:80", 6);
        loader.change(&three, &two);
        let portal = tcp("10.96.0.2:80");
        let after = read_counters();
        assert_eq!(after.portals[&portal], 0, "the element of the portal was replaced");
        let both = |a, b| BTreeMap::from([("a".to_owned(), a), ("b".to_owned(), b)]);
        assert_eq!(hits_by_backend(&after, portal), both(2, 2));
        count_backends("10.96.0.2:80", 4);
        assert_eq!(read_counters().portals[&portal], 4);
        assert_eq!(hits_by_backend(&read_counters(), portal), both(4, 4));
    });
}

#[test]
fn rejected_and_relayed_connections_count_only_at_the_portal() {
    with_each_loader(|loader| {
        let portals = portals_of([
            svc("none").ip("10.96.0.5").tcp("t", 80).into(),
            svc("relayed").ip("10.96.0.6").tcp("t", 80).mode(Mode::Relay).into(),
            slice("relayed").tcp("t", 8080).at("10.1.0.1").into(),
        ]);
        loader.program(&Ruleset::new(&portals, Settings { counters: true, ..Settings::default() }));
        // No process listens on the relay's port, so each connection is refused.
        for portal in ["10.96.0.5:80", "10.96.0.6:80"] {
            (0..3).for_each(|_| assert_refused(portal));
        }
        let Counters { portals, backends } = read_counters();
        let expected = BTreeMap::from([(tcp("10.96.0.5:80"), 3), (tcp("10.96.0.6:80"), 3)]);
        assert_eq!((portals, backends), (expected, BTreeMap::new()));
    });
}

#[test]
fn table_without_counters_is_reported_as_such() {
    with_each_loader(|loader| {
        let socket = || Socket::open().expect("open a socket");
        assert!(
            matches!(socket().counters(&Limits::default(), None), Err(Error::NoCounters(why)) if why.contains("gone"))
        );
        loader.program(&ruleset(Settings::default()));
        assert_eq!(read_counters(), Counters::default());
        run("nft", &["delete", "table", "inet", "portico"], "");
        run("nft", &["add", "table", "inet", "portico"], "");
        assert!(
            matches!(socket().counters(&Limits::default(), None), Err(Error::NoCounters(why)) if why.contains("missing"))
        );
    });
}

/// IPv6 backends are written with brackets.
#[test]
fn backends_are_reported_with_address_and_port() {
    with_each_loader(|loader| {
        serve_all();
        loader.program(&ruleset_with_counters());
        count_backends("[2001:db8:96::4]:80", 1);
        let key = tcp("[2001:db8:96::4]:80");
        assert_eq!(read_counters().backends[&key], [(backend("[2001:db8:1::1]:8080"), 1)]);
    });
}
