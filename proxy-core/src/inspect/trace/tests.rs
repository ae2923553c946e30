//! Packets of a pod: each rule of the specification, shown by one packet.
//!
//! The pod is 10.1.0.99 on node `n1` in zone `a` with address 10.240.0.5. The expected results are those of kube-proxy
//! for a connection of a pod.

use std::collections::BTreeSet;

use super::*;
use crate::model::endpoint::EndpointSlice;
use crate::model::service::{Mode, Protocol, Service, ServiceKey};
use crate::model::snapshot::Change;
use crate::routing::portal::{NodeContext, ServiceFilter, portals};
use crate::ruleset::Settings;
use crate::sample::{backend, ip, node_context, slice, snapshot, svc, tcp, udp};

/// More than the number of backends in any test, and a multiple of most.
const DRAWS: u32 = 60;

fn ruleset_on(changes: impl IntoIterator<Item = Change>, node_context: &NodeContext) -> Ruleset {
    Ruleset::new(&portals(&snapshot(changes), node_context), Settings::default())
}

fn ruleset_of(changes: impl IntoIterator<Item = Change>) -> Ruleset {
    ruleset_on(changes, &node_context())
}

fn service_rules(service: Service, slice: EndpointSlice) -> Ruleset {
    ruleset_of([service.into(), slice.into()])
}

fn trace_from(source: &str, ruleset: &Ruleset, destination: PortalKey) -> Trace {
    trace(ruleset, &Packet::sent(Some(ip(source)), destination), 0)
}

fn trace_from_pod(ruleset: &Ruleset, destination: PortalKey) -> Trace {
    trace_from("10.1.0.99", ruleset, destination)
}

fn sctp(text: &str) -> PortalKey {
    PortalKey { protocol: Protocol::Sctp, ..tcp(text) }
}

fn forward(text: &str) -> Trace {
    Trace::Forward(backend(text))
}

/// Returns the backends over all draws, sorted.
fn possible_backends(ruleset: &Ruleset, destination: PortalKey) -> Vec<String> {
    let packet = Packet::sent(Some(ip("10.1.0.99")), destination);
    let traces = (0..DRAWS).map(|draw| trace(ruleset, &packet, draw));
    let found: BTreeSet<SocketAddr> = traces
        .map(|found| match found {
            Trace::Forward(backend) => backend,
            other => panic!("{destination:?} is not forwarded: {other:?}"),
        })
        .collect();
    found.iter().map(ToString::to_string).collect()
}

/// A service with an address of each of the four kinds.
fn four_kinds() -> Service {
    svc("s").ip("10.96.0.1").tcp("", 80).node_port(30080).external("192.0.2.1").balanced("192.0.2.2")
}

const CLUSTER_IP: &str = "10.96.0.1:80";
const FOUR_KINDS: [&str; 4] = [CLUSTER_IP, "192.0.2.1:80", "192.0.2.2:80", "10.240.0.5:30080"];

#[test]
fn connection_to_a_portal_reaches_its_endpoint() {
    let rules = service_rules(
        svc("db").ip("10.96.0.7").tcp("sql", 5432),
        slice("db").tcp("sql", 15432).at("10.1.0.9"),
    );
    assert_eq!(trace_from_pod(&rules, tcp("10.96.0.7:5432")), forward("10.1.0.9:15432"));
}

#[test]
fn every_backend_is_drawn_equally_often() {
    let slice = slice("s").tcp("", 80).at("10.1.0.1").at("10.1.0.2").at("10.1.0.3");
    let rules = service_rules(svc("s").ip("10.96.0.1").tcp("", 80), slice);
    let packet = Packet::sent(None, tcp(CLUSTER_IP));
    let drawn: Vec<Trace> = (0..30).map(|draw| trace(&rules, &packet, draw)).collect();
    for octet in 1..=3 {
        let own = forward(&format!("10.1.0.{octet}:80"));
        assert_eq!(drawn.iter().filter(|found| **found == own).count(), 10);
    }
}

#[test]
fn headless_service_has_no_portal() {
    let rules =
        service_rules(svc("s").tcp("", 80).external("192.0.2.1"), slice("s").tcp("", 80).at("10.1.0.1"));
    assert_eq!(rules.rules().count(), 0);
    assert_eq!(trace_from_pod(&rules, tcp("192.0.2.1:80")), Trace::Pass);
}

#[test]
fn service_of_another_proxy_has_no_portal() {
    let mut service = four_kinds();
    service.has_portals = false;
    let rules = service_rules(service, slice("s").tcp("", 80).at("10.1.0.1"));
    for destination in FOUR_KINDS {
        assert_eq!(trace_from_pod(&rules, tcp(destination)), Trace::Pass, "{destination}");
    }
}

#[test]
fn each_family_of_a_dual_stack_service_reaches_its_own_endpoints() {
    let rules = ruleset_of([
        svc("s").ip("10.96.0.1").ip("fd00::1").tcp("", 80).into(),
        slice("s").named("four").tcp("", 80).at("10.1.0.1").into(),
        slice("s").named("six").tcp("", 80).at("fd01::1").into(),
    ]);
    assert_eq!(possible_backends(&rules, tcp(CLUSTER_IP)), ["10.1.0.1:80"]);
    assert_eq!(possible_backends(&rules, tcp("[fd00::1]:80")), ["[fd01::1]:80"]);
}

#[test]
fn only_the_family_without_endpoints_is_rejected() {
    let service = svc("s").ip("10.96.0.1").ip("fd00::1").tcp("", 80);
    let rules = service_rules(service, slice("s").tcp("", 80).at("10.1.0.1"));
    assert_eq!(trace_from_pod(&rules, tcp(CLUSTER_IP)), forward("10.1.0.1:80"));
    assert_eq!(trace_from_pod(&rules, tcp("[fd00::1]:80")), Trace::Reject);
}

#[test]
fn service_of_one_family_has_no_portal_in_the_other() {
    let service = svc("s").ip("10.96.0.1").tcp("", 80).node_port(30080).external("2001:db8::1");
    let rules =
        service_rules(service.balanced("2001:db8::2"), slice("s").tcp("", 80).at("10.1.0.1").at("fd01::1"));
    for destination in ["[2001:db8::1]:80", "[2001:db8::2]:80", "[2001:db8:f::5]:30080"] {
        assert_eq!(trace_from_pod(&rules, tcp(destination)), Trace::Pass, "{destination}");
    }
    assert_eq!(possible_backends(&rules, tcp(CLUSTER_IP)), ["10.1.0.1:80"]);
}

#[test]
fn three_protocols_on_one_port_are_three_portals() {
    let service = svc("s").ip("10.96.0.1").tcp("t", 80).udp("u", 80).port(Protocol::Sctp, "s", 80);
    let slice = slice("s").tcp("t", 1001).udp("u", 1002).port(Protocol::Sctp, "s", 1003).at("10.1.0.1");
    let rules = service_rules(service, slice);
    assert_eq!(trace_from_pod(&rules, tcp(CLUSTER_IP)), forward("10.1.0.1:1001"));
    assert_eq!(trace_from_pod(&rules, udp(CLUSTER_IP)), forward("10.1.0.1:1002"));
    assert_eq!(trace_from_pod(&rules, sctp(CLUSTER_IP)), forward("10.1.0.1:1003"));
}

#[test]
fn slice_port_with_another_name_or_protocol_is_not_an_endpoint() {
    let service = || svc("s").ip("10.96.0.1").tcp("web", 80);
    assert_eq!(
        trace_from_pod(&service_rules(service(), slice("s").tcp("", 80).at("10.1.0.1")), tcp(CLUSTER_IP)),
        Trace::Reject
    );
    assert_eq!(
        trace_from_pod(&service_rules(service(), slice("s").udp("web", 80).at("10.1.0.1")), tcp(CLUSTER_IP)),
        Trace::Reject
    );
}

#[test]
fn pods_are_reached_at_their_own_numbers_of_a_named_port() {
    let rules = ruleset_of([
        svc("s").ip("10.96.0.1").tcp("web", 80).into(),
        slice("s").named("old").tcp("web", 8080).at("10.1.0.1").into(),
        slice("s").named("new").tcp("web", 9090).at("10.1.0.2").into(),
    ]);
    assert_eq!(possible_backends(&rules, tcp(CLUSTER_IP)), ["10.1.0.1:8080", "10.1.0.2:9090"]);
}

#[test]
fn endpoint_in_two_slices_is_drawn_once() {
    let rules = ruleset_of([
        svc("s").ip("10.96.0.1").tcp("", 80).into(),
        slice("s").named("a").tcp("", 80).at("10.1.0.1").at("10.1.0.2").terminating().into(),
        slice("s").named("b").tcp("", 80).at("10.1.0.1").terminating().at("10.1.0.2").into(),
    ]);
    assert_eq!(possible_backends(&rules, tcp(CLUSTER_IP)), ["10.1.0.1:80", "10.1.0.2:80"]);
    assert_eq!(rules.rule(tcp(CLUSTER_IP)).unwrap().backends.len(), 2);
}

#[test]
fn endpoint_with_the_address_of_a_service_gets_no_connections() {
    let rules = ruleset_of([
        svc("s").ip("10.96.0.1").tcp("", 80).into(),
        slice("s").tcp("", 80).at("10.1.0.1").at("10.96.0.2").into(),
        svc("other").ip("10.96.0.2").tcp("", 80).into(),
    ]);
    assert_eq!(possible_backends(&rules, tcp(CLUSTER_IP)), ["10.1.0.1:80"]);
}

#[test]
fn all_four_kinds_are_rejected_without_endpoints() {
    for slice in [slice("s").tcp("", 80), slice("s").tcp("", 80).at("10.1.0.1").unready()] {
        let rules = service_rules(four_kinds(), slice);
        for destination in FOUR_KINDS {
            assert_eq!(trace_from_pod(&rules, tcp(destination)), Trace::Reject, "{destination}");
        }
    }
    assert_eq!(trace_from_pod(&ruleset_of([four_kinds().into()]), tcp(CLUSTER_IP)), Trace::Reject);
}

#[test]
fn slice_without_a_service_has_no_effect() {
    assert_eq!(ruleset_of([slice("s").tcp("", 80).at("10.1.0.1").into()]).rules().count(), 0);
}

#[test]
fn pods_own_address_is_a_normal_backend() {
    let rules = service_rules(svc("s").ip("10.96.0.1").tcp("", 80), slice("s").tcp("", 80).at("10.1.0.99"));
    assert_eq!(trace_from_pod(&rules, tcp(CLUSTER_IP)), forward("10.1.0.99:80"));
}

#[test]
fn internal_policy_local_selects_endpoints_on_this_node() {
    let slice = slice("s").tcp("", 80).at("10.1.0.1").on("n1").at("10.1.0.2").on("n2");
    let rules = service_rules(svc("s").ip("10.96.0.1").tcp("", 80).internal_local(), slice);
    assert_eq!(possible_backends(&rules, tcp(CLUSTER_IP)), ["10.1.0.1:80"]);
}

#[test]
fn internal_policy_local_drops_if_all_endpoints_are_on_other_nodes() {
    let service = || svc("s").ip("10.96.0.1").tcp("", 80).internal_local();
    let elsewhere = service_rules(service(), slice("s").tcp("", 80).at("10.1.0.2").on("n2"));
    assert_eq!(trace_from_pod(&elsewhere, tcp(CLUSTER_IP)), Trace::Drop);
    let nowhere = service_rules(service(), slice("s").tcp("", 80).at("10.1.0.2").on("n1").unready());
    assert_eq!(trace_from_pod(&nowhere, tcp(CLUSTER_IP)), Trace::Reject);
}

#[test]
fn internal_policy_local_falls_back_to_terminating_endpoints_on_this_node() {
    let slice = slice("s").tcp("", 80).at("10.1.0.1").on("n1").terminating().at("10.1.0.2").on("n2");
    let rules = service_rules(svc("s").ip("10.96.0.1").tcp("", 80).internal_local(), slice);
    assert_eq!(possible_backends(&rules, tcp(CLUSTER_IP)), ["10.1.0.1:80"]);
}

#[test]
fn internal_policy_local_applies_to_the_cluster_address_only() {
    let rules = service_rules(four_kinds().internal_local(), slice("s").tcp("", 80).at("10.1.0.2").on("n2"));
    assert_eq!(trace_from_pod(&rules, tcp(CLUSTER_IP)), Trace::Drop);
    for destination in &FOUR_KINDS[1..] {
        assert_eq!(possible_backends(&rules, tcp(destination)), ["10.1.0.2:80"], "{destination}");
    }
}

#[test]
fn external_policy_local_does_not_apply_to_a_pod() {
    let endpoints = slice("s").tcp("", 80).at("10.1.0.1").on("n1").at("10.1.0.2").on("n2");
    let elsewhere = slice("s").tcp("", 80).at("10.1.0.2").on("n2");
    for destination in FOUR_KINDS {
        let rules = service_rules(four_kinds().external_local(), endpoints.clone());
        assert_eq!(
            possible_backends(&rules, tcp(destination)),
            ["10.1.0.1:80", "10.1.0.2:80"],
            "{destination}"
        );
        let rules = service_rules(four_kinds().external_local(), elsewhere.clone());
        assert_eq!(possible_backends(&rules, tcp(destination)), ["10.1.0.2:80"], "{destination}");
    }
}

#[test]
fn both_policies_local_apply_to_the_cluster_address_only() {
    let service = four_kinds().internal_local().external_local();
    let rules =
        service_rules(service, slice("s").tcp("", 80).at("10.1.0.2").on("n2").at("10.1.0.3").on("n3"));
    assert_eq!(trace_from_pod(&rules, tcp(CLUSTER_IP)), Trace::Drop);
    for destination in &FOUR_KINDS[1..] {
        assert_eq!(
            possible_backends(&rules, tcp(destination)),
            ["10.1.0.2:80", "10.1.0.3:80"],
            "{destination}"
        );
    }
}

#[test]
fn hints_apply_to_external_addresses_and_the_cluster_address() {
    let slice = slice("s").tcp("", 80).at("10.1.0.1").zone("a").at("10.1.0.2").zone("b");
    let rules = service_rules(four_kinds(), slice);
    for destination in FOUR_KINDS {
        assert_eq!(possible_backends(&rules, tcp(destination)), ["10.1.0.1:80"], "{destination}");
    }
}

#[test]
fn hints_do_not_apply_with_internal_policy_local() {
    let slice = slice("s").tcp("", 80).at("10.1.0.1").on("n1").zone("b").at("10.1.0.2").on("n2").zone("a");
    let rules = service_rules(four_kinds().internal_local(), slice);
    assert_eq!(possible_backends(&rules, tcp(CLUSTER_IP)), ["10.1.0.1:80"]);
    assert_eq!(possible_backends(&rules, tcp("192.0.2.1:80")), ["10.1.0.2:80"]);
}

#[test]
fn terminating_endpoints_get_connections_only_if_none_is_ready() {
    let slice = || slice("s").tcp("", 80).at("10.1.0.1").terminating().at("10.1.0.2").finished();
    assert_eq!(possible_backends(&service_rules(four_kinds(), slice()), tcp(CLUSTER_IP)), ["10.1.0.1:80"]);
    assert_eq!(
        possible_backends(&service_rules(four_kinds(), slice().at("10.1.0.3")), tcp(CLUSTER_IP)),
        ["10.1.0.3:80"]
    );
}

#[test]
fn node_port_is_a_portal_only_at_the_first_node_address_of_each_family() {
    let service = svc("s").ip("10.96.0.1").ip("fd00::1").tcp("", 80).node_port(30080);
    let changes = [service.into(), slice("s").tcp("", 80).at("10.1.0.1").at("fd01::1").into()];
    let mut here = node_context();
    here.node.addresses = ["10.240.0.5", "10.240.0.6", "2001:db8:f::5", "2001:db8:f::6"].map(ip).to_vec();
    let rules = ruleset_on(changes.clone(), &here);
    assert_eq!(possible_backends(&rules, tcp("10.240.0.5:30080")), ["10.1.0.1:80"]);
    assert_eq!(possible_backends(&rules, tcp("[2001:db8:f::5]:30080")), ["[fd01::1]:80"]);
    let others = ["10.240.0.6:30080", "[2001:db8:f::6]:30080", "127.0.0.1:30080", "10.1.0.99:30080"];
    for destination in others {
        assert_eq!(trace_from_pod(&rules, tcp(destination)), Trace::Pass, "{destination}");
    }
    assert_eq!(trace_from_pod(&rules, udp("10.240.0.5:30080")), Trace::Pass);
    assert_eq!(trace_from_pod(&rules, tcp("10.240.0.5:80")), Trace::Pass);

    here.node.addresses.clear();
    assert_eq!(trace_from_pod(&ruleset_on(changes, &here), tcp("10.240.0.5:30080")), Trace::Pass);
}

#[test]
fn source_ranges_apply_only_to_the_load_balancer_address() {
    let service = four_kinds().only_from("10.2.0.0/16").only_from("10.3.0.0/24");
    let rules = service_rules(service, slice("s").tcp("", 80).at("10.1.0.1"));
    let balanced = tcp("192.0.2.2:80");
    assert_eq!(trace_from("10.1.0.99", &rules, balanced), Trace::SourceDenied);
    assert_eq!(trace_from("10.2.7.7", &rules, balanced), forward("10.1.0.1:80"));
    assert_eq!(trace_from("10.3.0.255", &rules, balanced), forward("10.1.0.1:80"));
    assert_eq!(trace_from("10.3.1.0", &rules, balanced), Trace::SourceDenied);
    assert_eq!(trace(&rules, &Packet::sent(None, balanced), 0), Trace::SourceDenied);
    for destination in [CLUSTER_IP, "192.0.2.1:80", "10.240.0.5:30080"] {
        assert_eq!(
            trace_from("10.1.0.99", &rules, tcp(destination)),
            forward("10.1.0.1:80"),
            "{destination}"
        );
    }
}

#[test]
fn source_ranges_apply_without_endpoints() {
    let rules = ruleset_of([four_kinds().only_from("10.2.0.0/16").into()]);
    assert_eq!(trace_from("10.1.0.99", &rules, tcp("192.0.2.2:80")), Trace::SourceDenied);
    assert_eq!(trace_from("10.2.0.1", &rules, tcp("192.0.2.2:80")), Trace::Reject);
}

#[test]
fn source_range_of_length_0_removes_the_restriction() {
    let service = four_kinds().only_from("10.2.0.0/16").only_from("0.0.0.0/0");
    let rules = service_rules(service, slice("s").tcp("", 80).at("10.1.0.1"));
    let destination = tcp("192.0.2.2:80");
    for source in [Some(ip("10.1.0.99")), None] {
        assert_eq!(trace(&rules, &Packet::sent(source, destination), 0), forward("10.1.0.1:80"));
    }
}

#[test]
fn source_ranges_of_one_family_do_not_restrict_the_other() {
    let service = svc("s").ip("10.96.0.1").ip("fd00::1").tcp("", 80).balanced("192.0.2.2");
    let service = service.balanced("2001:db8::2").only_from("fd02::/16");
    let rules = service_rules(service, slice("s").tcp("", 80).at("10.1.0.1").at("fd01::1"));
    assert_eq!(trace_from("10.1.0.99", &rules, tcp("192.0.2.2:80")), forward("10.1.0.1:80"));
    assert_eq!(trace_from("fd01::99", &rules, tcp("[2001:db8::2]:80")), Trace::SourceDenied);
    assert_eq!(trace_from("fd02::99", &rules, tcp("[2001:db8::2]:80")), forward("[fd01::1]:80"));
}

#[test]
fn source_range_of_length_0_does_not_affect_the_other_family() {
    let service = svc("s").ip("10.96.0.1").tcp("", 80).balanced("192.0.2.2");
    let service = service.only_from("10.2.0.0/16").only_from("::/0");
    let rules = service_rules(service, slice("s").tcp("", 80).at("10.1.0.1"));
    assert_eq!(trace_from("10.1.0.99", &rules, tcp("192.0.2.2:80")), Trace::SourceDenied);
}

#[test]
fn source_ranges_with_the_nodes_address_include_the_load_balancer_address() {
    let service = |range| four_kinds().balanced("192.0.2.3").only_from(range);
    let slice = || slice("s").tcp("", 80).at("10.1.0.1");
    let (with, without) =
        (service_rules(service("10.240.0.0/24"), slice()), service_rules(service("10.241.0.0/24"), slice()));
    for own in ["192.0.2.2", "192.0.2.3"] {
        assert_eq!(trace_from(own, &with, tcp("192.0.2.2:80")), forward("10.1.0.1:80"), "{own}");
        assert_eq!(trace_from(own, &without, tcp("192.0.2.2:80")), Trace::SourceDenied, "{own}");
    }
    assert_eq!(trace_from("192.0.2.1", &with, tcp("192.0.2.2:80")), Trace::SourceDenied);
    assert_eq!(trace_from("10.240.0.5", &with, tcp("192.0.2.2:80")), forward("10.1.0.1:80"));
}

#[test]
fn other_port_of_a_cluster_address_is_rejected() {
    let rules = service_rules(four_kinds(), slice("s").tcp("", 80).at("10.1.0.1"));
    assert_eq!(trace_from_pod(&rules, tcp("10.96.0.1:81")), Trace::WrongPort);
    assert_eq!(trace_from_pod(&rules, udp("10.96.0.1:80")), Trace::WrongPort);
    assert_eq!(trace_from_pod(&rules, tcp("10.96.0.1:30080")), Trace::WrongPort);
    for destination in ["192.0.2.1:81", "192.0.2.2:81", "10.240.0.5:81", "10.96.0.2:80"] {
        assert_eq!(trace_from_pod(&rules, tcp(destination)), Trace::Pass, "{destination}");
    }
}

#[test]
fn unallocated_address_in_a_service_range_is_dropped() {
    let ranges = Change::ServiceRanges(vec!["10.96.0.0/16".parse().unwrap(), "fd00::/112".parse().unwrap()]);
    let rules = ruleset_of([ranges, four_kinds().into(), slice("s").tcp("", 80).at("10.1.0.1").into()]);
    for destination in ["10.96.0.0:80", "10.96.255.255:80", "[fd00::ffff]:80"] {
        assert_eq!(trace_from_pod(&rules, tcp(destination)), Trace::Unallocated, "{destination}");
    }
    for destination in ["10.95.255.255:80", "10.97.0.0:80", "[fd00::1:0]:80"] {
        assert_eq!(trace_from_pod(&rules, tcp(destination)), Trace::Pass, "{destination}");
    }
    assert_eq!(trace_from_pod(&rules, tcp("10.96.0.1:81")), Trace::WrongPort);
    assert_eq!(trace_from_pod(&rules, tcp(CLUSTER_IP)), forward("10.1.0.1:80"));
}

#[test]
fn filter_makes_only_its_services_visible() {
    let changes = |name: &str, address: &str| -> [Change; 2] {
        [svc(name).ip(address).tcp("", 80).into(), slice(name).tcp("", 80).at("10.1.0.1").into()]
    };
    let changes = [changes("seen", "10.96.0.1"), changes("hidden", "10.96.0.2")].concat();
    let filter = ServiceFilter::Only([ServiceKey::new("default", "seen")].into());
    let rules = ruleset_on(changes, &NodeContext { filter, ..node_context() });
    assert_eq!(trace_from_pod(&rules, tcp("10.96.0.1:80")), forward("10.1.0.1:80"));
    assert_eq!(trace_from_pod(&rules, tcp("10.96.0.2:80")), Trace::Pass);
}

#[test]
fn mode_of_a_service_overrides_that_of_the_node_context() {
    let rules = |own: Option<Mode>, default: Mode| {
        let mut service = svc("s").ip("10.96.0.1").tcp("t", 80).udp("u", 80).port(Protocol::Sctp, "s", 80);
        service.mode = own;
        let slice = slice("s").tcp("t", 80).udp("u", 80).port(Protocol::Sctp, "s", 80).at("10.1.0.1");
        ruleset_on([service.into(), slice.into()], &NodeContext { mode: default, ..node_context() })
    };
    let kernel = forward("10.1.0.1:80");
    let cases = [
        (None, Mode::Kernel, kernel),
        (None, Mode::Relay, Trace::Relay),
        (Some(Mode::Relay), Mode::Kernel, Trace::Relay),
        (Some(Mode::Kernel), Mode::Relay, kernel),
    ];
    for (own, default, expected) in cases {
        let rules = rules(own, default);
        assert_eq!(trace_from_pod(&rules, tcp(CLUSTER_IP)), expected, "{own:?} {default:?}");
        assert_eq!(trace_from_pod(&rules, udp(CLUSTER_IP)), expected, "{own:?} {default:?}");
        assert_eq!(trace_from_pod(&rules, sctp(CLUSTER_IP)), kernel, "SCTP is never relayed");
    }
}

#[test]
fn relayed_portal_without_endpoints_is_rejected_and_keeps_policy_and_ranges() {
    let relayed = || four_kinds().mode(Mode::Relay).internal_local().only_from("10.2.0.0/16");
    assert_eq!(trace_from_pod(&ruleset_of([relayed().into()]), tcp(CLUSTER_IP)), Trace::Reject);
    let rules = service_rules(relayed(), slice("s").tcp("", 80).at("10.1.0.2").on("n2"));
    assert_eq!(trace_from_pod(&rules, tcp(CLUSTER_IP)), Trace::Drop);
    assert_eq!(trace_from("10.1.0.99", &rules, tcp("192.0.2.2:80")), Trace::SourceDenied);
    assert_eq!(trace_from("10.2.0.1", &rules, tcp("192.0.2.2:80")), Trace::Relay);
}

#[test]
fn packets_from_neighbours_and_to_the_pods_own_addresses_match_no_portal() {
    let rules =
        service_rules(svc("web").ip("10.96.0.1").tcp("", 80), slice("web").tcp("", 80).at("10.1.0.1"));
    let met = |direction| {
        let packet = Packet { direction, ..Packet::sent(Some(ip("10.244.0.3")), tcp("10.96.0.1:80")) };
        trace(&rules, &packet, 0)
    };
    for direction in [Direction::Sent, Direction::Forwarded] {
        assert_eq!(met(direction), forward("10.1.0.1:80"), "{direction:?}");
    }
    for direction in [Direction::Inbound, Direction::ToPod] {
        assert_eq!(met(direction), Trace::Pass, "{direction:?}");
    }
}

#[test]
fn only_relayed_portals_reject_while_the_relay_does_not_listen() {
    let named = |name: &str, address: &str| svc(name).ip(address).tcp("", 80);
    let endpoint = |name: &str| slice(name).tcp("", 8080).at("10.1.0.1");
    let rules = ruleset_of([
        named("web", "10.96.0.1").into(),
        endpoint("web").into(),
        named("relayed", "10.96.0.2").mode(Mode::Relay).into(),
        endpoint("relayed").into(),
    ]);
    let refusing = rules.without_relay();
    assert_eq!(trace_from_pod(&rules, tcp("10.96.0.2:80")), Trace::Relay);
    assert_eq!(trace_from_pod(&refusing, tcp("10.96.0.2:80")), Trace::Reject);
    assert_eq!(trace_from_pod(&refusing, tcp("10.96.0.1:80")), forward("10.1.0.1:8080"));
}
