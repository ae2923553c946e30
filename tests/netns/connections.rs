//! The effect of rules on real connections, with both loaders. The trace must agree with the kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};

use proxy_core::address::Family;
use proxy_core::endpoint::EndpointSlice;
use proxy_core::iptables::Iptables;
use proxy_core::ruleset::{Ruleset, Settings};
use proxy_core::sample::{backend, slice, svc, tcp};
use proxy_core::service::{Mode, Scheduler};
use proxy_core::snapshot::Change;
use proxy_core::trace::{Packet, Trace, trace};
use test_support::backend_server::{
    DROP_TIMEOUT, REPLY_TIMEOUT, assert_refused, assert_silent, backend_of, count_backends, serve,
    serve_outside, try_backend_of,
};
use test_support::namespace;
use test_support::namespace::{add_address, add_address_to, in_routed_netns, run};
use test_support::pod::Pod;
use test_support::ruleset_loader::{RulesetLoader, portals_of, ruleset_of, with_each_loader};

#[test]
fn connections_reach_every_backend() {
    with_each_loader(|loader| {
        serve("a", "10.1.0.1:8080");
        serve("b", "10.1.0.2:8080");
        serve("c", "10.1.0.3:9090");
        let made = slice("web").tcp("http", 8080).at("10.1.0.1").at("10.1.0.2");
        let other = slice("web").named("web-2").tcp("http", 9090).at("10.1.0.3");
        let web = svc("web").ip("10.96.0.1").tcp("http", 80);
        loader.program(&ruleset_of([web.into(), made.into(), other.into()]));
        let tally = count_backends("10.96.0.1:80", 300);
        assert_eq!(tally.keys().collect::<Vec<_>>(), ["a", "b", "c"]);
        // 300 fair draws of three are outside of 60 to 140 once in ten million runs.
        assert!(tally.values().all(|count| (60..=140).contains(count)), "{tally:?}");
    });
}

#[test]
fn ipv6_portals_translate_to_ipv6_backends() {
    with_each_loader(|loader| {
        serve("six", "[2001:db8:1::1]:8080");
        let web = svc("web").ip("10.96.0.1").ip("2001:db8:96::1").tcp("http", 80);
        let made = slice("web").tcp("http", 8080).at("2001:db8:1::1");
        loader.program(&ruleset_of([web.into(), made.into()]));
        assert_eq!(count_backends("[2001:db8:96::1]:80", 5), BTreeMap::from([("six".to_owned(), 5)]));
        assert_refused("10.96.0.1:80");
        assert_refused("[2001:db8:96::1]:81");
    });
}

#[test]
fn portal_without_backends_and_unknown_port_reject() {
    with_each_loader(|loader| {
        loader.program(&ruleset_of([svc("none").ip("10.96.0.2").tcp("http", 80).into()]));
        assert_refused("10.96.0.2:80");
        assert_refused("10.96.0.2:81");
    });
}

#[test]
fn udp_is_translated_and_rejected_like_tcp() {
    with_each_loader(|loader| {
        add_address("10.1.0.1");
        let server = UdpSocket::bind("10.1.0.1:5353").expect("bind the backend");
        server.set_read_timeout(Some(REPLY_TIMEOUT)).expect("set a time-out");
        let dns = svc("dns").ip("10.96.0.10").udp("dns", 53).udp("none", 54);
        let made = slice("dns").udp("dns", 5353).at("10.1.0.1");
        loader.program(&ruleset_of([dns.into(), made.into()]));
        let client = UdpSocket::bind("10.200.0.1:0").expect("bind the client");
        client.connect("10.96.0.10:53").expect("connect");
        client.send(b"query").expect("send");
        let mut buffer = [0; 16];
        let (length, from) = server.recv_from(&mut buffer).expect("the query arrives");
        assert_eq!(&buffer[..length], b"query");
        server.send_to(b"reply", from).expect("reply");
        client.set_read_timeout(Some(REPLY_TIMEOUT)).expect("set a time-out");
        let length = client.recv(&mut buffer).expect("the reply comes from the portal's address");
        assert_eq!(&buffer[..length], b"reply");

        let client = UdpSocket::bind("10.200.0.1:0").expect("bind the client");
        client.connect("10.96.0.10:54").expect("connect");
        let refused = [client.send(b"x"), client.send(b"x")];
        let kinds = refused.map(|sent| sent.expect_err("refused").kind());
        assert!(
            kinds.iter().all(|k| matches!(k, ErrorKind::PermissionDenied | ErrorKind::ConnectionRefused)),
            "{kinds:?}"
        );
    });
}

#[test]
fn internal_traffic_policy_local_without_local_endpoints_drops() {
    with_each_loader(|loader| {
        serve("remote", "10.1.0.1:8080");
        let near = svc("near").ip("10.96.0.3").tcp("http", 80).internal_local();
        let made = slice("near").tcp("http", 8080).at("10.1.0.1").on("n2");
        loader.program(&ruleset_of([near.into(), made.into()]));
        assert_silent("10.96.0.3:80");
    });
}

#[test]
fn unassigned_address_in_a_service_range_rejects() {
    with_each_loader(|loader| {
        serve_outside("bypass", "10.96.7.7:80");
        let range = Change::ServiceRanges(vec!["10.96.0.0/16".parse().expect("a network")]);
        loader.program(&ruleset_of([range, svc("web").ip("10.96.0.1").tcp("", 80).into()]));
        assert_silent("10.96.7.7:80");
    });
}

#[test]
fn traffic_to_other_addresses_is_unchanged() {
    with_each_loader(|loader| {
        serve("plain", "10.1.0.1:8080");
        loader.program(&ruleset_of([svc("web").ip("10.96.0.1").tcp("", 80).into()]));
        assert_eq!(backend_of("10.1.0.1:8080"), "plain");
    });
}

#[test]
fn load_balancer_address_serves_only_sources_in_range() {
    let lb = || {
        let lb = svc("lb").ip("10.96.0.4").tcp("http", 80).balanced("192.0.2.4").only_from("10.200.0.0/16");
        [Change::from(lb), slice("lb").tcp("http", 8080).at("10.1.0.1").into()]
    };
    with_each_loader(|loader| {
        serve("a", "10.1.0.1:8080");
        loader.program(&ruleset_of(lb()));
        assert_eq!(backend_of("192.0.2.4:80"), "a");
        run_as("10.201.0.1", || assert_silent("192.0.2.4:80"));
        run_as("10.201.0.1", || {
            assert_eq!(backend_of("10.96.0.4:80"), "a");
        });
    });
}

/// Runs `body` with another source address.
fn run_as(source: &str, body: impl FnOnce()) {
    add_address(source);
    namespace::run("ip", &["route", "replace", "default", "dev", "lo", "src", source], "");
    body();
    namespace::run("ip", &["route", "replace", "default", "dev", "lo", "src", "10.200.0.1"], "");
    namespace::run("ip", &["address", "del", &format!("{source}/32"), "dev", "lo"], "");
}

#[test]
fn session_affinity_lasts_until_the_backend_is_removed() {
    with_each_loader(|loader| {
        serve("a", "10.1.0.1:8080");
        serve("b", "10.1.0.2:8080");
        serve("c", "10.1.0.3:8080");
        let all = ["10.1.0.1", "10.1.0.2", "10.1.0.3"];
        let world = |addresses: &[&str]| {
            let sticky = svc("s").ip("10.96.0.5").tcp("http", 80).sticky(10_800);
            let made = addresses.iter().fold(slice("s").tcp("http", 8080), |made, address| made.at(address));
            ruleset_of([sticky.into(), made.into()])
        };
        let before = world(&all);
        loader.program(&before);
        let first = count_backends("10.96.0.5:80", 20);
        assert_eq!(first.len(), 1, "one client, one backend: {first:?}");
        let served = ["a", "b", "c"].iter().position(|name| first.contains_key(*name)).expect("one of three");
        let left: Vec<&str> = all.iter().copied().filter(|address| *address != all[served]).collect();
        loader.change(&before, &world(&left));
        let second = count_backends("10.96.0.5:80", 20);
        assert_eq!(second.len(), 1, "the client stays at another backend: {second:?}");
        assert_ne!(first.keys().next(), second.keys().next());
    });
}

#[test]
fn removed_backend_moves_only_its_own_sticky_clients() {
    const PORTALS: u8 = 30;
    let names = BTreeMap::from([(1, "a"), (2, "b"), (3, "c"), (4, "d")]);
    let world = |octets: &[u8]| {
        // Each portal has its own entry in the affinity map.
        let sticky = (1..=PORTALS).fold(svc("s").ip("10.96.0.5").ip("2001:db8:96::5"), |sticky, port| {
            sticky.tcp(&format!("p{port}"), port.into())
        });
        let made = (1..=PORTALS).fold(slice("s"), |made, port| made.tcp(&format!("p{port}"), 8080));
        let at = |made: EndpointSlice, octet: &u8| {
            made.at(&format!("10.1.0.{octet}")).at(&format!("2001:db8:1::{octet}"))
        };
        ruleset_of([sticky.sticky(10_800).into(), octets.iter().fold(made, at).into()])
    };
    with_each_loader(|loader| {
        let addresses: &[&str] = match loader {
            RulesetLoader::Text => &["10.96.0.5"], // nft 1.0.6 does not support affinity of IPv6 clients
            RulesetLoader::Netlink => &["10.96.0.5", "[2001:db8:96::5]"],
        };
        let portals =
            || addresses.iter().flat_map(|ip| (1..=PORTALS).map(move |port| format!("{ip}:{port}")));
        let clients = || -> Vec<String> { portals().map(|portal| backend_of(&portal)).collect() };
        for (octet, name) in &names {
            serve(name, &format!("10.1.0.{octet}:8080"));
            serve(name, &format!("[2001:db8:1::{octet}]:8080"));
        }
        let mut applied = world(&[1, 2, 3]);
        loader.program(&applied);
        let mut before = clients();
        assert_eq!(clients(), before, "clients keep their backends");
        assert_eq!(before.iter().collect::<BTreeSet<_>>().len(), 3, "all backends are used: {before:?}");
        // Backends are removed, added, replaced and added again.
        for octets in [&[2, 3][..], &[2, 3, 4], &[1, 2, 4], &[1, 2, 3, 4], &[4]] {
            let desired = world(octets);
            loader.change(&applied, &desired);
            let (after, serving) = (clients(), octets.iter().map(|octet| names[octet]));
            let serving: BTreeSet<&str> = serving.collect();
            for (before, after) in before.iter().zip(&after) {
                assert!(serving.contains(&**after));
                assert!(before == after || !serving.contains(&**before), "{octets:?}: {before} -> {after}");
            }
            assert_eq!(clients(), after, "clients keep their backends");
            (before, applied) = (after, desired);
        }
    });
}

#[test]
fn round_robin_portals_alternate_between_their_backends() {
    with_each_loader(|loader| {
        serve("a", "10.1.0.1:8080");
        serve("b", "10.1.0.2:8080");
        serve("c", "10.1.0.3:8080");
        let in_turn = |name: &str, address: &str, octets: &[u8]| -> [Change; 2] {
            let service = svc(name).ip(address).tcp("http", 80).scheduler(Scheduler::RoundRobin);
            let made = slice(name).tcp("http", 8080);
            let at = |octet: &u8| format!("10.1.0.{octet}");
            [service.into(), octets.iter().fold(made, |made, octet| made.at(&at(octet))).into()]
        };
        let world = |octets: &[u8]| {
            let drawn = svc("drawn").ip("10.96.0.7").tcp("http", 80);
            let all = slice("drawn").tcp("http", 8080).at("10.1.0.1").at("10.1.0.2").at("10.1.0.3");
            let others = in_turn("one", "10.96.0.5", &[1, 2]).into_iter().chain([drawn.into(), all.into()]);
            ruleset_of(in_turn("two", "10.96.0.6", octets).into_iter().chain(others))
        };
        let mut before = Ruleset::empty();
        for octets in [&[1, 2, 3][..], &[1, 2], &[1, 2, 3], &[1, 3], &[3]] {
            let after = world(octets);
            loader.change(&before, &after);
            let (mut one, mut two) = (Vec::new(), Vec::new());
            for _ in 0..6 * octets.len() {
                one.push(backend_of("10.96.0.5:80"));
                two.push(backend_of("10.96.0.6:80"));
                backend_of("10.96.0.7:80");
            }
            for (answers, count) in [(one, 2), (two, octets.len())] {
                let turn: BTreeSet<&String> = answers[..count].iter().collect();
                assert_eq!(turn.len(), count, "each backend once: {answers:?}");
                assert!(answers.chunks(count).all(|turn| turn == &answers[..count]), "{answers:?}");
            }
            before = after;
        }
    });
}

#[test]
fn established_connection_outlives_its_portal() {
    with_each_loader(|loader| {
        add_address("10.1.0.1");
        let listener = TcpListener::bind("10.1.0.1:8080").expect("listen");
        let web = svc("web").ip("10.96.0.1").tcp("http", 80);
        let before = ruleset_of([web.into(), slice("web").tcp("http", 8080).at("10.1.0.1").into()]);
        loader.program(&before);
        let mut client =
            TcpStream::connect_timeout(&backend("10.96.0.1:80"), REPLY_TIMEOUT).expect("connect");
        let (mut server, _) = listener.accept().expect("accept");
        loader.change(&before, &ruleset_of([]));
        client.write_all(b"still here").expect("write");
        let mut buffer = [0; 10];
        server.set_read_timeout(Some(REPLY_TIMEOUT)).expect("set a time-out");
        server.read_exact(&mut buffer).expect("the bytes arrive after the portal was removed");
        assert_eq!(&buffer, b"still here");
    });
}

#[test]
fn open_connection_through_the_node_continues_if_the_pod_gets_portals() {
    with_each_loader(|loader| {
        // A node whose kube-proxy serves the service.
        let node = Pod::new();
        node.wire("eth0", "to-pod");
        add_address_to("eth0", "10.209.0.1/24");
        node.within(|| {
            add_address_to("to-pod", "10.209.0.2/24");
            add_address("10.96.0.1");
        });
        run("ip", &["route", "add", "10.96.0.1", "via", "10.209.0.2"], "");
        let listener = node.within(|| TcpListener::bind("10.96.0.1:80").expect("listen"));
        let mut client =
            TcpStream::connect_timeout(&backend("10.96.0.1:80"), REPLY_TIMEOUT).expect("connect");
        let (mut server, _) = listener.accept().expect("accept");
        serve("portal", "10.1.0.1:8080");
        let web = svc("web").ip("10.96.0.1").tcp("http", 80);
        loader.program(&ruleset_of([web.into(), slice("web").tcp("http", 8080).at("10.1.0.1").into()]));
        client.write_all(b"still here").expect("write");
        let mut buffer = [0; 10];
        server.set_read_timeout(Some(REPLY_TIMEOUT)).expect("set a time-out");
        server.read_exact(&mut buffer).expect("the bytes arrive at the server that accepted the connection");
        assert_eq!(&buffer, b"still here");
        assert_eq!(backend_of("10.96.0.1:80"), "portal");
    });
}

#[test]
fn relayed_portal_is_redirected_to_the_relay_port() {
    with_each_loader(|loader| {
        let port = Settings::default().relay_port;
        let listener = TcpListener::bind(("127.0.0.1", port)).expect("listen as the relay");
        let web = svc("web").ip("10.96.0.1").tcp("http", 80).mode(Mode::Relay);
        loader.program(&ruleset_of([web.into(), slice("web").tcp("http", 8080).at("10.1.0.1").into()]));
        TcpStream::connect_timeout(&backend("10.96.0.1:80"), REPLY_TIMEOUT).expect("the relay accepts");
        listener.accept().expect("accept");
    });
}

#[test]
fn trace_agrees_with_the_kernel() {
    let changes = || -> Vec<Change> {
        vec![
            svc("web").ip("10.96.0.1").tcp("http", 80).external("192.0.2.1").into(),
            slice("web").tcp("http", 8080).at("10.1.0.1").into(),
            svc("none").ip("10.96.0.2").tcp("http", 80).external("192.0.2.2").into(),
            svc("near").ip("10.96.0.3").tcp("http", 80).internal_local().external("192.0.2.3").into(),
            slice("near").tcp("http", 8080).at("10.1.0.1").on("n2").into(),
            svc("lb").ip("10.96.0.4").tcp("http", 80).balanced("192.0.2.4").only_from("10.9.0.0/16").into(),
            slice("lb").tcp("http", 8080).at("10.1.0.1").into(),
            svc("node").ip("10.96.0.5").tcp("http", 80).node_port(30_080).into(),
            slice("node").tcp("http", 8080).at("10.1.0.1").into(),
        ]
    };
    with_each_loader(|loader| {
        serve("web", "10.1.0.1:8080");
        let ruleset = ruleset_of(changes());
        loader.program(&ruleset);
        let portals =
            ["10.96.0", "192.0.2"].iter().flat_map(|net| (1..=4).map(move |n| format!("{net}.{n}:80")));
        for portal in portals.chain(["10.96.0.1:81".to_owned(), "10.240.0.5:30080".to_owned()]) {
            let source: Option<IpAddr> = "10.200.0.1".parse().ok();
            let expected = match trace(&ruleset, &Packet::sent(source, tcp(&portal)), 0) {
                Trace::Forward(_) => Ok("web".to_owned()),
                Trace::Reject | Trace::WrongPort => Err(ErrorKind::ConnectionRefused),
                _ => Err(ErrorKind::TimedOut),
            };
            let timeout = if expected == Err(ErrorKind::TimedOut) { DROP_TIMEOUT } else { REPLY_TIMEOUT };
            assert_eq!(try_backend_of(&portal, timeout).map_err(|why| why.kind()), expected, "{portal}");
        }
    });
}

#[test]
fn classic_form_translates_rejects_and_drops() {
    let portals = portals_of([
        svc("w").ip("10.96.0.1").tcp("", 80).into(),
        slice("w").tcp("", 8080).at("10.1.0.1").at("10.1.0.2").into(),
        svc("none").ip("10.96.0.2").tcp("", 80).into(),
        svc("near").ip("10.96.0.3").tcp("", 80).internal_local().into(),
        slice("near").tcp("", 80).at("10.1.0.1").on("n2").into(),
    ]);
    in_routed_netns(|| {
        serve("a", "10.1.0.1:8080");
        serve("b", "10.1.0.2:8080");
        namespace::run(
            "iptables-restore",
            &[],
            &Iptables { portals: &portals, family: Family::V4 }.to_string(),
        );
        assert_eq!(count_backends("10.96.0.1:80", 60).len(), 2);
        assert_refused("10.96.0.2:80");
        assert_refused("10.96.0.1:81");
        assert_silent("10.96.0.3:80");
    });
}
