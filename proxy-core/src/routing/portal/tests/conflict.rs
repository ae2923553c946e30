//! Conflicts of every node: the same precedence as that of `Portals`, from services only.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

fn conflicts_of(snapshot: &Snapshot) -> Vec<(String, String)> {
    let conflicts = conflicts_on_every_node(snapshot, &ExternalPolicy::all(), PortalLimits::STANDARD);
    conflicts.into_iter().map(|(service, conflict)| (service.to_string(), conflict.to_string())).collect()
}

/// Services with cluster addresses of their own, created on the 1st, 2nd and 3rd.
fn three_services(names: [&str; 3], with: impl Fn(Service) -> Service) -> Snapshot {
    let service = |(number, name): (usize, &&str)| {
        let service = svc(name).namespace(&format!("of-{name}")).ip(&format!("10.96.0.{}", number + 1));
        Change::from(with(service.created(&format!("2026-01-0{}T00:00:00Z", number + 1))))
    };
    snapshot(names.iter().enumerate().map(service))
}

fn owned(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(service, text)| ((*service).to_owned(), (*text).to_owned())).collect()
}

#[test]
fn younger_services_conflict_at_an_external_address() {
    let text = "192.0.2.1/TCP/80 conflicts with service of-z/z, which takes precedence";
    for with in [Service::external as fn(Service, &str) -> Service, Service::balanced] {
        let services = three_services(["z", "m", "a"], |service| with(service, "192.0.2.1").tcp("", 80));
        assert_eq!(conflicts_of(&services), owned(&[("of-a/a", text), ("of-m/m", text)]));
    }
}

#[test]
fn younger_services_conflict_at_node_ports_and_health_check_node_ports() {
    let text = "node port TCP/30080 conflicts with service of-z/z, which takes precedence; 1 more conflict";
    let services = three_services(["z", "m", "a"], |service| {
        service.ip("fd00::1").tcp("", 80).node_port(30_080).health_check(31_000)
    });
    assert_eq!(conflicts_of(&services), owned(&[("of-a/a", text), ("of-m/m", text)]));
    let text = "health-check node port 31000 conflicts with service of-z/z, which takes precedence";
    let services = three_services(["z", "m", "a"], |service| service.tcp("", 80).health_check(31_000));
    assert_eq!(conflicts_of(&services), owned(&[("of-a/a", text), ("of-m/m", text)]));
}

#[test]
fn services_that_share_an_address_without_a_port_have_no_conflict() {
    let port = |service: Service| u16::from(service.key.name.as_bytes()[0]);
    let services = three_services(["z", "m", "a"], |service| {
        let port = port(service.clone());
        service.balanced("192.0.2.1").tcp("", port).node_port(30_000 + port).health_check(31_000 + port)
    });
    assert_eq!(conflicts_of(&services), []);
}

#[test]
fn service_of_another_proxy_has_no_conflict() {
    let services = three_services(["z", "m", "a"], |mut service| {
        service.has_portals = &*service.key.name == "z";
        service.balanced("192.0.2.1").tcp("", 80).node_port(30_080).health_check(31_000)
    });
    assert_eq!(conflicts_of(&services), []);
}

#[test]
fn address_that_the_operator_does_not_allow_has_no_conflict() {
    let services = three_services(["z", "m", "a"], |service| service.external("192.0.2.1").tcp("", 80));
    let conflicts = conflicts_on_every_node(&services, &ExternalPolicy::default(), PortalLimits::STANDARD);
    assert_eq!(conflicts, std::collections::BTreeMap::new());
}

#[test]
fn portal_beyond_the_limit_of_its_service_has_no_conflict() {
    let services = three_services(["z", "m", "a"], |service| {
        let ports = if &*service.key.name == "z" { 1..=3 } else { 3..=3 };
        ports.fold(service.external("192.0.2.1"), |service, port| service.tcp(&format!("p{port}"), port))
    });
    let conflicts = |service_portals| {
        let limits = PortalLimits { service_portals, ..PortalLimits::default() };
        let conflicts = conflicts_on_every_node(&services, &ExternalPolicy::all(), limits);
        conflicts.into_values().map(|conflict| conflict.owner.name.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(conflicts(6), ["z", "z"]);
    assert_eq!(conflicts(5), ["m"], "z has portals at two ports of the address");
}

#[test]
fn conflicts_of_the_youngest_services_beyond_the_bound_are_ignored() {
    let service = |number: u16| {
        let service = svc(&format!("s{number:03}")).ip(&format!("10.96.1.{number}")).external("192.0.2.1");
        let service = service.created(&format!("2026-01-01T00:{:02}:{:02}Z", number / 60, number % 60));
        Change::from((1..=200).fold(service, |service, port| service.tcp(&format!("p{port}"), port)))
    };
    // Each can have five portals at each port: 20 services reach the bound.
    let names: Vec<String> =
        conflicts_of(&snapshot((0..100).map(service))).into_iter().map(|(name, _)| name).collect();
    let expected: Vec<String> = (1..20).map(|number| format!("default/s{number:03}")).collect();
    assert_eq!(names, expected);
}

/// A service's day of creation, ports, node ports, external addresses, load-balancer addresses, and whether it has
/// portals.
type RandomService = (u8, Vec<u8>, Vec<u8>, Vec<u8>, Vec<u8>, bool);

fn random_service() -> impl Strategy<Value = RandomService> {
    let few = || vec(0_u8..4, 0..3);
    (1_u8..4, vec(0_u8..3, 1..3), few(), few(), few(), prop::bool::weighted(0.9))
}

fn build_service(
    (number, (day, ports, node_ports, external, balanced, has_portals)): (usize, RandomService),
) -> Service {
    let mut service = svc(&format!("s{number}")).namespace(if number % 2 == 0 { "a" } else { "b" });
    service = service.ip(&format!("10.96.0.{}", number + 1)).created(&format!("2026-01-0{day}T00:00:00Z"));
    let ports: std::collections::BTreeSet<u8> = ports.into_iter().collect();
    for (index, port) in ports.into_iter().enumerate() {
        service = service.tcp(&format!("p{port}"), 80 + u16::from(port));
        if let Some(node_port) = node_ports.get(index) {
            service = service.node_port(30_000 + u16::from(*node_port));
        }
    }
    service = external.into_iter().fold(service, |own, last| own.external(&format!("192.0.2.{last}")));
    service = balanced.into_iter().fold(service, |own, last| own.balanced(&format!("192.0.2.{last}")));
    service.has_portals = has_portals;
    service
}

proptest! {
    #[test]
    fn conflicts_have_the_precedence_of_portals(services in vec(random_service(), 0..7), service_portals in 1_usize..12) {
        let snapshot = snapshot(services.into_iter().enumerate().map(|random| build_service(random).into()));
        let limits = PortalLimits { service_portals, ..PortalLimits::default() };
        let context = NodeContext { place: Place::Node, limits, ..node_context() };
        let portals = portals(&snapshot, &context);
        let mut expected = std::collections::BTreeMap::new();
        for portal in portals.by_service() {
            let owner = &portals.get(portal.key).expect("a portal with precedence").service;
            if *owner != portal.service {
                let ports = expected.entry(portal.service.clone()).or_insert_with(Vec::new);
                ports.push((ClaimedPort::from(portal.key), owner.clone()));
            }
        }
        let found = conflicts_on_every_node(&snapshot, &context.external, limits);
        prop_assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
        for (service, conflict) in found {
            let mut ports = expected.remove(&service).expect("the keys are equal");
            ports.sort();
            ports.dedup();
            prop_assert_eq!((conflict.port, conflict.owner), ports[0].clone());
            prop_assert_eq!(conflict.others, ports.len() - 1);
        }
    }
}
