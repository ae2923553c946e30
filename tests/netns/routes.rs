//! Routes to services, without which the kernel does not translate locally generated packets.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use netns_nft::{Error, add_service_routes, has_route};
use proxy_core::ruleset::Ruleset;
use proxy_core::sample::{backend, slice, svc};
use test_support::namespace::{add_address_to, in_routed_netns, run};
use test_support::pod::Pod;
use test_support::ruleset_loader::ruleset_of;

const REPLY_TIMEOUT: Duration = Duration::from_secs(10);
const PORTAL: &str = "10.96.0.1:80";
const PORTAL6: &str = "[2001:db8:96::1]:80";
const BACKEND: &str = "10.1.0.1:8080";
const BACKEND6: &str = "[2001:db8:1::1]:8080";
const POD: &str = "10.1.0.2";
const POD6: &str = "2001:db8:1::2";

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn ranges() -> Vec<IpNet> {
    ["10.96.0.0/12", "2001:db8:96::/108"].map(|net| net.parse().expect("a network")).to_vec()
}

/// Routes both ranges over this interface.
fn route(pod: &Pod, interface: &str) -> Vec<IpNet> {
    add_service_routes(&pod.netns, interface, &[address(POD), address(POD6)], &ranges()).expect("add routes")
}

/// Assigns the backends' addresses to `outer` in this namespace, and the pod's to `inner` in the pod.
fn address_both(pod: &Pod, outer: &str, inner: &str) {
    for address in ["10.1.0.1/24", "2001:db8:1::1/64"] {
        add_address_to(outer, address);
    }
    for address in ["10.1.0.2/24", "2001:db8:1::2/64"] {
        pod.within(|| add_address_to(inner, address));
    }
}

fn program(pod: &Pod) {
    let web = svc("web").ip("10.96.0.1").ip("2001:db8:96::1").tcp("", 80);
    let made = slice("web").tcp("", 8080).at("10.1.0.1").at("2001:db8:1::1");
    pod.change(&Ruleset::empty(), &ruleset_of([web.into(), made.into()]));
}

/// A pod with portals, connected to the backends by a veth pair, without another route.
fn programmed_pod() -> Pod {
    let pod = Pod::new();
    pod.wire("outer", "net1");
    address_both(&pod, "outer", "net1");
    program(&pod);
    pod
}

/// Returns the source address that a backend sees of a connection to the portal.
fn source_seen_by(pod: &Pod, listener: &TcpListener, portal: &str) -> io::Result<IpAddr> {
    let stream = pod.within(|| TcpStream::connect_timeout(&backend(portal), REPLY_TIMEOUT))?;
    let (_, from) = listener.accept()?;
    assert_eq!(stream.local_addr()?.ip(), from.ip());
    Ok(from.ip())
}

/// Asserts that both portals are reachable, and that the backends see the addresses of the pod.
fn assert_reached(pod: &Pod) {
    for (listen, portal, from) in [(BACKEND, PORTAL, POD), (BACKEND6, PORTAL6, POD6)] {
        let listener = TcpListener::bind(listen).expect("listen");
        let seen = source_seen_by(pod, &listener, portal).unwrap_or_else(|why| panic!("{portal}: {why}"));
        assert_eq!(seen, address(from), "{portal}");
    }
}

#[test]
fn added_routes_let_a_pod_reach_services() {
    in_routed_netns(|| {
        let pod = programmed_pod();
        for portal in [PORTAL, PORTAL6] {
            let connect = || TcpStream::connect_timeout(&backend(portal), REPLY_TIMEOUT);
            let kind = pod.within(connect).expect_err("there is no route").kind();
            assert_eq!(kind, ErrorKind::NetworkUnreachable, "{portal}");
            assert!(!has_route(&pod.netns, backend(portal).ip()).expect("look up"), "{portal}");
        }
        assert_eq!(route(&pod, "net1"), ranges());
        for portal in [PORTAL, PORTAL6] {
            assert!(has_route(&pod.netns, backend(portal).ip()).expect("look up"), "{portal}");
        }
        assert_reached(&pod);
    });
}

#[test]
fn adding_routes_again_changes_nothing() {
    in_routed_netns(|| {
        let pod = programmed_pod();
        assert_eq!(route(&pod, "net1"), ranges());
        let routes = pod.ip(&["route"]);
        assert!(routes.contains("10.96.0.0/12 dev net1 proto static scope link src 10.1.0.2"), "{routes}");
        assert_eq!(route(&pod, "net1"), []);
        assert_eq!(pod.ip(&["route"]), routes);
    });
}

#[test]
fn pod_with_a_default_route_is_unchanged() {
    in_routed_netns(|| {
        let pod = programmed_pod();
        pod.ip(&["route", "add", "default", "via", "10.1.0.1"]);
        pod.ip(&["-6", "route", "add", "default", "via", "2001:db8:1::1"]);
        assert_eq!(route(&pod, "net1"), []);
        assert_reached(&pod);
    });
}

#[test]
fn route_over_another_interface_is_unchanged() {
    in_routed_netns(|| {
        let pod = programmed_pod();
        pod.wire("other", "eth0");
        pod.ip(&["address", "add", "10.2.0.2/24", "dev", "eth0"]);
        pod.ip(&["route", "add", "10.0.0.0/8", "dev", "eth0"]);
        assert_eq!(route(&pod, "net1"), [ranges()[1]]);
        assert!(!pod.ip(&["route"]).contains("10.96.0.0/12"));
    });
}

#[test]
fn routes_use_the_named_interface_of_two() {
    in_routed_netns(|| {
        let pod = programmed_pod();
        pod.wire("other", "eth0");
        pod.ip(&["address", "add", "10.2.0.2/24", "dev", "eth0"]);
        assert_eq!(route(&pod, "net1"), ranges());
        assert_reached(&pod);
    });
}

#[test]
fn partly_routed_range_gets_a_route_for_the_rest() {
    in_routed_netns(|| {
        let pod = programmed_pod();
        pod.ip(&["route", "add", "10.96.0.0/16", "dev", "net1"]);
        assert_eq!(route(&pod, "net1"), ranges());
    });
}

#[test]
fn unreachable_route_counts_as_missing() {
    in_routed_netns(|| {
        for kind in ["unreachable", "blackhole", "prohibit"] {
            let pod = Pod::new();
            pod.wire(kind, "net1");
            pod.within(|| ["10.1.0.2/24", "2001:db8:1::2/64"].map(|own| add_address_to("net1", own)));
            pod.ip(&["route", "add", kind, "default"]);
            pod.ip(&["-6", "route", "add", kind, "default", "metric", "1"]);
            assert_eq!(route(&pod, "net1"), ranges(), "{kind}");
            assert_eq!(route(&pod, "net1"), [], "{kind}");
        }
    });
}

#[test]
fn macvlan_pod_reaches_services() {
    in_routed_netns(|| {
        let pod = Pod::new();
        run("ip", &["link", "add", "lower", "type", "veth", "peer", "name", "outer"], "");
        run("ip", &["link", "set", "lower", "up"], "");
        run("ip", &["link", "set", "outer", "up"], "");
        let macvlan = ["type", "macvlan", "mode", "bridge"];
        let add = ["link", "add", "link", "lower", "name", "net1", "netns", &pod.path()];
        run("ip", &[&add[..], &macvlan].concat(), "");
        pod.ip(&["link", "set", "net1", "up"]);
        address_both(&pod, "outer", "net1");
        program(&pod);
        assert_eq!(route(&pod, "net1"), ranges());
        assert_reached(&pod);
    });
}

#[test]
fn family_without_an_address_gets_no_route() {
    in_routed_netns(|| {
        let pod = programmed_pod();
        let added = add_service_routes(&pod.netns, "net1", &[address(POD)], &ranges()).expect("add routes");
        assert_eq!(added, [ranges()[0]]);
    });
}

#[test]
fn global_source_address_is_preferred_to_link_local() {
    in_routed_netns(|| {
        let pod = programmed_pod();
        let local = pod.ip(&["-6", "address", "show", "dev", "net1", "scope", "link"]);
        let local = local.split_whitespace().find_map(|word| word.strip_suffix("/64")).expect("fe80");
        let addresses = [address(local), address(POD6)];
        add_service_routes(&pod.netns, "net1", &addresses, &ranges()).expect("add routes");
        let routes = pod.ip(&["-6", "route"]);
        assert!(routes.contains("2001:db8:96::/108 dev net1 proto static src 2001:db8:1::2"), "{routes}");
    });
}

/// Replaces the pod's IPv6 address with this one, which the kernel checks for duplicates.
fn replace_address(pod: &Pod, address: &str) {
    pod.ip(&["address", "del", "2001:db8:1::2/64", "dev", "net1"]);
    pod.ip(&["address", "add", address, "dev", "net1"]);
    assert!(pod.ip(&["address"]).contains("tentative"));
}

/// Waits for the end of duplicate address detection.
fn await_check(pod: &Pod, is_over: impl Fn(&str) -> bool) {
    let start = Instant::now();
    while !is_over(&pod.ip(&["address"])) {
        assert!(start.elapsed() < REPLY_TIMEOUT, "duplicate address detection takes a second");
    }
}

#[test]
fn tentative_address_becomes_the_source_after_its_check() {
    in_routed_netns(|| {
        let pod = programmed_pod();
        replace_address(&pod, "2001:db8:1::2/64");
        assert_eq!(route(&pod, "net1"), ranges());
        await_check(&pod, |addresses| !addresses.contains("tentative"));
        assert_reached(&pod);
    });
}

#[test]
fn duplicate_address_does_not_prevent_routes() {
    in_routed_netns(|| {
        let pod = programmed_pod();
        replace_address(&pod, "2001:db8:1::1/64");
        await_check(&pod, |addresses| addresses.contains("dadfailed"));
        let addresses = [address(POD), address("2001:db8:1::1")];
        let added = add_service_routes(&pod.netns, "net1", &addresses, &ranges());
        assert_eq!(added.expect("add routes"), ranges());
    });
}

#[test]
fn error_of_a_route_names_its_cause() {
    in_routed_netns(|| {
        let pod = programmed_pod();
        let refusal = |interface: &str, from: &str| {
            let refused = add_service_routes(&pod.netns, interface, &[address(from)], &ranges());
            refused.expect_err("the route cannot be added")
        };
        let missing = refusal("net7", POD);
        assert!(matches!(missing, Error::NoInterface { .. }), "{missing:?}");
        assert_eq!(missing.to_string(), "interface net7 not found");
        let foreign = refusal("net1", "10.9.9.9");
        assert_eq!(foreign.to_string(), "failed to add route to 10.96.0.0/12 dev net1 src 10.9.9.9");
        pod.ip(&["link", "set", "net1", "down"]);
        let down = refusal("net1", POD);
        assert!(matches!(&down, Error::AddRoute { source, .. } if source.kind() == ErrorKind::NetworkDown));
        assert!([missing, foreign, down].iter().all(|error| !error.is_transient()));
    });
}
