//! Refusals of every node: computed from services only, and never more than a node refuses.

use proptest::prelude::*;

use super::*;

fn refusals_of(
    snapshot: &Snapshot,
    external: &ExternalPolicy,
    limits: PortalLimits,
) -> Vec<(String, Vec<(RefusalReason, usize)>)> {
    let refused = refused_on_every_node(snapshot, &"default".into(), external, limits);
    refused.into_iter().map(|(key, refused)| (key.name.to_string(), refused.iter().collect())).collect()
}

#[test]
fn service_within_the_limits_is_not_refused() {
    let services =
        ["a", "b"].map(|name| Change::from(svc(name).ip("10.96.0.1").tcp("", 80).node_port(30_080)));
    assert_eq!(refusals_of(&snapshot(services), &ExternalPolicy::default(), PortalLimits::STANDARD), []);
}

#[test]
fn service_beyond_its_portal_limit_is_refused_by_count() {
    let mut service = svc("big").ip("10.96.0.1");
    for port in 1..=1_100 {
        service = service.tcp(&format!("p{port}"), port);
    }
    let found = refusals_of(&snapshot([service.into()]), &ExternalPolicy::default(), PortalLimits::STANDARD);
    assert_eq!(found, [("big".to_owned(), vec![(RefusalReason::ServicePortals, 76)])]);
}

#[test]
fn younger_services_of_a_namespace_beyond_its_limit_are_refused() {
    let service = |name: &str, number: u8, day: u8| {
        let service = svc(name).ip(&format!("10.96.0.{number}")).tcp("a", 80).tcp("b", 81);
        Change::from(service.created(&format!("2026-01-0{day}T00:00:00Z")))
    };
    let services = [service("z", 1, 1), service("m", 2, 2), service("a", 3, 3)];
    // Two portals and an address each, without endpoints.
    let limits = |namespace_elements| PortalLimits { namespace_elements, ..PortalLimits::STANDARD };
    let found =
        |elements| refusals_of(&snapshot(services.clone()), &ExternalPolicy::default(), limits(elements));
    assert_eq!(found(9), []);
    assert_eq!(found(8), [("a".to_owned(), vec![(RefusalReason::NamespaceElements, 1)])]);
    let both = [("a", 2), ("m", 1)];
    let both = both.map(|(name, count)| (name.to_owned(), vec![(RefusalReason::NamespaceElements, count)]));
    assert_eq!(found(5), both);
}

#[test]
fn external_addresses_are_refused_by_the_operators_rules() {
    let service = svc("web").ip("10.96.0.1").tcp("", 80).external("192.0.2.1").external("127.0.0.1");
    let other = svc("other").ip("10.96.0.2").tcp("", 80).external("10.96.0.1");
    let services = snapshot([service.into(), other.into()]);
    let of = |external: &ExternalPolicy| refusals_of(&services, external, PortalLimits::STANDARD);
    let named = |name: &str, reason, count| (name.to_owned(), vec![(reason, count)]);
    let kinds = [
        named("other", RefusalReason::ExternalAddresses, 1),
        named("web", RefusalReason::ExternalAddresses, 2),
    ];
    assert_eq!(of(&ExternalPolicy::default()), kinds);
    let all =
        [named("other", RefusalReason::ClusterAddress, 1), named("web", RefusalReason::ForbiddenAddress, 1)];
    assert_eq!(of(&ExternalPolicy::all()), all);
}

#[test]
fn service_of_another_proxy_is_not_refused() {
    let mut service = svc("other").ip("10.96.0.1").tcp("", 80).external("127.0.0.1");
    service.has_portals = false;
    assert_eq!(refusals_of(&snapshot([service.into()]), &ExternalPolicy::all(), PortalLimits::STANDARD), []);
}

/// A service with a few ports, external addresses, a node port, and endpoints.
fn any_service() -> impl Strategy<Value = (u8, u8, u8, u8, u8)> {
    (0_u8..5, 1_u8..4, 1_u8..5, 0_u8..4, 0_u8..4)
}

proptest! {
    #[test]
    fn a_node_refuses_at_least_what_every_node_refuses(
        services in prop::collection::vec(any_service(), 0..6),
        service_portals in 1_usize..12,
        namespace_elements in 1_usize..60,
    ) {
        let (mut alone, mut whole) = (Snapshot::new(), Snapshot::new());
        for (number, day, ports, externals, endpoints) in services {
            let name = format!("s{number}");
            let mut service = svc(&name).ip(&format!("10.96.0.{}", number + 1));
            service = service.created(&format!("2026-01-0{day}T00:00:00Z"));
            let mut own = slice(&name);
            for port in 0..u16::from(ports) {
                service = service.tcp(&format!("p{port}"), 80 + port).node_port(30_000 + port);
                own = own.tcp(&format!("p{port}"), 8_080);
            }
            for external in 0..externals {
                // Some are the cluster address of another service.
                service = service.external(&format!("10.96.0.{}", external * 4 + 2));
            }
            own = (0..endpoints).fold(own, |own, number| own.at(&format!("10.1.0.{number}")));
            alone.apply(service.clone().into());
            whole.apply(service.into());
            whole.apply(own.into());
        }
        let limits = PortalLimits { service_portals, namespace_elements, ..PortalLimits::default() };
        let node = NodeContext { limits, external: ExternalPolicy::all(), ..node_context() };
        let portals = portals(&whole, &node);
        for (key, refused) in refused_on_every_node(&alone, &"default".into(), &node.external, limits) {
            let here = portals.refusals_of(&key);
            prop_assert!(refused.iter().all(|(reason, count)| here.count(reason) >= count), "{key}: {refused:?}, {here:?}");
        }
    }
}
