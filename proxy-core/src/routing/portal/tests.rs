//! The portals of services: kinds, attributes, precedence between services, and the portals that a change affects.
//!
//! The tests of `trace` cover packets. That incremental updates equal a fresh start is a property in `tests`.

use super::*;
use crate::model::service::Service;
use crate::model::snapshot::Change;
use crate::model::snapshot::Snapshot;
use crate::sample::{ip, node_context, slice, snapshot, svc, tcp, udp};

fn key(name: &str) -> ServiceKey {
    ServiceKey::new("default", name)
}

fn portals_of(changes: impl IntoIterator<Item = Change>) -> Portals {
    portals(&snapshot(changes), &node_context())
}

fn owner(portals: &Portals, destination: &str) -> Option<String> {
    portals.get(tcp(destination)).map(|portal| portal.service.name.to_string())
}

/// A service with an endpoint.
fn with_endpoint(service: Service) -> [Change; 2] {
    let slice = slice(&service.key.name).tcp("", 80).at("10.1.0.1");
    [service.into(), slice.into()]
}

#[test]
fn each_address_of_a_service_is_a_portal_of_its_kind() {
    let service = svc("s").ip("10.96.0.1").ip("fd00::1").tcp("", 80).node_port(30080);
    let service = service.external("192.0.2.1").balanced("192.0.2.2").external("2001:db8::1");
    let portals = portals_of(with_endpoint(service));
    let found: Vec<(String, u16, PortalKind)> =
        portals.iter().map(|p| (p.key.address.to_string(), p.key.port, p.kind)).collect();
    let expected = [
        ("10.96.0.1", 80, PortalKind::ClusterIp),
        ("10.240.0.5", 30080, PortalKind::NodePort),
        ("192.0.2.1", 80, PortalKind::ExternalIp),
        ("192.0.2.2", 80, PortalKind::LoadBalancer),
        ("2001:db8::1", 80, PortalKind::ExternalIp),
        ("2001:db8:f::5", 30080, PortalKind::NodePort),
        ("fd00::1", 80, PortalKind::ClusterIp),
    ];
    assert_eq!(found, expected.map(|(address, port, kind)| (address.to_owned(), port, kind)));
}

#[test]
fn each_port_of_a_service_is_a_portal() {
    let portals = portals_of([svc("s").ip("10.96.0.1").tcp("a", 80).tcp("b", 81).udp("c", 80).into()]);
    let names: Vec<(u16, Protocol, &str)> =
        portals.iter().map(|p| (p.key.port, p.key.protocol, &*p.port_name)).collect();
    assert_eq!(names, [(80, Protocol::Tcp, "a"), (81, Protocol::Tcp, "b"), (80, Protocol::Udp, "c")]);
}

#[test]
fn verdict_distinguishes_missing_from_excluded_endpoints() {
    let local = || svc("s").ip("10.96.0.1").tcp("", 80).internal_local();
    let verdict = |changes: Vec<Change>| portals_of(changes).get(tcp("10.96.0.1:80")).unwrap().verdict;
    let on = |node| Change::from(slice("s").tcp("", 80).at("10.1.0.1").on(node));
    assert_eq!(verdict(vec![local().into()]), Verdict::Reject);
    assert_eq!(verdict(vec![local().into(), on("n2")]), Verdict::Drop);
    assert_eq!(verdict(vec![local().into(), on("n1")]), Verdict::Forward);
}

#[test]
fn backends_are_sorted_and_exist_only_if_connections_are_forwarded() {
    let ready = slice("s").tcp("", 80).at("10.1.0.3").at("10.1.0.1").at("10.1.0.2");
    let service = || svc("s").ip("10.96.0.1").tcp("", 80);
    let backends =
        |changes: [Change; 2]| portals_of(changes).get(tcp("10.96.0.1:80")).unwrap().backends.clone();
    let expected = ["10.1.0.1:80", "10.1.0.2:80", "10.1.0.3:80"].map(crate::sample::backend);
    assert_eq!(*backends([service().into(), ready.clone().into()]), expected);
    assert!(backends([service().internal_local().into(), ready.into()]).is_empty());
}

#[test]
fn all_portals_have_the_affinity_of_their_service() {
    let service = svc("s").ip("10.96.0.1").tcp("", 80).node_port(30080).balanced("192.0.2.2").sticky(600);
    assert!(portals_of(with_endpoint(service)).iter().all(|portal| portal.affinity_s == Some(600)));
    assert!(
        portals_of(with_endpoint(svc("s").ip("10.96.0.1").tcp("", 80)))
            .iter()
            .all(|p| p.affinity_s.is_none())
    );
}

#[test]
fn backends_beyond_the_limit_are_omitted_and_counted() {
    let mut slice = slice("s").tcp("", 80);
    for number in 0..=BACKENDS_MAX {
        slice = slice.at(&format!("10.1.{}.{}", number / 250, number % 250));
    }
    let portals = portals_of([svc("s").ip("10.96.0.1").tcp("", 80).into(), slice.into()]);
    let portal = portals.get(tcp("10.96.0.1:80")).unwrap();
    assert_eq!((portal.backends.len(), portal.omitted_backends), (BACKENDS_MAX, 1));
}

#[test]
fn cluster_address_takes_precedence_over_an_external_one() {
    let thief = svc("a-thief").ip("10.96.0.9").tcp("", 80).external("10.96.0.1").balanced("10.96.0.1");
    let portals =
        portals_of([with_endpoint(thief), with_endpoint(svc("owner").ip("10.96.0.1").tcp("", 80))].concat());
    assert_eq!(owner(&portals, "10.96.0.1:80").as_deref(), Some("owner"));
    let claims: Vec<&str> = portals.claims_on(tcp("10.96.0.1:80")).map(|p| &*p.service.name).collect();
    assert_eq!(claims, ["owner"], "an address of the cluster is not claimed at all");
}

#[test]
fn first_service_by_name_has_a_shared_external_address() {
    let claims = |name: &str, address: &str| svc(name).ip(address).tcp("", 80).external("192.0.2.1");
    let portals = portals_of(
        [with_endpoint(claims("b", "10.96.0.2")), with_endpoint(claims("a", "10.96.0.1"))].concat(),
    );
    assert_eq!(owner(&portals, "192.0.2.1:80").as_deref(), Some("a"));
    assert_eq!(portals.iter().filter(|portal| portal.key == tcp("192.0.2.1:80")).count(), 1);
    assert_eq!(portals.by_service().filter(|portal| portal.key == tcp("192.0.2.1:80")).count(), 2);
}

#[test]
fn services_are_ordered_by_namespace_then_name() {
    let claims = |namespace: &str, name: &str| {
        let service = svc(name).namespace(namespace).tcp("", 80).external("192.0.2.1");
        Change::from(service.ip(if namespace == "x" { "10.96.0.1" } else { "10.96.0.2" }))
    };
    let portals = portals_of([claims("y", "a"), claims("x", "b")]);
    assert_eq!(owner(&portals, "192.0.2.1:80").as_deref(), Some("b"));
}

#[test]
fn two_services_share_an_external_address_on_different_ports() {
    let portals = portals_of([
        svc("a").ip("10.96.0.1").tcp("", 80).external("192.0.2.1").into(),
        svc("b").ip("10.96.0.2").tcp("", 81).external("192.0.2.1").into(),
        svc("c").ip("10.96.0.3").udp("", 80).external("192.0.2.1").into(),
    ]);
    assert_eq!(owner(&portals, "192.0.2.1:80").as_deref(), Some("a"));
    assert_eq!(owner(&portals, "192.0.2.1:81").as_deref(), Some("b"));
    assert_eq!(&*portals.get(udp("192.0.2.1:80")).unwrap().service.name, "c");
}

#[test]
fn duplicate_address_of_a_service_is_one_portal_with_source_ranges() {
    let service = svc("s").ip("10.96.0.1").tcp("", 80).external("192.0.2.1").balanced("192.0.2.1");
    let portals = portals_of(with_endpoint(service.only_from("10.2.0.0/16")));
    let portal = portals.get(tcp("192.0.2.1:80")).unwrap();
    assert_eq!(portal.kind, PortalKind::LoadBalancer);
    assert!(portal.sources.is_some());
    assert_eq!(portals.claims_on(portal.key).count(), 1);
}

#[test]
fn external_address_follows_the_service_with_precedence() {
    let claims = |name: &str, address: &str| svc(name).ip(address).tcp("", 80).external("192.0.2.1");
    let winner = || Change::from(claims("a", "10.96.0.1"));
    let mut snapshot = snapshot([winner(), claims("b", "10.96.0.2").into()]);
    let mut incremental = portals(&snapshot, &node_context());
    let steps = [
        (Change::ServiceDeleted(key("a")), "b", true),
        (winner(), "a", true),
        (svc("a").ip("10.96.0.1").tcp("", 80).into(), "b", true), // it stays, and drops the address
        (svc("b").ip("192.0.2.1").tcp("", 80).into(), "b", true),
        (winner(), "b", false), // a cluster address is not claimed by others
    ];
    for (change, expected, is_touched) in steps {
        let changed = snapshot.apply(change);
        let touched = incremental.refresh(&snapshot, &node_context(), &changed);
        assert_eq!(touched.contains(&tcp("192.0.2.1:80")), is_touched);
        assert_eq!(owner(&incremental, "192.0.2.1:80").as_deref(), Some(expected));
    }
}

#[test]
fn changed_endpoint_changes_only_portals_of_its_port() {
    let service = svc("s").ip("10.96.0.1").tcp("a", 80).tcp("b", 81).balanced("192.0.2.1");
    let ports = |address: &str| {
        let b = slice("s").named("b").tcp("b", 81).at("10.1.0.9");
        [slice("s").named("a").tcp("a", 80).at(address), b].map(Change::from)
    };
    let mut snapshot = snapshot(ports("10.1.0.1").into_iter().chain([service.into()]));
    let mut incremental = portals(&snapshot, &node_context());
    let [a, _] = ports("10.1.0.2");
    let changed = snapshot.apply(a);
    let touched = incremental.refresh(&snapshot, &node_context(), &changed);
    assert_eq!(touched, [tcp("10.96.0.1:80"), tcp("192.0.2.1:80")].into());
}

#[test]
fn endpoint_that_is_not_selected_changes_nothing() {
    let slice = || slice("s").tcp("", 80).at("10.1.0.1");
    let mut snapshot = snapshot([svc("s").ip("10.96.0.1").tcp("", 80).into(), slice().into()]);
    let mut incremental = portals(&snapshot, &node_context());
    let changed = snapshot.apply(slice().at("10.1.0.2").unready().into());
    assert_eq!(incremental.refresh(&snapshot, &node_context(), &changed), ChangedPortals::new());
}

#[test]
fn deleted_service_changes_each_of_its_portals() {
    let service = svc("s").ip("10.96.0.1").ip("fd00::1").tcp("", 80).external("192.0.2.1");
    let mut snapshot = snapshot([service.into()]);
    let mut incremental = portals(&snapshot, &node_context());
    let changed = snapshot.apply(Change::ServiceDeleted(key("s")));
    let touched = incremental.refresh(&snapshot, &node_context(), &changed);
    assert_eq!(touched, [tcp("10.96.0.1:80"), tcp("192.0.2.1:80"), tcp("[fd00::1]:80")].into());
    assert_eq!(incremental.iter().count() + incremental.by_service().count(), 0);
}

#[test]
fn invisible_service_stays_invisible_if_it_changes() {
    let node_context = NodeContext { filter: ServiceFilter::Only([key("seen")].into()), ..node_context() };
    let hidden = |address: &str| Change::from(svc("hidden").ip(address).tcp("", 80));
    let mut snapshot = snapshot([hidden("10.96.0.1"), svc("seen").ip("10.96.0.2").tcp("", 80).into()]);
    let mut incremental = portals(&snapshot, &node_context);
    let changed = snapshot.apply(hidden("10.96.0.3"));
    assert_eq!(incremental.refresh(&snapshot, &node_context, &changed), ChangedPortals::new());
    assert_eq!(incremental.iter().count(), 1);
}

#[test]
fn service_ranges_are_updated_and_merged() {
    let ranges = |texts: &[&str]| Change::ServiceRanges(texts.iter().map(|t| t.parse().unwrap()).collect());
    let mut snapshot = snapshot([ranges(&["10.96.0.0/16"])]);
    let mut incremental = portals(&snapshot, &node_context());
    let changed = snapshot.apply(ranges(&["10.96.0.0/17", "10.96.128.0/17", "fd00::/112", "fd00::/120"]));
    assert_eq!(incremental.refresh(&snapshot, &node_context(), &changed), ChangedPortals::new());
    let texts: Vec<String> = incremental.service_ranges().iter().map(ToString::to_string).collect();
    assert_eq!(texts, ["10.96.0.0/16", "fd00::/112"]);
}

#[test]
fn node_without_an_address_of_a_family_has_no_node_ports_in_it() {
    let service = svc("s").ip("10.96.0.1").ip("fd00::1").tcp("", 80).node_port(30080);
    let mut here = node_context();
    here.node.addresses = vec![ip("2001:db8:f::5")];
    let portals = portals(&snapshot(with_endpoint(service)), &here);
    let node_ports: Vec<String> = portals
        .iter()
        .filter(|portal| portal.kind == PortalKind::NodePort)
        .map(|portal| portal.key.address.to_string())
        .collect();
    assert_eq!(node_ports, ["2001:db8:f::5"]);
}

mod conflict;
mod every_node;
mod external;
mod limits;
