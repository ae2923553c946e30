//! Rules in a real kernel: what the text of a ruleset does to real connections, and that a plan leads
//! where a fresh load leads. The kernel is the judge; the tracer must agree with it.

#[path = "netns/namespace.rs"]
mod namespace;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::time::Duration;

use namespace::{add_address, listing, load, within};
use netns_nft::{Error, Socket, encode};
use proxy_core::address::Family;
use proxy_core::iptables::Iptables;
use proxy_core::plan::plan;
use proxy_core::portal::{Portals, portals};
use proxy_core::ruleset::{Ruleset, Settings};
use proxy_core::sample::{backend, cluster, cluster_slice, slice, snapshot, standpoint, svc, tcp};
use proxy_core::service::{Mode, Protocol};
use proxy_core::snapshot::Change;
use proxy_core::table::Table;
use proxy_core::trace::{Packet, Trace, trace};

/// How long an answer may take: a lost packet is sent again after a second, and after three.
const ANSWER: Duration = Duration::from_secs(10);
/// How long nothing must come where everything is dropped: an answer within one machine takes 0.1 ms.
const SILENCE: Duration = Duration::from_millis(300);

fn portals_of(changes: impl IntoIterator<Item = Change>) -> Portals {
    portals(&snapshot(changes), &standpoint())
}

fn ruleset_of(changes: impl IntoIterator<Item = Change>) -> Ruleset {
    Ruleset::new(&portals_of(changes), Settings::default())
}

/// A way into the kernel.
#[derive(Clone, Copy)]
enum Way {
    /// Text, by the real nft.
    Text,
    /// Our own netlink transaction.
    Netlink,
}

impl Way {
    /// Programs a new namespace.
    fn program(self, ruleset: &Ruleset) {
        self.change(&Ruleset::empty(), ruleset);
    }

    /// Turns what is there into what is to be there.
    fn change(self, before: &Ruleset, after: &Ruleset) {
        let plan = plan(before, after);
        match self {
            Self::Text => load(&plan.to_string()),
            Self::Netlink => {
                let socket = Socket::open().expect("open a netfilter socket");
                socket.apply(&encode(&plan)).unwrap_or_else(|error| panic!("{error}: {error:?}"));
            }
        }
    }
}

/// Runs `body` in a namespace of its own for each way.
fn each_way(body: impl Fn(Way) + Sync) {
    for way in [Way::Text, Way::Netlink] {
        within(|| body(way));
    }
}

/// A server on this address that answers each connection with its own name.
fn serve(name: &'static str, address: &str) {
    add_address(address.rsplit_once(':').expect("a port").0.trim_matches(['[', ']']));
    let listener = TcpListener::bind(address).expect("listen on the backend's address");
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let _ = connection.and_then(|mut stream| stream.write_all(name.as_bytes()));
        }
    });
}

/// Who answers at a portal.
fn ask(portal: &str, patience: Duration) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&backend(portal), patience)?;
    let mut name = String::new();
    stream.set_read_timeout(Some(patience))?;
    stream.read_to_string(&mut name)?;
    Ok(name)
}

fn answer(portal: &str) -> String {
    ask(portal, ANSWER).unwrap_or_else(|why| panic!("{portal} does not answer: {why}"))
}

fn tally(portal: &str, times: usize) -> BTreeMap<String, usize> {
    let mut tally = BTreeMap::new();
    for _ in 0..times {
        *tally.entry(answer(portal)).or_default() += 1;
    }
    tally
}

fn assert_refused(portal: &str) {
    let kind = ask(portal, ANSWER).expect_err("nobody answers").kind();
    assert_eq!(kind, ErrorKind::ConnectionRefused, "{portal}");
}

fn assert_silent(portal: &str) {
    let kind = ask(portal, SILENCE).expect_err("nobody answers").kind();
    assert_eq!(kind, ErrorKind::TimedOut, "{portal}");
}

#[test]
fn each_connection_reaches_one_of_all_backends() {
    each_way(|way| {
        serve("a", "10.1.0.1:8080");
        serve("b", "10.1.0.2:8080");
        serve("c", "10.1.0.3:9090");
        let made = slice("web").tcp("http", 8080).at("10.1.0.1").at("10.1.0.2");
        let other = slice("web").named("web-2").tcp("http", 9090).at("10.1.0.3");
        let web = svc("web").ip("10.96.0.1").tcp("http", 80);
        way.program(&ruleset_of([web.into(), made.into(), other.into()]));
        let tally = tally("10.96.0.1:80", 300);
        assert_eq!(tally.keys().collect::<Vec<_>>(), ["a", "b", "c"]);
        // 300 fair draws of three stay within 60 to 140 but once in ten million runs.
        assert!(tally.values().all(|count| (60..=140).contains(count)), "{tally:?}");
    });
}

#[test]
fn ipv6_portals_lead_to_ipv6_backends() {
    each_way(|way| {
        serve("six", "[2001:db8:1::1]:8080");
        let web = svc("web").ip("10.96.0.1").ip("2001:db8:96::1").tcp("http", 80);
        let made = slice("web").tcp("http", 8080).at("2001:db8:1::1");
        way.program(&ruleset_of([web.into(), made.into()]));
        assert_eq!(tally("[2001:db8:96::1]:80", 5), BTreeMap::from([("six".to_owned(), 5)]));
        assert_refused("10.96.0.1:80");
        assert_refused("[2001:db8:96::1]:81");
    });
}

#[test]
fn a_portal_without_backends_refuses_and_so_does_a_wrong_port() {
    each_way(|way| {
        way.program(&ruleset_of([svc("none").ip("10.96.0.2").tcp("http", 80).into()]));
        assert_refused("10.96.0.2:80");
        assert_refused("10.96.0.2:81");
    });
}

#[test]
fn udp_is_forwarded_and_refused_like_tcp() {
    each_way(|way| {
        add_address("10.1.0.1");
        let server = UdpSocket::bind("10.1.0.1:5353").expect("bind the backend");
        server.set_read_timeout(Some(ANSWER)).expect("set a time-out");
        let dns = svc("dns").ip("10.96.0.10").udp("dns", 53).udp("none", 54);
        let made = slice("dns").udp("dns", 5353).at("10.1.0.1");
        way.program(&ruleset_of([dns.into(), made.into()]));
        let client = UdpSocket::bind("10.200.0.1:0").expect("bind the client");
        client.connect("10.96.0.10:53").expect("connect");
        client.send(b"query").expect("send");
        let mut buffer = [0; 16];
        let (length, from) = server.recv_from(&mut buffer).expect("the query arrives");
        assert_eq!(&buffer[..length], b"query");
        server.send_to(b"answer", from).expect("answer");
        client.set_read_timeout(Some(ANSWER)).expect("set a time-out");
        let length = client.recv(&mut buffer).expect("the answer comes from the portal's address");
        assert_eq!(&buffer[..length], b"answer");

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
fn policy_local_without_local_endpoints_drops() {
    each_way(|way| {
        serve("remote", "10.1.0.1:8080");
        let near = svc("near").ip("10.96.0.3").tcp("http", 80).internal_local();
        let made = slice("near").tcp("http", 8080).at("10.1.0.1").on("n2");
        way.program(&ruleset_of([near.into(), made.into()]));
        assert_silent("10.96.0.3:80");
    });
}

#[test]
fn a_free_address_of_a_service_range_leads_nowhere() {
    each_way(|way| {
        serve("past", "10.96.7.7:80");
        let range = Change::ServiceRanges(vec!["10.96.0.0/16".parse().expect("a network")]);
        way.program(&ruleset_of([range, svc("web").ip("10.96.0.1").tcp("", 80).into()]));
        assert_silent("10.96.7.7:80");
    });
}

#[test]
fn what_is_no_portal_is_left_alone() {
    each_way(|way| {
        serve("plain", "10.1.0.1:8080");
        way.program(&ruleset_of([svc("web").ip("10.96.0.1").tcp("", 80).into()]));
        assert_eq!(answer("10.1.0.1:8080"), "plain");
    });
}

#[test]
fn only_sources_in_range_use_a_load_balancer_address() {
    let lb = || {
        let lb = svc("lb").ip("10.96.0.4").tcp("http", 80).balanced("192.0.2.4").only_from("10.200.0.0/16");
        [Change::from(lb), slice("lb").tcp("http", 8080).at("10.1.0.1").into()]
    };
    each_way(|way| {
        serve("a", "10.1.0.1:8080");
        way.program(&ruleset_of(lb()));
        assert_eq!(answer("192.0.2.4:80"), "a");
        run_as("10.201.0.1", || assert_silent("192.0.2.4:80"));
        run_as("10.201.0.1", || {
            assert_eq!(answer("10.96.0.4:80"), "a");
        });
    });
}

/// Lets what follows come from another address.
fn run_as(source: &str, body: impl FnOnce()) {
    add_address(source);
    namespace::run("ip", &["route", "replace", "default", "dev", "lo", "src", source], "");
    body();
    namespace::run("ip", &["route", "replace", "default", "dev", "lo", "src", "10.200.0.1"], "");
    namespace::run("ip", &["address", "del", &format!("{source}/32"), "dev", "lo"], "");
}

#[test]
fn a_sticky_client_stays_until_its_backend_goes() {
    each_way(|way| {
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
        way.program(&before);
        let first = tally("10.96.0.5:80", 20);
        assert_eq!(first.len(), 1, "one client, one backend: {first:?}");
        let served = ["a", "b", "c"].iter().position(|name| first.contains_key(*name)).expect("one of three");
        let left: Vec<&str> = all.iter().copied().filter(|address| *address != all[served]).collect();
        way.change(&before, &world(&left));
        let second = tally("10.96.0.5:80", 20);
        assert_eq!(second.len(), 1, "it settles on another: {second:?}");
        assert_ne!(first.keys().next(), second.keys().next());
    });
}

#[test]
fn an_established_connection_outlives_its_portal() {
    each_way(|way| {
        add_address("10.1.0.1");
        let listener = TcpListener::bind("10.1.0.1:8080").expect("listen");
        let web = svc("web").ip("10.96.0.1").tcp("http", 80);
        let before = ruleset_of([web.into(), slice("web").tcp("http", 8080).at("10.1.0.1").into()]);
        way.program(&before);
        let mut client = TcpStream::connect_timeout(&backend("10.96.0.1:80"), ANSWER).expect("connect");
        let (mut server, _) = listener.accept().expect("accept");
        way.change(&before, &ruleset_of([]));
        client.write_all(b"still here").expect("write");
        let mut buffer = [0; 10];
        server.set_read_timeout(Some(ANSWER)).expect("set a time-out");
        server.read_exact(&mut buffer).expect("the bytes arrive after the portal is gone");
        assert_eq!(&buffer, b"still here");
    });
}

#[test]
fn a_relayed_portal_is_redirected_to_the_relays_port() {
    each_way(|way| {
        let port = Settings::default().relay_port;
        let listener = TcpListener::bind(("127.0.0.1", port)).expect("listen as the relay");
        let web = svc("web").ip("10.96.0.1").tcp("http", 80).mode(Mode::Relay);
        way.program(&ruleset_of([web.into(), slice("web").tcp("http", 8080).at("10.1.0.1").into()]));
        TcpStream::connect_timeout(&backend("10.96.0.1:80"), ANSWER).expect("the relay accepts");
        listener.accept().expect("accept");
    });
}

#[test]
fn tracer_and_kernel_agree() {
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
    each_way(|way| {
        serve("web", "10.1.0.1:8080");
        let ruleset = ruleset_of(changes());
        way.program(&ruleset);
        let portals =
            ["10.96.0", "192.0.2"].iter().flat_map(|net| (1..=4).map(move |n| format!("{net}.{n}:80")));
        for portal in portals.chain(["10.96.0.1:81".to_owned(), "10.240.0.5:30080".to_owned()]) {
            let source: Option<IpAddr> = "10.200.0.1".parse().ok();
            let expected = match trace(&ruleset, &Packet { source, destination: tcp(&portal) }, 0) {
                Trace::Forward(_) => Ok("web".to_owned()),
                Trace::Reject | Trace::WrongPort => Err(ErrorKind::ConnectionRefused),
                _ => Err(ErrorKind::TimedOut),
            };
            let patience = if expected == Err(ErrorKind::TimedOut) { SILENCE } else { ANSWER };
            assert_eq!(ask(&portal, patience).map_err(|why| why.kind()), expected, "{portal}");
        }
    });
}

/// Worlds that differ in everything a plan can change.
fn worlds() -> Vec<Ruleset> {
    let many =
        |n: u32, version| cluster(n, 3).chain((0..n).map(move |i| cluster_slice(i, 3, version).into()));
    let range = |net: &str| Change::ServiceRanges(vec![net.parse().expect("a network")]);
    let backends =
        |n: u8| (1..=n).fold(slice("w").tcp("", 80).udp("u", 53), |s, i| s.at(&format!("10.1.0.{i}")));
    let web = || svc("w").ip("10.99.0.1").ip("2001:db8:96::1").tcp("", 80).udp("u", 53);
    let guarded = |net: &str| web().balanced("192.0.2.1").balanced("2001:db8:2::1").only_from(net);
    vec![
        Ruleset::empty(),
        ruleset_of([]),
        ruleset_of([web().into()]),
        ruleset_of([web().into(), backends(3).into()]),
        ruleset_of([web().into(), backends(5).into(), range("10.96.0.0/12")]),
        ruleset_of([web().sticky(60).into(), backends(2).into(), range("2001:db8:96::/64")]),
        ruleset_of([guarded("10.0.0.0/8").only_from("192.168.0.0/16").into(), backends(3).into()]),
        ruleset_of([guarded("10.1.0.0/16").only_from("2001:db8::/32").into(), backends(1).into()]),
        ruleset_of([web().mode(Mode::Relay).port(Protocol::Sctp, "s", 9).into(), backends(4).into()]),
        ruleset_of([web().internal_local().into(), backends(3).into()]),
        ruleset_of(many(30, 0)),
        ruleset_of(many(40, 1)),
        Ruleset::new(&portals_of(many(30, 0)), Settings { nat_priority: -101, ..Settings::default() }),
    ]
}

#[test]
fn a_plan_leads_where_a_fresh_load_leads() {
    let worlds = worlds();
    let fresh: Vec<_> = worlds
        .iter()
        .map(|world| {
            within(|| {
                load(&world.to_string());
                listing()
            })
        })
        .collect();
    for (from, before) in worlds.iter().enumerate() {
        for (to, after) in worlds.iter().enumerate() {
            let planned = within(|| {
                load(&before.to_string());
                load(&plan(before, after).to_string());
                listing()
            });
            assert_eq!(planned, fresh[to], "from world {from} to world {to}:\n{}", plan(before, after));
        }
    }
}

#[test]
fn what_is_applied_is_what_is_read_back() {
    for world in &worlds() {
        within(|| {
            Way::Netlink.program(world);
            let socket = Socket::open().expect("open a netfilter socket");
            assert_eq!(socket.read().expect("read back"), Table::from(world));
        });
    }
}

#[test]
fn a_thousand_services_are_one_transaction_without_any_privilege() {
    // Without privilege over its buffer a socket sends some 400 KB at once, and this is below.
    let world = ruleset_of(cluster(1_000, 3));
    within(|| {
        Way::Netlink.program(&world);
        let socket = Socket::open().expect("open a netfilter socket");
        assert_eq!(socket.read().expect("read back"), Table::from(&world));
    });
}

#[test]
fn a_socket_belongs_to_the_namespace_in_which_it_was_opened() {
    let worlds = worlds();
    // The descriptor keeps the other namespace alive after its thread has ended.
    let other = within(|| File::open("/proc/thread-self/ns/net").expect("open the namespace"));
    within(|| {
        let here = Socket::open().expect("open a socket here");
        let there = Socket::open_in(other.as_fd()).expect("open a socket there");
        there.apply(&encode(&plan(&Ruleset::empty(), &worlds[3]))).expect("apply there");
        assert_eq!(there.read().expect("read there"), Table::from(&worlds[3]));
        assert_eq!(here.read().expect("read here"), Table::default());
        assert!(listing().is_empty());
    });
}

#[test]
fn what_is_no_namespace_cannot_be_entered() {
    let file = File::open("/dev/null").expect("open a file");
    let error = Socket::open_in(file.as_fd()).expect_err("/dev/null is no namespace");
    assert!(matches!(error, Error::Enter(_)), "{error:?}");
}

#[test]
fn nft_reads_the_same_elements_whichever_way_they_came() {
    let elements = |way: Way, world: &Ruleset| {
        within(|| {
            way.program(world);
            let mut entries = listing();
            entries.retain(|entry| ["map", "set"].iter().any(|kind| entry.starts_with(kind)));
            entries
        })
    };
    for world in &worlds()[2..] {
        assert_eq!(elements(Way::Netlink, world), elements(Way::Text, world));
    }
}

#[test]
fn a_netlink_plan_leads_where_it_should_from_any_world_to_any() {
    let worlds = worlds();
    for before in &worlds {
        for after in &worlds {
            within(|| {
                Way::Netlink.program(before);
                Way::Netlink.change(before, after);
                let socket = Socket::open().expect("open a netfilter socket");
                assert_eq!(socket.read().expect("read back"), Table::from(after), "{}", plan(before, after));
            });
        }
    }
}

#[test]
fn a_transaction_that_does_not_fit_changes_nothing_and_names_the_operation() {
    let worlds = worlds();
    let (before, after) = (&worlds[3], &worlds[4]);
    within(|| {
        Way::Netlink.program(before);
        let socket = Socket::open().expect("open a netfilter socket");
        let error = socket.apply(&encode(&plan(after, before))).expect_err("what goes is not there");
        assert!(matches!(error, Error::Refused { op: Some(_), .. }), "{error:?}");
        assert_eq!(socket.read().expect("read back"), Table::from(before));
    });
}

#[test]
fn loading_a_ruleset_twice_leaves_one() {
    let world = &worlds()[6];
    within(|| {
        load(&world.to_string());
        let once = listing();
        load(&world.to_string());
        assert_eq!(listing(), once);
    });
}

#[test]
fn iptables_restore_takes_the_classic_form() {
    let portals = portals_of([
        svc("w").ip("10.96.0.1").ip("2001:db8:96::1").tcp("", 80).udp("u", 53).external("192.0.2.9").into(),
        slice("w").tcp("", 80).udp("u", 53).at("10.1.0.1").at("10.1.0.2").at("2001:db8:1::1").into(),
        svc("none").ip("10.96.0.2").tcp("", 80).udp("u", 53).into(),
        svc("near").ip("10.96.0.3").tcp("", 80).internal_local().into(),
        slice("near").tcp("", 80).at("10.1.0.1").on("n2").into(),
        svc("lb").ip("10.96.0.4").tcp("", 80).balanced("192.0.2.4").only_from("10.9.0.0/16").into(),
        slice("lb").tcp("", 80).at("10.1.0.1").into(),
        svc("sticky").ip("10.96.0.5").tcp("", 80).sticky(60).into(),
        slice("sticky").tcp("", 80).at("10.1.0.1").at("10.1.0.2").into(),
        svc("relayed").ip("10.96.0.6").tcp("", 80).udp("u", 53).mode(Mode::Relay).into(),
        slice("relayed").tcp("", 80).udp("u", 53).at("10.1.0.1").into(),
    ]);
    within(|| {
        for (family, program) in [(Family::V4, "iptables-restore"), (Family::V6, "ip6tables-restore")] {
            namespace::run(program, &["--test"], &Iptables { portals: &portals, family }.to_string());
        }
    });
}

#[test]
fn the_classic_form_forwards_refuses_and_drops() {
    let portals = portals_of([
        svc("w").ip("10.96.0.1").tcp("", 80).into(),
        slice("w").tcp("", 8080).at("10.1.0.1").at("10.1.0.2").into(),
        svc("none").ip("10.96.0.2").tcp("", 80).into(),
        svc("near").ip("10.96.0.3").tcp("", 80).internal_local().into(),
        slice("near").tcp("", 80).at("10.1.0.1").on("n2").into(),
    ]);
    within(|| {
        serve("a", "10.1.0.1:8080");
        serve("b", "10.1.0.2:8080");
        namespace::run(
            "iptables-restore",
            &[],
            &Iptables { portals: &portals, family: Family::V4 }.to_string(),
        );
        assert_eq!(tally("10.96.0.1:80", 60).len(), 2);
        assert_refused("10.96.0.2:80");
        assert_refused("10.96.0.1:81");
        assert_silent("10.96.0.3:80");
    });
}
