//! Connections to the relay that match no portal, and backends that would lead back to it.

use std::io::ErrorKind;
use std::net::{TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use netns_nft::{encode, encode_fresh};
use proxy_core::plan::plan;
use proxy_core::ruleset::{Ruleset, Settings};
use proxy_core::sample::{slice, svc, tcp};
use proxy_core::service::Mode;
use proxy_core::snapshot::Change;
use test_support::backend_server::{DROP_TIMEOUT, assert_refused, backend_of, serve};
use test_support::eventually::eventually;
use test_support::pod;
use test_support::relay_fixture::{POD, POD6, RelayFixture, relayed_service, web_service, with_relay};
use test_support::ruleset_loader;

const PORTAL: &str = "10.96.0.1:80";
const OWN: [&str; 4] = ["127.0.0.1:15999", "10.244.0.2:15999", "[::1]:15999", "[2001:db8:244::2]:15999"];

fn unmatched(fixture: &RelayFixture) -> u64 {
    fixture.relay.report(Instant::now()).unmatched
}

#[test]
fn connections_to_the_relay_port_are_rejected_by_the_kernel() {
    with_relay(relayed_service(web_service("10.96.0.1"), &["10.1.0.1"]), |fixture| {
        assert!(OWN[1].starts_with(POD) && OWN[3].contains(POD6));
        for own in OWN {
            fixture.within(|| {
                assert_refused(own);
                let any = if own.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" };
                let client = UdpSocket::bind(any).expect("bind");
                client.connect(own).expect("connect");
                client.set_read_timeout(Some(DROP_TIMEOUT)).expect("set a time-out");
                let outcome = client.send(b"?").and_then(|_| client.recv(&mut [0]));
                let refusal = outcome.expect_err("it is rejected").kind();
                let is_refused =
                    matches!(refusal, ErrorKind::ConnectionRefused | ErrorKind::PermissionDenied);
                assert!(is_refused, "{own}: {refusal:?}");
            });
        }
        let report = fixture.relay.report(Instant::now());
        assert!(report.namespaces.is_empty(), "no backend was dialled: {report:?}");
        assert_eq!((unmatched(fixture), fixture.connections()), (0, 0), "the relay received no connection");
        assert!(fixture.used.lock().expect("no panic").try_recv().is_err(), "no use is reported");
    });
}

#[test]
fn untranslated_connection_is_unmatched() {
    with_relay(relayed_service(web_service("10.96.0.1"), &["10.1.0.1"]), |fixture| {
        let all = Ruleset::new(
            &ruleset_loader::portals_of(relayed_service(web_service("10.96.0.1"), &["10.1.0.1"])),
            Default::default(),
        );
        fixture
            .pod
            .netns
            .socket()
            .expect("a socket")
            .apply(&encode(&plan(&all, &Ruleset::empty())))
            .expect("apply");
        assert_eq!(fixture.connect_outcome(OWN[0]), Err(ErrorKind::ConnectionReset));
        assert_eq!(unmatched(fixture), 1);
    });
}

fn range() -> Change {
    Change::ServiceRanges(vec!["10.96.0.0/16".parse().expect("a network")])
}

#[test]
fn backend_that_is_a_portal_or_in_a_service_range_is_not_dialled() {
    let [web, webs] =
        relayed_service(web_service("10.96.0.1").external("192.0.2.9"), &["10.96.0.2", "10.96.7.7"]);
    // Backends that are portals themselves, outside the service range.
    let other = svc("other").ip("10.97.0.1").external("192.0.2.8").tcp("http", 8080).mode(Mode::Relay);
    let to_web = slice("other").tcp("http", 80).at("192.0.2.9");
    let third = svc("third").ip("10.97.0.2").tcp("http", 80).mode(Mode::Relay);
    let to_other = slice("third").tcp("http", 8080).at("192.0.2.8");
    let changes = [range(), web, webs, other.into(), to_web.into(), third.into(), to_other.into()];
    with_relay(changes, |fixture| {
        for portal in [PORTAL, "10.97.0.1:8080", "10.97.0.2:80"] {
            assert_eq!(fixture.connect_outcome(portal), Err(ErrorKind::ConnectionReset), "{portal}");
            let report = fixture.report(tcp(portal));
            assert_eq!((report.totals.connections, report.totals.failed), (1, 1), "{report:?}");
        }
    });
}

#[test]
fn other_backends_serve_if_one_is_in_a_service_range() {
    let [web, webs] = relayed_service(web_service("10.96.0.1"), &["10.96.0.2", "10.1.0.1"]);
    with_relay([range(), web, webs], |fixture| {
        serve("a", "10.1.0.1:8080");
        let names: Vec<String> = fixture.within(|| (0..10).map(|_| backend_of(PORTAL)).collect());
        assert!(names.iter().all(|name| name == "a"), "{names:?}");
    });
}

#[test]
fn on_demand_use_is_reported_at_intervals_and_unassigned_addresses_never() {
    let web = svc("web").ip("10.96.0.1").tcp("http", 80);
    let backends = slice("web").tcp("http", 8080).at("10.1.0.1");
    let changes = [range(), web.into(), backends.into()];
    with_relay(changes.clone(), |fixture| {
        serve("a", "10.1.0.1:8080");
        let settings = Settings { on_demand: true, ..Settings::default() };
        let table = Ruleset::new(&ruleset_loader::portals_of(changes), settings);
        fixture.pod.netns.socket().expect("a socket").apply(&encode_fresh(&table)).expect("apply");
        let uses = || std::iter::from_fn(|| fixture.used.lock().expect("no panic").try_recv().ok()).count();
        for _ in 0..10 {
            assert_eq!(fixture.connect_outcome("10.96.9.9:80"), Err(ErrorKind::ConnectionReset));
        }
        assert_eq!(uses(), 0, "the address is unassigned");
        let start = Instant::now();
        (0..100).for_each(|_| assert_eq!(fixture.within(|| backend_of("10.96.0.1:80")), "a"));
        let most = start.elapsed().as_millis() / 100 + 1;
        let uses = uses();
        assert!((1..=most).contains(&(uses as u128)), "{uses} of at most {most}");
    });
}

#[test]
fn pod_without_ipv6_is_relayed_over_ipv4() {
    with_relay([], |fixture| {
        serve("a", "10.1.0.1:8080");
        let off = |netns: &pod::Pod| {
            let path = "/proc/sys/net/ipv6/conf/all/disable_ipv6";
            netns.within(|| std::fs::write(path, "1")).expect("turn IPv6 off");
        };
        // IPv6 is turned off before the relay listens.
        fixture.relay.close_netns(fixture.pod.netns.id());
        off(&fixture.pod);
        let opened = || {
            fixture
                .relay
                .open_netns(&fixture.pod.netns, &proxy_core::portal::ServiceFilter::All, false)
                .is_ok()
        };
        eventually("the relay listens again", opened);
        fixture.set_services(relayed_service(web_service("10.96.0.1"), &["10.1.0.1"]));
        assert_eq!(fixture.within(|| backend_of(PORTAL)), "a");
        let client = fixture.within(|| {
            TcpStream::connect_timeout(&"[::1]:15999".parse().expect("an address"), Duration::from_secs(5))
        });
        assert!(client.is_err(), "IPv6 is off");
    });
}
