//! Who comes to the relay by a way that is no portal, and backends that would lead back to it.

use std::io::ErrorKind;
use std::net::{TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use netns_nft::{encode, encode_fresh};
use proxy_core::plan::plan;
use proxy_core::ruleset::{Ruleset, Settings};
use proxy_core::sample::{slice, svc, tcp};
use proxy_core::service::Mode;
use proxy_core::snapshot::Change;
use test_support::conversation::{SILENCE, answer, assert_refused, serve};
use test_support::pod;
use test_support::relayed::{POD, POD6, Relayed, eventually, leads, relayed, web};
use test_support::way;

const PORTAL: &str = "10.96.0.1:80";
const OWN: [&str; 4] = ["127.0.0.1:15999", "10.244.0.2:15999", "[::1]:15999", "[2001:db8:244::2]:15999"];

fn strangers(world: &Relayed) -> u64 {
    world.relay.report(Instant::now()).unmatched
}

#[test]
fn who_calls_the_relays_own_port_is_refused_by_the_kernel() {
    relayed(leads(web("10.96.0.1"), &["10.1.0.1"]), |world| {
        assert!(OWN[1].starts_with(POD) && OWN[3].contains(POD6));
        for own in OWN {
            world.within(|| {
                assert_refused(own);
                let any = if own.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" };
                let client = UdpSocket::bind(any).expect("bind");
                client.connect(own).expect("connect");
                client.set_read_timeout(Some(SILENCE)).expect("set a time-out");
                let outcome = client.send(b"?").and_then(|_| client.recv(&mut [0]));
                let refusal = outcome.expect_err("nobody takes it").kind();
                let is_refused =
                    matches!(refusal, ErrorKind::ConnectionRefused | ErrorKind::PermissionDenied);
                assert!(is_refused, "{own}: {refusal:?}");
            });
        }
        let report = world.relay.report(Instant::now());
        assert!(report.namespaces.is_empty(), "nothing was dialled: {report:?}");
        assert_eq!((strangers(world), world.connections()), (0, 0), "and the relay never saw them");
        assert!(world.used.lock().expect("no panic").try_recv().is_err(), "and nobody needs to know");
    });
}

#[test]
fn where_nothing_is_translated_who_comes_is_a_stranger_too() {
    relayed(leads(web("10.96.0.1"), &["10.1.0.1"]), |world| {
        let all = Ruleset::new(&way::portals_of(leads(web("10.96.0.1"), &["10.1.0.1"])), Default::default());
        world
            .pod
            .netns
            .socket()
            .expect("a socket")
            .apply(&encode(&plan(&all, &Ruleset::empty())))
            .expect("apply");
        assert_eq!(world.outcome(OWN[0]), Err(ErrorKind::ConnectionReset));
        assert_eq!(strangers(world), 1);
    });
}

fn range() -> Change {
    Change::ServiceRanges(vec!["10.96.0.0/16".parse().expect("a network")])
}

#[test]
fn a_backend_that_is_a_portal_or_in_the_service_range_is_not_dialled() {
    let [web, webs] = leads(web("10.96.0.1").external("192.0.2.9"), &["10.96.0.2", "10.96.7.7"]);
    // Backends that are portals themselves, outside the range.
    let other = svc("other").ip("10.97.0.1").external("192.0.2.8").tcp("http", 8080).mode(Mode::Relay);
    let to_web = slice("other").tcp("http", 80).at("192.0.2.9");
    let third = svc("third").ip("10.97.0.2").tcp("http", 80).mode(Mode::Relay);
    let to_other = slice("third").tcp("http", 8080).at("192.0.2.8");
    let changes = [range(), web, webs, other.into(), to_web.into(), third.into(), to_other.into()];
    relayed(changes, |world| {
        for portal in [PORTAL, "10.97.0.1:8080", "10.97.0.2:80"] {
            assert_eq!(world.outcome(portal), Err(ErrorKind::ConnectionReset), "{portal}");
            let report = world.report(tcp(portal));
            assert_eq!((report.totals.connections, report.totals.failed), (1, 1), "{report:?}");
        }
    });
}

#[test]
fn beside_a_backend_in_the_service_range_the_others_serve() {
    let [web, webs] = leads(web("10.96.0.1"), &["10.96.0.2", "10.1.0.1"]);
    relayed([range(), web, webs], |world| {
        serve("a", "10.1.0.1:8080");
        let names: Vec<String> = world.within(|| (0..10).map(|_| answer(PORTAL)).collect());
        assert!(names.iter().all(|name| name == "a"), "{names:?}");
    });
}

#[test]
fn what_is_used_on_demand_is_told_now_and_then_and_what_is_nobodys_never() {
    let web = svc("web").ip("10.96.0.1").tcp("http", 80);
    let backends = slice("web").tcp("http", 8080).at("10.1.0.1");
    let changes = [range(), web.into(), backends.into()];
    relayed(changes.clone(), |world| {
        serve("a", "10.1.0.1:8080");
        let settings = Settings { on_demand: true, ..Settings::default() };
        let table = Ruleset::new(&way::portals_of(changes), settings);
        world.pod.netns.socket().expect("a socket").apply(&encode_fresh(&table)).expect("apply");
        let told = || std::iter::from_fn(|| world.used.lock().expect("no panic").try_recv().ok()).count();
        for _ in 0..10 {
            assert_eq!(world.outcome("10.96.9.9:80"), Err(ErrorKind::ConnectionReset));
        }
        assert_eq!(told(), 0, "nobody's address");
        let start = Instant::now();
        (0..100).for_each(|_| assert_eq!(world.within(|| answer("10.96.0.1:80")), "a"));
        let most = start.elapsed().as_millis() / 100 + 1;
        let told = told();
        assert!((1..=most).contains(&(told as u128)), "{told} of at most {most}");
    });
}

#[test]
fn a_pod_without_ipv6_is_relayed_by_ipv4() {
    relayed([], |world| {
        serve("a", "10.1.0.1:8080");
        let off = |netns: &pod::Pod| {
            let path = "/proc/sys/net/ipv6/conf/all/disable_ipv6";
            netns.within(|| std::fs::write(path, "1")).expect("turn IPv6 off");
        };
        // Before the relay listens there.
        world.relay.close_netns(world.pod.netns.id());
        off(&world.pod);
        let opened = || {
            world.relay.open_netns(&world.pod.netns, &proxy_core::portal::ServiceFilter::All, false).is_ok()
        };
        eventually("it listens again", opened);
        world.show(leads(web("10.96.0.1"), &["10.1.0.1"]));
        assert_eq!(world.within(|| answer(PORTAL)), "a");
        let client = world.within(|| {
            TcpStream::connect_timeout(&"[::1]:15999".parse().expect("an address"), Duration::from_secs(5))
        });
        assert!(client.is_err(), "IPv6 is off");
    });
}
