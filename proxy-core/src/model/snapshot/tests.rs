//! The content of snapshots, and the services that a change affects.
//!
//! That an incremental snapshot equals a fresh one is a property in `tests`.

use super::*;
use crate::sample::{ip, slice, snapshot, svc};

fn key(name: &str) -> ServiceKey {
    ServiceKey::new("default", name)
}

fn changed(names: &[&str]) -> ChangedServices {
    names.iter().map(|name| key(name)).collect()
}

fn endpoints(snapshot: &Snapshot, port_name: &str, protocol: Protocol) -> Vec<String> {
    let key = key("s");
    let families = Family::BOTH.map(|family| snapshot.endpoints_of(&key, port_name, protocol, family));
    families.concat().iter().map(|found| found.backend.to_string()).collect()
}

fn tcp_endpoints(slices: impl IntoIterator<Item = EndpointSlice>) -> Vec<String> {
    endpoints(&snapshot(slices.into_iter().map(Change::Slice)), "", Protocol::Tcp)
}

#[test]
fn endpoints_join_by_port_name_and_protocol() {
    let slice = slice("s").tcp("web", 8080).udp("web", 8081).tcp("admin", 9090).at("10.1.0.1");
    let snapshot = snapshot([slice.into()]);
    assert_eq!(endpoints(&snapshot, "web", Protocol::Tcp), ["10.1.0.1:8080"]);
    assert_eq!(endpoints(&snapshot, "web", Protocol::Udp), ["10.1.0.1:8081"]);
    assert_eq!(endpoints(&snapshot, "admin", Protocol::Tcp), ["10.1.0.1:9090"]);
    assert_eq!(endpoints(&snapshot, "admin", Protocol::Sctp), [""; 0]);
    assert_eq!(endpoints(&snapshot, "", Protocol::Tcp), [""; 0]);
}

#[test]
fn slices_with_different_ports_of_one_name_are_merged() {
    let one = slice("s").named("s-1").tcp("", 8080).at("10.1.0.1").at("10.1.0.3");
    let two = slice("s").named("s-2").tcp("", 9090).at("10.1.0.2");
    assert_eq!(tcp_endpoints([one, two]), ["10.1.0.1:8080", "10.1.0.2:9090", "10.1.0.3:8080"]);
}

#[test]
fn slice_belongs_only_to_the_service_of_its_namespace_and_name() {
    let mut elsewhere = slice("s").tcp("", 80).at("10.1.0.2");
    elsewhere.key.namespace = "team".into();
    elsewhere.service = ServiceKey::new("team", "s");
    let longer = slice("s-1").tcp("", 80).at("10.1.0.3");
    assert_eq!(tcp_endpoints([slice("s").tcp("", 80).at("10.1.0.1"), elsewhere, longer]), ["10.1.0.1:80"]);
}

#[test]
fn each_family_has_its_own_endpoints() {
    let snapshot = snapshot([
        slice("s").named("v4").tcp("", 80).at("10.1.0.1").into(),
        slice("s").named("v6").tcp("", 80).at("fd01::1").into(),
    ]);
    let (key, none) = (key("s"), [""; 0]);
    let of = |family| -> Vec<String> {
        let found = snapshot.endpoints_of(&key, "", Protocol::Tcp, family);
        found.iter().map(|e| e.endpoint.address.to_string()).collect()
    };
    assert_eq!(of(Family::V4), ["10.1.0.1"]);
    assert_eq!(of(Family::V6), ["fd01::1"]);
    assert_ne!(of(Family::V4), none);
}

#[test]
fn address_and_port_in_two_slices_is_one_endpoint() {
    let named = |name| slice("s").named(name).tcp("", 80).at("10.1.0.1");
    assert_eq!(tcp_endpoints([named("a"), named("b").at("10.1.0.2")]), ["10.1.0.1:80", "10.1.0.2:80"]);
    let other_number = slice("s").named("c").tcp("", 81).at("10.1.0.1");
    assert_eq!(tcp_endpoints([named("a"), other_number]), ["10.1.0.1:80", "10.1.0.1:81"]);
}

#[test]
fn duplicate_that_does_not_terminate_is_used_in_any_order() {
    let ready = |name| slice("s").named(name).tcp("", 80).at("10.1.0.1").on("ready");
    let leaving = |name| slice("s").named(name).tcp("", 80).at("10.1.0.1").on("leaving").terminating();
    let node_of = |slices: Vec<EndpointSlice>| {
        let snapshot = snapshot(slices.into_iter().map(Change::Slice));
        let key = key("s");
        let found = snapshot.endpoints_of(&key, "", Protocol::Tcp, Family::V4);
        assert_eq!(found.len(), 1);
        found[0].endpoint.node.clone().unwrap().to_string()
    };
    assert_eq!(node_of(vec![ready("a"), leaving("b")]), "ready");
    assert_eq!(node_of(vec![leaving("a"), ready("b")]), "ready");
    assert_eq!(node_of(vec![leaving("a"), ready("b"), leaving("c")]), "ready");
    assert_eq!(node_of(vec![leaving("c"), ready("b"), leaving("a")]), "ready");
    assert_eq!(node_of(vec![leaving("a"), leaving("b")]), "leaving");
}

#[test]
fn terminating_duplicate_in_one_slice_does_not_hide_the_other() {
    let slice = slice("s").tcp("", 80).at("10.1.0.1").terminating().at("10.1.0.1").at("10.1.0.1").finished();
    let snapshot = snapshot([slice.into()]);
    let key = key("s");
    let found = snapshot.endpoints_of(&key, "", Protocol::Tcp, Family::V4);
    assert_eq!(found.iter().map(|e| e.endpoint.conditions.ready).collect::<Vec<_>>(), [true]);
}

#[test]
fn endpoint_with_a_service_address_is_omitted_while_the_service_has_it() {
    let mut snapshot = snapshot([
        svc("s").ip("10.96.0.1").tcp("", 80).into(),
        slice("s").tcp("", 80).at("10.1.0.1").at("10.96.0.2").into(),
    ]);
    let both = ["10.1.0.1:80", "10.96.0.2:80"];
    assert_eq!(endpoints(&snapshot, "", Protocol::Tcp), both);

    // The service appears later than the slice, moves away, comes back and goes.
    let owner = |address| Change::Service(svc("owner").ip(address).tcp("", 80));
    let steps = [
        (owner("10.96.0.2"), vec!["10.1.0.1:80"]),
        (owner("10.96.0.3"), both.to_vec()),
        (owner("10.96.0.2"), vec!["10.1.0.1:80"]),
        (Change::ServiceDeleted(key("owner")), both.to_vec()),
    ];
    for (change, expected) in steps {
        assert_eq!(snapshot.apply(change), changed(&["owner", "s"]));
        assert_eq!(endpoints(&snapshot, "", Protocol::Tcp), expected);
    }
}

#[test]
fn address_of_two_services_is_a_service_address_until_both_are_deleted() {
    let owner = |name: &str| Change::Service(svc(name).ip("10.96.0.2").tcp("", 80));
    let mut snapshot = snapshot([owner("a"), owner("b"), slice("s").tcp("", 80).at("10.96.0.2").into()]);
    assert_eq!(snapshot.owner_of(ip("10.96.0.2")), Some(&key("a")));
    snapshot.apply(Change::ServiceDeleted(key("a")));
    assert_eq!(snapshot.owner_of(ip("10.96.0.2")), Some(&key("b")));
    assert_eq!(endpoints(&snapshot, "", Protocol::Tcp), [""; 0]);
    snapshot.apply(Change::ServiceDeleted(key("b")));
    assert_eq!(snapshot.owner_of(ip("10.96.0.2")), None);
    assert_eq!(endpoints(&snapshot, "", Protocol::Tcp), ["10.96.0.2:80"]);
}

#[test]
fn both_addresses_of_a_dual_stack_service_are_rejected_as_endpoints() {
    let snapshot = snapshot([
        slice("s").tcp("", 80).at("10.96.0.2").at("fd00::2").at("fd01::1").into(),
        svc("owner").ip("10.96.0.2").ip("fd00::2").tcp("", 80).into(),
    ]);
    assert_eq!(endpoints(&snapshot, "", Protocol::Tcp), ["[fd01::1]:80"]);
}

#[test]
fn address_of_another_proxys_service_is_not_an_endpoint() {
    let mut other = svc("other").ip("10.96.0.2").tcp("", 80);
    other.has_portals = false;
    let snapshot = snapshot([slice("s").tcp("", 80).at("10.96.0.2").into(), other.into()]);
    assert_eq!(endpoints(&snapshot, "", Protocol::Tcp), [""; 0]);
}

#[test]
fn unproxied_service_has_names_and_no_effect_on_addresses() {
    let ranges = vec!["10.96.0.0/16".parse().unwrap()];
    let mut service = svc("named").ip("10.96.0.2").tcp("", 80);
    (service.has_portals, service.is_unproxied) = (false, true);
    let mut snapshot = snapshot([
        Change::ServiceRanges(ranges),
        slice("s").tcp("", 80).at("10.96.0.2").into(),
        service.clone().into(),
    ]);
    assert!(snapshot.service_named("default", "named").is_some());
    let effects = |snapshot: &Snapshot| {
        (
            endpoints(snapshot, "", Protocol::Tcp),
            snapshot.owner_of(ip("10.96.0.2")).is_some(),
            snapshot.service_ranges().len(),
        )
    };
    let without = (vec!["10.96.0.2:80".to_owned()], false, 1);
    assert_eq!(effects(&snapshot), without);
    (service.has_portals, service.is_unproxied) = (true, false);
    assert_eq!(snapshot.apply(service.clone().into()), changed(&["named", "s"]));
    assert_eq!(effects(&snapshot), (Vec::new(), true, 1));
    (service.has_portals, service.is_unproxied) = (false, true);
    assert_eq!(snapshot.apply(service.clone().into()), changed(&["named", "s"]));
    assert_eq!(effects(&snapshot), without);
    assert_eq!(snapshot.apply(Change::ServiceDeleted(service.key)), changed(&["named"]));
    assert_eq!(effects(&snapshot), without);
}

#[test]
fn slice_without_portals_has_endpoints_for_names_only() {
    let named = EndpointSlice { has_portals: false, ..slice("s").named("x").tcp("", 80).at("10.1.0.2") };
    let snapshot = snapshot([slice("s").tcp("", 80).at("10.1.0.1").into(), named.into()]);
    assert_eq!(endpoints(&snapshot, "", Protocol::Tcp), ["10.1.0.1:80"]);
    assert_eq!((snapshot.slices_of(&key("s")).count(), snapshot.portal_slices_of(&key("s")).count()), (2, 1));
}

#[test]
fn external_address_is_not_a_service_address() {
    let balanced = svc("lb").ip("10.96.0.2").external("192.0.2.1").balanced("192.0.2.2").tcp("", 80);
    let slice = slice("s").tcp("", 80).at("192.0.2.1").at("192.0.2.2");
    let snapshot = snapshot([balanced.into(), slice.into()]);
    assert_eq!(endpoints(&snapshot, "", Protocol::Tcp), ["192.0.2.1:80", "192.0.2.2:80"]);
}

#[test]
fn change_returns_only_its_own_service() {
    let mut snapshot = snapshot(crate::sample::cluster(5, 2));
    let slice = crate::sample::cluster_slice(3, 2, 1);
    assert_eq!(snapshot.apply(slice.into()), changed(&["svc-3"]));
    assert_eq!(snapshot.apply(svc("svc-2").ip("10.96.9.9").tcp("", 81).into()), changed(&["svc-2"]));
    assert_eq!(
        snapshot.apply(Change::SliceDeleted(SliceKey::new("default", "svc-1-1"))),
        changed(&["svc-1"])
    );
    assert_eq!(snapshot.apply(Change::ServiceDeleted(key("svc-0"))), changed(&["svc-0"]));
}

#[test]
fn change_without_effect_returns_no_service() {
    let service = || Change::Service(svc("s").ip("10.96.0.1").tcp("", 80));
    let slice = || Change::Slice(slice("s").tcp("", 80).at("10.1.0.1"));
    let mut snapshot = snapshot([service(), slice()]);
    for change in
        [service(), slice(), Change::ServiceDeleted(key("x")), Change::SliceDeleted(SliceKey::new("x", "y"))]
    {
        assert_eq!(snapshot.apply(change), ChangedServices::new());
    }
}

#[test]
fn slice_that_moves_to_another_service_returns_both_services() {
    let mut snapshot = snapshot([slice("s").named("x").tcp("", 80).at("10.1.0.1").into()]);
    let moved = slice("t").named("x").tcp("", 80).at("10.1.0.1");
    assert_eq!(snapshot.apply(moved.into()), changed(&["s", "t"]));
    assert_eq!(endpoints(&snapshot, "", Protocol::Tcp), [""; 0]);
    assert_eq!(snapshot.slices_of(&key("t")).count(), 1);
}

#[test]
fn slice_replaces_the_one_with_its_name() {
    let (one, two) = (slice("s").tcp("", 80).at("10.1.0.1"), slice("s").tcp("", 80).at("10.1.0.2"));
    assert_eq!(tcp_endpoints([one, two]), ["10.1.0.2:80"]);
}

#[test]
fn clone_is_independent_of_later_changes() {
    let mut snapshot = snapshot([slice("s").tcp("", 80).at("10.1.0.1").into()]);
    let before = snapshot.clone();
    snapshot.apply(slice("s").tcp("", 80).at("10.1.0.2").into());
    assert_eq!(endpoints(&before, "", Protocol::Tcp), ["10.1.0.1:80"]);
    assert!(snapshot.revision() > before.revision());
}

#[test]
fn services_of_a_namespace_exclude_those_of_namespaces_with_longer_names() {
    let snapshot = snapshot([
        svc("b").namespace("team").into(),
        svc("a").namespace("team").into(),
        svc("c").namespace("team-2").into(),
        svc("d").namespace("tea").into(),
    ]);
    let names: Vec<String> = snapshot.services_in("team").map(|s| s.key.name.to_string()).collect();
    assert_eq!(names, ["a", "b"]);
    assert_eq!(snapshot.service_count(), 4);
}

#[test]
fn addresses_are_unallocated_only_if_no_other_proxy_has_services() {
    let ranges = vec!["10.96.0.0/16".parse().unwrap()];
    let mut foreign = svc("other").ip("10.96.0.9").tcp("", 80);
    foreign.has_portals = false;
    let mut snapshot = snapshot([Change::ServiceRanges(ranges.clone()), foreign.clone().into()]);
    assert!(snapshot.service_ranges().is_empty());
    foreign.has_portals = true;
    snapshot.apply(foreign.clone().into());
    assert_eq!(snapshot.service_ranges(), ranges);
    foreign.has_portals = false;
    snapshot.apply(foreign.clone().into());
    assert!(snapshot.service_ranges().is_empty());
    snapshot.apply(Change::ServiceDeleted(foreign.key));
    assert_eq!(snapshot.service_ranges(), ranges);
}

#[test]
fn new_service_address_finds_its_endpoint_after_slices_changed() {
    let near = |name: &str, address: &str| slice(name).tcp("", 80).at(address);
    let mut snapshot =
        snapshot([near("a", "10.1.0.1").into(), near("b", "10.1.0.2").into(), near("c", "10.1.0.3").into()]);
    snapshot.apply(Change::SliceDeleted(slice("a").key));
    snapshot.apply(near("b", "10.9.0.2").into());
    let changed = snapshot.apply(svc("thief").ip("10.1.0.3").tcp("", 80).into());
    let expected = ["c", "thief"].map(|name| ServiceKey::new("default", name));
    assert_eq!(changed.into_iter().collect::<Vec<_>>(), expected);
}
