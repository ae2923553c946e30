//! Packets on a node: each rule of the specification, shown by one packet of each client.
//!
//! The node is `n1` with the addresses 10.240.0.5 and 2001:db8:f::5. Its pods are in 10.1.0.0/16 and 2001:db8:1::/64, and
//! behind `veth*`. The expected results are those of kube-proxy in nftables mode, if no test says otherwise.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::*;
use crate::model::endpoint::EndpointSlice;
use crate::model::guest::InterfacePattern;
use crate::model::service::{Scheduler, Service};
use crate::model::snapshot::Change;
use crate::routing::portal::{NodeContext, Place, portals};
use crate::ruleset::node::PodDetection;
use crate::sample::{backend, ip, node_context, slice, snapshot, svc, tcp, udp};

/// A multiple of the number of backends in any test.
const DRAWS: u32 = 60;

const CLUSTER_IP: &str = "10.96.0.1:80";
const NODE_PORT: &str = "10.240.0.5:30080";
/// A destination of each kind of external address.
const EXTERNAL: [&str; 3] = ["192.0.2.1:80", "192.0.2.2:80", NODE_PORT];

/// A service with an address of each of the four kinds.
fn four_kinds() -> Service {
    svc("s").ip("10.96.0.1").tcp("", 80).node_port(30080).external("192.0.2.1").balanced("192.0.2.2")
}

/// Two endpoints, of which 10.1.0.1 is on this node.
fn endpoints() -> EndpointSlice {
    slice("s").tcp("", 8080).at("10.1.0.1").on("n1").at("10.1.9.1").on("n2")
}

fn remote_endpoint() -> EndpointSlice {
    slice("s").tcp("", 8080).at("10.1.9.1").on("n2")
}

fn settings() -> NodeSettings {
    NodeSettings { detects_pods: PodDetection::BOTH, ..NodeSettings::default() }
}

fn environment() -> NodeEnvironment {
    let net = |text: &str| text.parse().expect("a CIDR");
    NodeEnvironment {
        addresses: Arc::new([ip("10.240.0.5"), ip("2001:db8:f::5")].into()),
        pod_ranges: Arc::new([net("10.1.0.0/16"), net("2001:db8:1::/64")].into()),
        pod_interfaces: Arc::new([InterfacePattern::parse("veth*").expect("a pattern")].into()),
    }
}

fn table_with(
    changes: impl IntoIterator<Item = Change>,
    settings: NodeSettings,
    environment: NodeEnvironment,
) -> NodeRuleset {
    let context = NodeContext { place: Place::Node, ..node_context() };
    NodeRuleset::new(&portals(&snapshot(changes), &context), settings, environment)
}

fn table(changes: impl IntoIterator<Item = Change>) -> NodeRuleset {
    table_with(changes, settings(), environment())
}

fn table_of(service: Service, slice: EndpointSlice) -> NodeRuleset {
    table([service.into(), slice.into()])
}

/// Returns a packet from the address at the interface; no interface: from the node itself.
fn packet(source: &str, interface: Option<&'static str>, destination: PortalKey) -> NodePacket<'static> {
    NodePacket { source: ip(source), interface, destination, is_on_loopback: false }
}

fn from_outside(destination: PortalKey) -> NodePacket<'static> {
    let source = if destination.address.is_ipv4() { "203.0.113.7" } else { "2001:db8:cafe::7" };
    packet(source, Some("eth0"), destination)
}

fn from_pod(destination: PortalKey) -> NodePacket<'static> {
    packet(
        if destination.address.is_ipv4() { "10.1.0.99" } else { "2001:db8:1::99" },
        Some("cni0"),
        destination,
    )
}

fn from_node(destination: PortalKey) -> NodePacket<'static> {
    packet(if destination.address.is_ipv4() { "10.240.0.5" } else { "2001:db8:f::5" }, None, destination)
}

/// Returns a packet of a client outside, of a pod, and of the node.
fn from_each_client(destination: PortalKey) -> [NodePacket<'static>; 3] {
    [from_outside(destination), from_pod(destination), from_node(destination)]
}

fn forwarded(text: &str) -> NodeTrace {
    NodeTrace::Forward { backend: backend(text), source: SeenSource::Same }
}

fn masqueraded(text: &str) -> NodeTrace {
    NodeTrace::Forward { backend: backend(text), source: SeenSource::NodeAddress }
}

/// Returns the results over all draws, each once, in the order of their text.
fn possible_traces(table: &NodeRuleset, packet: &NodePacket<'_>) -> Vec<NodeTrace> {
    let traces = (0..DRAWS).map(|draw| trace_node(table, packet, draw));
    let by_text: BTreeMap<String, NodeTrace> = traces.map(|found| (format!("{found:?}"), found)).collect();
    by_text.into_values().collect()
}

#[test]
fn cluster_address_leads_to_every_endpoint_and_pods_keep_their_address() {
    let table = table_of(four_kinds(), endpoints());
    let pod = from_pod(tcp(CLUSTER_IP));
    assert_eq!(possible_traces(&table, &pod), [forwarded("10.1.0.1:8080"), forwarded("10.1.9.1:8080")]);
}

#[test]
fn internal_policy_local_leads_to_local_endpoints() {
    let table = table_of(four_kinds().internal_local(), endpoints());
    assert_eq!(possible_traces(&table, &from_pod(tcp(CLUSTER_IP))), [forwarded("10.1.0.1:8080")]);
    assert_eq!(possible_traces(&table, &from_node(tcp(CLUSTER_IP))), [masqueraded("10.1.0.1:8080")]);
}

#[test]
fn service_without_endpoints_is_rejected_on_every_address_for_every_client() {
    for service in [four_kinds(), four_kinds().external_local(), four_kinds().internal_local()] {
        let table = table_of(service, slice("s").tcp("", 8080).at("10.1.0.1").unready());
        for destination in [&[CLUSTER_IP], &EXTERNAL[..]].concat() {
            for packet in from_each_client(tcp(destination)) {
                assert_eq!(trace_node(&table, &packet, 0), NodeTrace::Reject, "{packet:?}");
            }
        }
    }
}

#[test]
fn internal_policy_local_without_local_endpoint_drops_at_the_cluster_address_only() {
    let table = table_of(four_kinds().internal_local(), remote_endpoint());
    for packet in from_each_client(tcp(CLUSTER_IP)) {
        assert_eq!(trace_node(&table, &packet, 0), NodeTrace::Drop(DropReason::NoLocalEndpoint));
    }
    assert_eq!(possible_traces(&table, &from_outside(tcp(NODE_PORT))), [masqueraded("10.1.9.1:8080")]);
}

#[test]
fn external_policy_local_without_local_endpoint_drops_outside_and_serves_the_cluster() {
    let table = table_of(four_kinds().external_local(), remote_endpoint());
    for destination in EXTERNAL.map(tcp) {
        let outside = trace_node(&table, &from_outside(destination), 0);
        assert_eq!(outside, NodeTrace::Drop(DropReason::NoLocalEndpoint), "{destination}");
        assert_eq!(
            possible_traces(&table, &from_pod(destination)),
            [forwarded("10.1.9.1:8080")],
            "{destination}"
        );
        assert_eq!(
            possible_traces(&table, &from_node(destination)),
            [masqueraded("10.1.9.1:8080")],
            "{destination}"
        );
    }
}

#[test]
fn external_policy_cluster_masquerades_every_client() {
    let table = table_of(four_kinds(), endpoints());
    for packet in EXTERNAL.map(tcp).into_iter().flat_map(from_each_client) {
        let both = [masqueraded("10.1.0.1:8080"), masqueraded("10.1.9.1:8080")];
        assert_eq!(possible_traces(&table, &packet), both, "{packet:?}");
    }
}

#[test]
fn external_policy_local_keeps_the_client_address_and_serves_by_local_endpoints() {
    let table = table_of(four_kinds().external_local(), endpoints());
    for destination in EXTERNAL.map(tcp) {
        let outside = from_outside(destination);
        assert_eq!(possible_traces(&table, &outside), [forwarded("10.1.0.1:8080")], "{destination}");
    }
}

#[test]
fn external_policy_local_leads_pods_to_every_endpoint_with_their_address() {
    let table = table_of(four_kinds().external_local(), endpoints());
    for destination in EXTERNAL.map(tcp) {
        let both = [forwarded("10.1.0.1:8080"), forwarded("10.1.9.1:8080")];
        assert_eq!(possible_traces(&table, &from_pod(destination)), both, "{destination}");
    }
}

#[test]
fn external_policy_local_leads_the_node_to_every_endpoint_masqueraded() {
    let table = table_of(four_kinds().external_local(), endpoints());
    for destination in EXTERNAL.map(tcp) {
        let both = [masqueraded("10.1.0.1:8080"), masqueraded("10.1.9.1:8080")];
        assert_eq!(possible_traces(&table, &from_node(destination)), both, "{destination}");
    }
}

#[test]
fn pod_that_is_not_detected_is_a_client_outside() {
    let unknown = NodeEnvironment { pod_ranges: Arc::default(), ..environment() };
    let changes = [four_kinds().external_local().into(), remote_endpoint().into()];
    let table = table_with(changes, settings(), unknown);
    let dropped = NodeTrace::Drop(DropReason::NoLocalEndpoint);
    assert_eq!(trace_node(&table, &from_pod(tcp(NODE_PORT)), 0), dropped);
    let by_interface = packet("10.1.0.99", Some("veth12"), tcp(NODE_PORT));
    assert_eq!(possible_traces(&table, &by_interface), [forwarded("10.1.9.1:8080")]);
}

#[test]
fn pods_are_clients_outside_if_they_are_not_to_be_detected() {
    let changes = [four_kinds().external_local().into(), remote_endpoint().into()];
    let table = table_with(changes, NodeSettings::default(), environment());
    let dropped = NodeTrace::Drop(DropReason::NoLocalEndpoint);
    assert_eq!(trace_node(&table, &from_pod(tcp(NODE_PORT)), 0), dropped);
    assert_eq!(possible_traces(&table, &from_node(tcp(NODE_PORT))), [masqueraded("10.1.9.1:8080")]);
}

#[test]
fn other_port_and_protocol_of_a_cluster_address_are_rejected() {
    let table = table_of(four_kinds(), endpoints());
    for destination in [tcp("10.96.0.1:81"), udp(CLUSTER_IP), tcp("10.96.0.1:30080")] {
        for packet in from_each_client(destination) {
            assert_eq!(trace_node(&table, &packet, 0), NodeTrace::WrongPort, "{packet:?}");
        }
    }
    for external in ["192.0.2.1:81", "192.0.2.2:81", "10.240.0.5:30081"] {
        assert_eq!(trace_node(&table, &from_outside(tcp(external)), 0), NodeTrace::Pass, "{external}");
    }
}

#[test]
fn unallocated_address_of_a_service_range_is_dropped() {
    let ranges = ["10.96.0.0/16", "fd00:96::/112"].map(|net| net.parse().expect("a CIDR"));
    let table = table([Change::ServiceRanges(ranges.into()), four_kinds().into(), endpoints().into()]);
    for packet in [tcp("10.96.7.7:80"), tcp("[fd00:96::7]:80")].into_iter().flat_map(from_each_client) {
        assert_eq!(trace_node(&table, &packet, 0), NodeTrace::Drop(DropReason::Unallocated), "{packet:?}");
    }
    assert_eq!(trace_node(&table, &from_pod(tcp("10.97.0.1:80")), 0), NodeTrace::Pass);
}

/// As with kube-proxy, which checks service ranges after the translation.
#[test]
fn node_port_on_an_address_in_a_service_range_is_served() {
    let range = Change::ServiceRanges(vec!["10.240.0.0/16".parse().expect("a CIDR")]);
    let table = table([range, four_kinds().into(), endpoints().into()]);
    for packet in from_each_client(tcp(NODE_PORT)) {
        assert_eq!(possible_traces(&table, &packet).len(), 2, "{packet:?}");
    }
    let other = from_outside(tcp("10.240.0.5:30081"));
    assert_eq!(trace_node(&table, &other, 0), NodeTrace::Drop(DropReason::Unallocated));
}

#[test]
fn source_ranges_limit_load_balancer_addresses_only() {
    let table = table_of(four_kinds().only_from("198.51.100.0/24"), endpoints());
    let denied = NodeTrace::Drop(DropReason::SourceDenied);
    for packet in from_each_client(tcp("192.0.2.2:80")) {
        assert_eq!(trace_node(&table, &packet, 0), denied, "{packet:?}");
    }
    let allowed = packet("198.51.100.9", Some("eth0"), tcp("192.0.2.2:80"));
    assert_eq!(possible_traces(&table, &allowed).len(), 2);
    for destination in ["192.0.2.1:80", NODE_PORT, CLUSTER_IP] {
        assert_eq!(possible_traces(&table, &from_outside(tcp(destination))).len(), 2, "{destination}");
    }
}

#[test]
fn source_ranges_are_checked_before_the_endpoints_and_for_the_cluster_too() {
    let service = || four_kinds().only_from("198.51.100.0/24");
    let balanced = tcp("192.0.2.2:80");
    for table in [table_of(service(), slice("s")), table_of(service().external_local(), endpoints())] {
        for packet in from_each_client(balanced) {
            assert_eq!(trace_node(&table, &packet, 0), NodeTrace::Drop(DropReason::SourceDenied));
        }
    }
}

#[test]
fn source_range_with_the_node_address_allows_the_load_balancer_address_as_source() {
    let table = table_of(four_kinds().only_from("10.240.0.0/16"), endpoints());
    let own = packet("192.0.2.2", None, tcp("192.0.2.2:80"));
    assert_eq!(possible_traces(&table, &own), [masqueraded("10.1.0.1:8080"), masqueraded("10.1.9.1:8080")]);
}

#[test]
fn node_port_is_served_on_the_selected_addresses_only() {
    let table = table_of(four_kinds(), endpoints());
    for address in ["10.240.0.6:30080", "127.0.0.1:30080", "10.1.0.1:30080"] {
        for packet in from_each_client(tcp(address)) {
            assert_eq!(trace_node(&table, &packet, 0), NodeTrace::Pass, "{packet:?}");
        }
    }
    let two = [ip("10.240.0.5"), ip("10.240.0.6")];
    let both = NodeEnvironment { addresses: Arc::new(two.into()), ..environment() };
    let table = table_with([four_kinds().into(), endpoints().into()], settings(), both);
    assert_eq!(possible_traces(&table, &from_outside(tcp("10.240.0.6:30080"))).len(), 2);
}

/// `owner` has the address of the node as an external address, and `s` a node port with the same number.
#[test]
fn service_of_the_address_takes_precedence_over_the_node_port_of_another_service() {
    let owner = svc("owner").ip("10.96.0.2").tcp("", 30080).external("10.240.0.5");
    let other = slice("owner").tcp("", 8080).at("10.1.0.2").on("n1");
    for is_owner_local in [false, true] {
        let (owner, service, seen): (_, _, fn(&str) -> NodeTrace) = if is_owner_local {
            (owner.clone().external_local(), four_kinds(), forwarded)
        } else {
            (owner.clone(), four_kinds().external_local(), masqueraded)
        };
        let table = table([owner.into(), other.clone().into(), service.into(), endpoints().into()]);
        let destination = tcp(NODE_PORT);
        assert_eq!(possible_traces(&table, &from_outside(destination)), [seen("10.1.0.2:8080")]);
        assert_eq!(possible_traces(&table, &from_pod(destination)), [seen("10.1.0.2:8080")]);
        assert_eq!(possible_traces(&table, &from_node(destination)), [masqueraded("10.1.0.2:8080")]);
    }
}

#[test]
fn packet_to_the_unspecified_address_is_not_translated() {
    let table = table_of(four_kinds(), endpoints());
    assert_eq!(trace_node(&table, &from_node(tcp("0.0.0.0:30080")), 0), NodeTrace::Pass);
}

#[test]
fn node_port_on_loopback_leads_the_node_to_the_listener_by_tcp() {
    let listening = NodeSettings { loopback_port: 9478, ..settings() };
    let service = four_kinds().ip("fd00:96::1").udp("u", 53).node_port(30053);
    let table = table_with([service.into(), endpoints().into()], listening, environment());
    for address in ["127.0.0.1:30080", "127.9.9.9:30080", "[::1]:30080"] {
        let own = packet(if address.starts_with('[') { "::1" } else { "127.0.0.1" }, None, tcp(address));
        assert_eq!(trace_node(&table, &NodePacket { is_on_loopback: true, ..own }, 0), NodeTrace::Loopback);
        assert_eq!(trace_node(&table, &from_outside(tcp(address)), 0), NodeTrace::Pass, "{address}");
    }
    for other in [tcp("127.0.0.1:30081"), udp("127.0.0.1:30053")] {
        assert_eq!(trace_node(&table, &from_node(other), 0), NodeTrace::Pass, "{other}");
    }
}

#[test]
fn ipv6_service_has_the_same_results() {
    let service = svc("s").ip("fd00:96::1").tcp("", 80).node_port(30080).balanced("2001:db8:2::2");
    let slice = slice("s").tcp("", 8080).at("2001:db8:1::1").on("n1").at("2001:db8:2::1").on("n2");
    let table = table_of(service.external_local(), slice);
    let [local, other] = ["[2001:db8:1::1]:8080", "[2001:db8:2::1]:8080"];
    for destination in [tcp("[2001:db8:2::2]:80"), tcp("[2001:db8:f::5]:30080")] {
        assert_eq!(possible_traces(&table, &from_outside(destination)), [forwarded(local)]);
        assert_eq!(possible_traces(&table, &from_pod(destination)), [forwarded(local), forwarded(other)]);
        assert_eq!(
            possible_traces(&table, &from_node(destination)),
            [masqueraded(local), masqueraded(other)]
        );
    }
    let cluster = tcp("[fd00:96::1]:80");
    assert_eq!(possible_traces(&table, &from_pod(cluster)), [forwarded(local), forwarded(other)]);
    assert_eq!(possible_traces(&table, &from_outside(cluster)), [masqueraded(local), masqueraded(other)]);
}

#[test]
fn sticky_and_round_robin_services_have_the_same_backends_and_sources() {
    for service in [four_kinds().sticky(60), four_kinds().scheduler(Scheduler::RoundRobin)] {
        let table = table_of(service.external_local(), endpoints());
        assert_eq!(possible_traces(&table, &from_outside(tcp(NODE_PORT))), [forwarded("10.1.0.1:8080")]);
        let both = [forwarded("10.1.0.1:8080"), forwarded("10.1.9.1:8080")];
        assert_eq!(possible_traces(&table, &from_pod(tcp(CLUSTER_IP))), both);
    }
}

#[test]
fn endpoint_that_reaches_itself_is_masqueraded() {
    for service in [four_kinds(), four_kinds().external_local()] {
        let table = table_of(service, endpoints());
        let own = packet("10.1.0.1", Some("veth1"), tcp(CLUSTER_IP));
        assert_eq!(possible_traces(&table, &own), [masqueraded("10.1.0.1:8080"), forwarded("10.1.9.1:8080")]);
    }
    let table = table_of(four_kinds().external_local(), endpoints());
    let own = packet("10.1.0.1", Some("veth1"), tcp(NODE_PORT));
    assert_eq!(possible_traces(&table, &own), [masqueraded("10.1.0.1:8080"), forwarded("10.1.9.1:8080")]);
}

#[test]
fn endpoint_that_only_the_local_policy_selects_reaches_itself() {
    let slice = slice("s").tcp("", 8080).at("10.1.0.1").on("n1").terminating().at("10.1.9.1").on("n2");
    let changes = [four_kinds().external_local().into(), slice.into()];
    let table = table_with(changes, NodeSettings::default(), environment());
    for destination in EXTERNAL.map(tcp) {
        let own = packet("10.1.0.1", Some("veth1"), destination);
        assert_eq!(possible_traces(&table, &own), [masqueraded("10.1.0.1:8080")], "{destination}");
    }
}

#[test]
fn endpoint_on_another_node_is_no_hairpin() {
    let table = table_of(four_kinds(), remote_endpoint());
    let own = packet("10.1.9.1", Some("eth0"), tcp(CLUSTER_IP));
    assert_eq!(possible_traces(&table, &own), [forwarded("10.1.9.1:8080")]);
}

#[test]
fn clients_of_a_cluster_address_other_than_pods_are_masqueraded_if_pods_are_detected() {
    let changes = || [four_kinds().into(), remote_endpoint().into()];
    let cluster = tcp(CLUSTER_IP);
    let v6 = PodDetection { v4: false, v6: true };
    for (detects_pods, result) in [
        (PodDetection::BOTH, masqueraded("10.1.9.1:8080")),
        (PodDetection::NONE, forwarded("10.1.9.1:8080")),
        (v6, forwarded("10.1.9.1:8080")),
    ] {
        let settings = NodeSettings { detects_pods, ..NodeSettings::default() };
        let table = table_with(changes(), settings, environment());
        assert_eq!(possible_traces(&table, &from_outside(cluster)), [result]);
        assert_eq!(possible_traces(&table, &from_node(cluster)), [result]);
        assert_eq!(possible_traces(&table, &from_pod(cluster)), [forwarded("10.1.9.1:8080")]);
    }
}

#[test]
fn masquerade_all_masquerades_every_client_of_a_cluster_address() {
    let all = NodeSettings { masquerade_all: true, ..settings() };
    let table = table_with([four_kinds().external_local().into(), endpoints().into()], all, environment());
    for packet in from_each_client(tcp(CLUSTER_IP)) {
        let results = possible_traces(&table, &packet);
        let is_masqueraded =
            |result: &NodeTrace| matches!(result, NodeTrace::Forward { source: SeenSource::NodeAddress, .. });
        assert!(results.iter().all(is_masqueraded), "{packet:?}: {results:?}");
    }
    for destination in EXTERNAL.map(tcp) {
        assert_eq!(possible_traces(&table, &from_outside(destination)), [forwarded("10.1.0.1:8080")]);
    }
}

/// As with kube-proxy, which checks the addresses of pods before those of the node.
#[test]
fn process_of_the_node_with_an_address_of_pods_counts_as_a_pod() {
    let table = table_of(four_kinds().external_local(), endpoints());
    let both = [forwarded("10.1.0.1:8080"), forwarded("10.1.9.1:8080")];
    for destination in EXTERNAL.into_iter().chain([CLUSTER_IP]).map(tcp) {
        assert_eq!(possible_traces(&table, &packet("10.1.0.254", None, destination)), both, "{destination}");
    }
}

#[test]
fn packet_on_loopback_is_never_masqueraded() {
    let all = NodeSettings { masquerade_all: true, ..settings() };
    let slice = slice("s").tcp("", 8080).at("10.240.0.5").on("n1");
    let table = table_with([four_kinds().into(), slice.into()], all, environment());
    for destination in [CLUSTER_IP, NODE_PORT].map(tcp) {
        let on_loopback = NodePacket { is_on_loopback: true, ..from_node(destination) };
        assert_eq!(possible_traces(&table, &on_loopback), [forwarded("10.240.0.5:8080")]);
        assert_eq!(possible_traces(&table, &from_node(destination)), [masqueraded("10.240.0.5:8080")]);
    }
}

/// A deviation from kube-proxy, off by default.
#[test]
fn kept_client_address_applies_to_local_endpoints_only() {
    let keeping = NodeSettings { keep_client_address: true, ..settings() };
    let table = table_with([four_kinds().into(), endpoints().into()], keeping, environment());
    for destination in EXTERNAL.map(tcp) {
        let outside = possible_traces(&table, &from_outside(destination));
        assert_eq!(outside, [forwarded("10.1.0.1:8080"), masqueraded("10.1.9.1:8080")], "{destination}");
    }
}

#[test]
fn absent_table_translates_nothing() {
    for packet in [CLUSTER_IP, NODE_PORT].map(tcp).into_iter().flat_map(from_each_client) {
        assert_eq!(trace_node(&NodeRuleset::empty(), &packet, 0), NodeTrace::Pass);
    }
}
