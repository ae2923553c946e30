//! Portals for forwarded traffic: a guest behind the pod, such as a virtual machine, has the pod's portals if the pod
//! names the guest's interface.
//!
//! Three network namespaces are connected in a line: guest, pod, backend. The pod has the rules, and the guest opens
//! connections.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::net::{TcpListener, UdpSocket};
use std::os::fd::AsRawFd;

use netns_nft::Netns;
use proxy_core::ruleset::{Ruleset, Settings};
use proxy_core::sample::{slice, svc};
use proxy_core::service::{Mode, Scheduler};
use proxy_core::snapshot::Change;
use test_support::backend_server::{
    REPLY_TIMEOUT, assert_refused, assert_silent, backend_of, serve, try_backend_of,
};
use test_support::namespace::{in_routed_netns, run};
use test_support::ruleset_loader::{ruleset_of, with_each_loader};

/// Creates a network namespace, connected to this one by a veth pair `to-{name}` and `of-{name}`. `net` is the third
/// byte of the addresses: this namespace has .1; the new one has .2 and a default route to .1.
fn connected_netns(name: &str, net: u8) -> Netns {
    let file = in_routed_netns(|| File::open("/proc/thread-self/ns/net").expect("open the namespace"));
    let path = format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd());
    let (here, there) = (format!("to-{name}"), format!("of-{name}"));
    run("ip", &["link", "add", &here, "type", "veth", "peer", "name", &there, "netns", &path], "");
    let addresses = |last: u8| [format!("10.50.{net}.{last}/24"), format!("2001:db8:50:{net}::{last}/64")];
    let start = |device: &str, last: u8| {
        for address in addresses(last) {
            let nodad: &[&str] = if address.contains(':') { &["nodad"] } else { &[] };
            run("ip", &[&["address", "add", &address, "dev", device], nodad].concat(), "");
        }
        run("ip", &["link", "set", device, "up"], "");
    };
    start(&here, 1);
    let netns = Netns::from_fd(file.into()).expect("a namespace");
    let configure = || {
        start(&there, 2);
        run("ip", &["route", "replace", "default", "via", &format!("10.50.{net}.1")], "");
        run("ip", &["-6", "route", "replace", "default", "via", &format!("2001:db8:50:{net}::1")], "");
    };
    netns.within(configure).expect("enter the new namespace");
    netns
}

/// Enables forwarding in this namespace, between a guest and the backends 10.1.0.1 and 2001:db8:1::1.
fn guest_and_backends() -> (Netns, Netns) {
    for key in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
        fs::write(format!("/proc/sys/net/{key}"), "1").expect("let this namespace forward");
    }
    let (guest, backend) = (connected_netns("guest", 1), connected_netns("backend", 2));
    run("ip", &["route", "add", "10.1.0.0/16", "via", "10.50.2.2"], "");
    // Every namespace has 10.200.0.1.
    run("ip", &["route", "replace", "default", "dev", "lo", "src", "10.50.2.1"], "");
    run("ip", &["-6", "route", "add", "2001:db8:1::/64", "via", "2001:db8:50:2::2"], "");
    let serving = || {
        serve("backend", "10.1.0.1:8080");
        serve("six", "[2001:db8:1::1]:8080");
        serve("bypass", "10.96.0.77:80");
    };
    backend.within(serving).expect("enter the backend's namespace");
    (guest, backend)
}

fn forwarding_ruleset() -> Ruleset {
    let made = |name: &str| slice(name).tcp("", 8080).at("10.1.0.1");
    ruleset_of([
        Change::ServiceRanges(vec!["10.96.0.0/16".parse().expect("a network")]),
        svc("web").ip("10.96.0.1").ip("2001:db8:96::1").tcp("", 80).into(),
        made("web").at("2001:db8:1::1").into(),
        svc("none").ip("10.96.0.2").ip("2001:db8:96::2").tcp("", 80).udp("dns", 53).into(),
        svc("sticky").ip("10.96.0.3").tcp("", 80).sticky(60).into(),
        made("sticky").into(),
        svc("near").ip("10.96.0.4").tcp("", 80).internal_local().into(),
        made("near").on("n2").into(),
        svc("turn").ip("10.96.0.5").tcp("", 80).scheduler(Scheduler::RoundRobin).into(),
        made("turn").at("10.1.0.9").into(),
        svc("relayed").ip("10.96.0.6").tcp("", 80).mode(Mode::Relay).into(),
        made("relayed").into(),
        svc("lb").ip("10.96.0.7").tcp("", 80).balanced("192.0.2.7").only_from("10.50.1.0/24").into(),
        made("lb").into(),
        svc("barred").ip("10.96.0.8").tcp("", 80).balanced("192.0.2.8").only_from("10.9.0.0/16").into(),
        made("barred").into(),
    ])
}

#[test]
fn guest_reaches_backends_through_the_portals_of_its_pod() {
    with_each_loader(|loader| {
        let (guest, _backend) = guest_and_backends();
        loader.program_with_guests(&forwarding_ruleset(), "to-gue*");
        let asking = || {
            for (portal, name) in [
                ("10.96.0.1:80", "backend"),
                ("[2001:db8:96::1]:80", "six"),
                ("10.96.0.3:80", "backend"),
                ("10.96.0.3:80", "backend"),
                ("10.96.0.5:80", "backend"),
                ("10.96.0.7:80", "backend"),
                ("192.0.2.7:80", "backend"),
                ("10.1.0.1:8080", "backend"),
            ] {
                assert_eq!(backend_of(portal), name, "{portal}");
            }
        };
        guest.within(asking).expect("enter the guest");
        assert_eq!(backend_of("10.96.0.1:80"), "backend", "the pod reaches the backend, too");
    });
}

#[test]
fn guest_is_rejected_and_dropped_like_its_pod() {
    with_each_loader(|loader| {
        let (guest, _backend) = guest_and_backends();
        loader.program_with_guests(&forwarding_ruleset(), "to-gue*");
        let asking = || {
            for portal in ["10.96.0.2:80", "[2001:db8:96::2]:80", "10.96.0.1:81", "[2001:db8:96::1]:81"] {
                assert_refused(portal);
            }
            for portal in ["10.96.0.4:80", "192.0.2.8:80", "10.96.0.77:80"] {
                assert_silent(portal);
            }
            for (own, portal) in [("0.0.0.0:0", "10.96.0.2:53"), ("[::]:0", "[2001:db8:96::2]:53")] {
                let client = UdpSocket::bind(own).expect("bind the client");
                client.connect(portal).expect("connect");
                client.set_read_timeout(Some(REPLY_TIMEOUT)).expect("set a time-out");
                client.send(b"query").expect("send");
                let refused = client.recv(&mut [0; 8]).expect_err("the datagram is rejected");
                assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "{portal}");
            }
        };
        guest.within(asking).expect("enter the guest");
    });
}

#[test]
fn connection_of_a_guest_is_redirected_to_the_relay_at_the_address_of_the_pod() {
    with_each_loader(|loader| {
        let (guest, _backend) = guest_and_backends();
        loader.program_with_guests(&forwarding_ruleset(), "to-gue*");
        // Redirected packets of a guest go to the address of their ingress device, not to loopback.
        let relay =
            TcpListener::bind(("0.0.0.0", Settings::default().relay_port)).expect("listen as the relay");
        std::thread::scope(|scope| {
            scope.spawn(|| {
                guest.within(|| try_backend_of("10.96.0.6:80", REPLY_TIMEOUT)).expect("enter the guest")
            });
            let (connection, client) = relay.accept().expect("accept");
            assert_eq!(client.ip().to_string(), "10.50.1.2");
            assert_eq!(connection.local_addr().expect("an address").ip().to_string(), "10.50.1.1");
        });
    });
}
