//! Which external addresses become portals, and which never do, whatever the operator allows.

use super::*;

fn destinations(portals: &Portals) -> Vec<String> {
    portals.iter().map(|portal| format!("{}:{}", portal.key.address, portal.key.port)).collect()
}

/// A service with one address of each kind.
fn web() -> Service {
    svc("web").ip("10.96.0.1").tcp("", 80).balanced("192.0.2.2").external("192.0.2.1")
}

fn portals_allowed_by(external: ExternalPolicy, changes: impl IntoIterator<Item = Change>) -> Portals {
    portals(&snapshot(changes), &NodeContext { external, ..node_context() })
}

#[test]
fn load_balancer_addresses_are_portals_by_default_and_external_ips_are_not() {
    assert_eq!(
        destinations(&portals_allowed_by(ExternalPolicy::default(), with_endpoint(web()))),
        ["10.96.0.1:80", "192.0.2.2:80"]
    );
    let none = ExternalPolicy { kinds: ExternalKinds::None, ..ExternalPolicy::default() };
    assert_eq!(destinations(&portals_allowed_by(none, with_endpoint(web()))), ["10.96.0.1:80"]);
    let all = ["10.96.0.1:80", "192.0.2.1:80", "192.0.2.2:80"];
    assert_eq!(destinations(&portals_allowed_by(ExternalPolicy::all(), with_endpoint(web()))), all);
}

#[test]
fn external_addresses_outside_the_allowed_cidrs_are_not_portals() {
    let external =
        ExternalPolicy { cidrs: Arc::from(["192.0.2.2/31".parse().unwrap()]), ..ExternalPolicy::all() };
    let portals = portals_allowed_by(external, with_endpoint(web()));
    assert_eq!(destinations(&portals), ["10.96.0.1:80", "192.0.2.2:80"]);
    let refused: Vec<_> =
        portals.refusals().flat_map(|(_, refused)| refused.iter().collect::<Vec<_>>()).collect();
    assert_eq!(refused, [(RefusalReason::ExternalCidrs, 1)]);
}

#[test]
fn external_address_is_never_loopback_link_local_or_multicast() {
    let forbidden =
        ["127.0.0.1", "169.254.169.254", "0.0.0.0", "224.0.1.1", "255.255.255.255", "::1", "fe80::1"];
    for address in forbidden {
        let service = web().ip("fd00::1");
        for service in [service.clone().balanced(address), service.external(address)] {
            let portals = portals_allowed_by(ExternalPolicy::all(), with_endpoint(service));
            assert!(portals.at(ip(address)).next().is_none(), "{address}");
            let refused = portals.refusals_by_reason(TableKind::Full);
            assert_eq!(
                refused.iter().collect::<Vec<_>>(),
                [(RefusalReason::ForbiddenAddress, 1)],
                "{address}"
            );
        }
    }
}

#[test]
fn cluster_address_is_never_an_external_address_in_any_order() {
    let thief = || svc("thief").ip("10.96.0.7").tcp("", 853).external("10.96.0.10").balanced("10.96.0.10");
    let dns = || svc("dns").ip("10.96.0.10").udp("", 53);
    for changes in [[dns().into(), thief().into()], [thief().into(), Change::from(dns())]] {
        let (mut all, mut incremental) = (Snapshot::new(), portals(&Snapshot::new(), &node_context()));
        for change in changes {
            let changed = all.apply(change);
            incremental.refresh(&all, &node_context(), &changed);
        }
        assert_eq!(destinations(&incremental), ["10.96.0.7:853", "10.96.0.10:53"]);
        let changed = all.apply(Change::ServiceDeleted(key("dns")));
        incremental.refresh(&all, &node_context(), &changed);
        assert_eq!(destinations(&incremental), ["10.96.0.7:853", "10.96.0.10:853"], "it is free again");
    }
}

#[test]
fn address_of_an_api_server_is_never_taken_over_in_any_order() {
    let thief = || svc("thief").ip("10.96.0.7").tcp("", 6443).tcp("b", 80).external("192.0.2.1");
    let api: Change = slice("kubernetes").tcp("https", 6443).at("192.0.2.1").into();
    for changes in [[api.clone(), thief().into()], [thief().into(), api]] {
        let (mut all, mut incremental) = (Snapshot::new(), portals(&Snapshot::new(), &node_context()));
        for change in changes {
            let changed = all.apply(change);
            incremental.refresh(&all, &node_context(), &changed);
        }
        assert_eq!(destinations(&incremental), ["10.96.0.7:80", "10.96.0.7:6443", "192.0.2.1:80"]);
        let changed = all.apply(slice("kubernetes").tcp("https", 6443).at("192.0.2.9").into());
        incremental.refresh(&all, &node_context(), &changed);
        assert!(incremental.get(tcp("192.0.2.1:6443")).is_some(), "the API server has moved away");
    }
}

#[test]
fn first_created_service_has_a_shared_external_address() {
    let older = svc("z").ip("10.96.0.1").tcp("", 80).external("192.0.2.1").created("2026-01-01T00:00:00Z");
    let newer = svc("a").ip("10.96.0.2").tcp("", 80).external("192.0.2.1").created("2026-01-02T00:00:00Z");
    let unknown = svc("0").ip("10.96.0.3").tcp("", 80).external("192.0.2.1");
    let portals = portals_of([newer.into(), unknown.into(), Change::from(older)]);
    assert_eq!(owner(&portals, "192.0.2.1:80").as_deref(), Some("z"));
}

#[test]
fn recreated_service_loses_its_external_address_to_an_older_one() {
    let recreated = |created| svc("a").ip("10.96.0.1").tcp("", 80).external("192.0.2.1").created(created);
    let other = svc("b").ip("10.96.0.2").tcp("", 80).external("192.0.2.1").created("2026-01-02T00:00:00Z");
    let mut all = snapshot([recreated("2026-01-01T00:00:00Z").into(), Change::from(other)]);
    let mut incremental = portals(&all, &node_context());
    assert_eq!(owner(&incremental, "192.0.2.1:80").as_deref(), Some("a"));
    let changed = all.apply(recreated("2026-01-03T00:00:00Z").into());
    let touched = incremental.refresh(&all, &node_context(), &changed);
    assert_eq!(owner(&incremental, "192.0.2.1:80").as_deref(), Some("b"));
    assert!(touched.contains(&tcp("192.0.2.1:80")), "the table must follow the new owner");
}
