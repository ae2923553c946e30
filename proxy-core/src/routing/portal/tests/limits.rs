//! The limits of services, namespaces and tables: which portals are admitted, and that other services lose nothing.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::model::service::Scheduler;
use crate::ruleset::{Ruleset, Settings};

const ON_DEMAND: Settings =
    Settings { nat_priority: -99, relay_port: 15_999, on_demand: true, counters: false };

fn with_limits(limits: PortalLimits) -> NodeContext {
    NodeContext { limits, ..node_context() }
}

/// A service with 64 ports, 63 external addresses and 10 endpoints: a few kilobytes that request 4,096 portals and
/// 40,960 backends.
fn large_service(namespace: &str, number: u8) -> [Change; 2] {
    let name = format!("hog-{number}");
    let mut service = svc(&name).namespace(namespace).ip(&format!("10.96.1.{number}"));
    let mut own = slice(&name);
    (own.key.namespace, own.service.namespace) = (namespace.into(), namespace.into());
    for port in 0..64 {
        service = service.tcp(&format!("p{port}"), 8_000 + port);
        own = own.tcp(&format!("p{port}"), 8_000 + port);
    }
    for address in 1..64 {
        service = service.external(&format!("203.0.{number}.{address}"));
    }
    for address in 1..=10 {
        own = own.at(&format!("10.1.{number}.{address}"));
    }
    [service.into(), own.into()]
}

fn honest_service() -> [Change; 2] {
    let service = svc("web").namespace("honest").ip("10.96.0.1").tcp("", 80).external("192.0.2.1");
    let mut own = slice("web").tcp("", 80).at("10.2.0.1").at("10.2.0.2");
    (own.key.namespace, own.service.namespace) = ("honest".into(), "honest".into());
    [service.into(), own.into()]
}

#[test]
fn hundred_services_of_64_ports_and_63_external_addresses_are_limited_and_others_work() {
    let mut all = Snapshot::new();
    let node_context = with_limits(PortalLimits::STANDARD);
    let mut incremental = portals(&all, &node_context);
    for change in (1..=100)
        .flat_map(|number| large_service(&format!("tenant-{}", number % 10), number))
        .chain(honest_service())
    {
        let changed = all.apply(change);
        incremental.refresh(&all, &node_context, &changed);
    }
    assert_eq!(incremental.iter().count(), portals(&all, &node_context).iter().count());
    let full = Ruleset::new(&incremental, Settings::default());
    let unused = Ruleset::new(&incremental, ON_DEMAND);
    assert!(full.size() <= PortalLimits::STANDARD.table_elements, "{} elements", full.size());
    assert!(
        full.size() > PortalLimits::STANDARD.table_elements / 2,
        "what there is is used: {}",
        full.size()
    );
    assert!(
        unused.size() <= PortalLimits::STANDARD.table_elements / 4,
        "{} elements on demand",
        unused.size()
    );
    for portal in ["10.96.0.1:80", "192.0.2.1:80"] {
        assert_eq!(full.rule(tcp(portal)).map(|rule| rule.backends.len()), Some(2), "{portal}");
    }
    let refused = incremental.refusals_by_reason(TableKind::Full);
    assert_eq!(refused.count(RefusalReason::ServicePortals), 100 * (4_096 - 1_024));
    assert!(
        refused.count(RefusalReason::NamespaceElements) > 0
            && refused.count(RefusalReason::TableElements) > 0
    );
    let named: BTreeSet<&str> = incremental.refusals().map(|(service, _)| &*service.namespace).collect();
    assert_eq!(named.len(), 10, "the ten tenants and not the honest one: {named:?}");
}

#[test]
fn cluster_addresses_of_a_service_take_precedence() {
    let changes = with_endpoint(svc("s").ip("10.96.0.9").tcp("a", 80).tcp("b", 81).external("10.0.0.1"));
    let limits = PortalLimits { service_portals: 3, ..PortalLimits::default() };
    let portals = portals(&snapshot(changes), &with_limits(limits));
    let found: Vec<PortalKey> = portals.iter().map(|portal| portal.key).collect();
    assert_eq!(found, [tcp("10.0.0.1:80"), tcp("10.96.0.9:80"), tcp("10.96.0.9:81")]);
    assert_eq!(portals.refusals_by_reason(TableKind::Full).count(RefusalReason::ServicePortals), 1);
}

#[test]
fn namespace_over_its_limit_loses_external_addresses_before_cluster_addresses() {
    let service = |name: &str, number: u8, created: &str| {
        let service = svc(name).ip(&format!("10.96.0.{number}")).tcp("", 80).created(created);
        with_endpoint(service.external(&format!("192.0.2.{number}")))
    };
    let [old, new] = [service("z", 1, "2026-01-01T00:00:00Z"), service("a", 2, "2026-01-02T00:00:00Z")];
    let seen = |elements| {
        let limits = PortalLimits { namespace_elements: elements, ..PortalLimits::default() };
        let portals = portals(&snapshot(old.iter().chain(&new).cloned()), &with_limits(limits));
        portals.iter().map(|portal| portal.key.address.to_string()).collect::<Vec<_>>()
    };
    // A portal, its backend, and the address where it is a cluster address.
    assert_eq!(seen(10), ["10.96.0.1", "10.96.0.2", "192.0.2.1", "192.0.2.2"]);
    assert_eq!(seen(9), ["10.96.0.1", "10.96.0.2", "192.0.2.1"]);
    assert_eq!(seen(7), ["10.96.0.1", "10.96.0.2"]);
    assert_eq!(seen(5), ["10.96.0.1"]);
    assert_eq!(seen(2), [""; 0]);
}

/// A small service of one of a few tenants.
#[derive(Debug, Clone)]
struct SmallService {
    tenant: u8,
    number: u8,
    day: u8,
    ports: u16,
    backends: u8,
    external: bool,
    manner: u8,
}

fn small_service() -> impl Strategy<Value = SmallService> {
    let size = (1_u16..5, 0_u8..6, any::<bool>(), 0_u8..4);
    (0_u8..3, 0_u8..6, 1_u8..4, size).prop_map(
        |(tenant, number, day, (ports, backends, external, manner))| SmallService {
            tenant,
            number,
            day,
            ports,
            backends,
            external,
            manner,
        },
    )
}

impl SmallService {
    fn key(&self) -> ServiceKey {
        ServiceKey::new(format!("t{}", self.tenant), format!("s{}", self.number))
    }

    fn changes(&self) -> [Change; 2] {
        let Self { tenant, number, day, .. } = *self;
        let key = self.key();
        let mut service = svc(&key.name).namespace(&key.namespace).ip(&format!("10.96.{tenant}.{number}"));
        service = service.created(&format!("2026-01-0{day}T00:00:00Z"));
        let mut own = slice(&key.name);
        (own.key.namespace, own.service.namespace) = (key.namespace.clone(), key.namespace);
        for port in 0..self.ports {
            service = service.tcp(&format!("p{port}"), 80 + port);
            own = own.tcp(&format!("p{port}"), 80 + port);
        }
        for backend in 0..self.backends {
            own = own.at(&format!("10.1.{}.{}", 10 * tenant + number, backend + 1));
        }
        if self.external {
            service = service.external(&format!("203.0.{tenant}.{number}"));
        }
        service = match self.manner {
            0 => service.sticky(60),
            1 => service.scheduler(Scheduler::RoundRobin),
            2 => {
                service.sticky(10_800).balanced(&format!("198.51.{tenant}.{number}")).only_from("10.0.0.0/8")
            }
            _ => service,
        };
        [service.into(), own.into()]
    }
}

#[derive(Debug, Clone)]
enum Step {
    Put(SmallService),
    Remove(u8, u8),
    Ranges(bool),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => small_service().prop_map(Step::Put),
        2 => (0_u8..3, 0_u8..6).prop_map(|(tenant, number)| Step::Remove(tenant, number)),
        1 => any::<bool>().prop_map(Step::Ranges),
    ];
    proptest::collection::vec(step, 1..24)
}

fn changes_of(step: &Step) -> Vec<Change> {
    match step {
        Step::Put(small) => small.changes().into(),
        Step::Remove(tenant, number) => {
            vec![Change::ServiceDeleted(ServiceKey::new(format!("t{tenant}"), format!("s{number}")))]
        }
        Step::Ranges(true) => vec![Change::ServiceRanges(vec!["10.96.0.0/16".parse().unwrap()])],
        Step::Ranges(false) => vec![Change::ServiceRanges(Vec::new())],
    }
}

fn limits() -> impl Strategy<Value = PortalLimits> {
    (1_usize..8, 5_usize..60, 5_usize..90, 5_usize..60).prop_map(|(service, namespace, table, unused)| {
        PortalLimits {
            service_portals: service,
            namespace_elements: namespace,
            table_elements: table,
            unused_elements: unused,
        }
    })
}

/// Applies steps incrementally, as a node does.
fn apply_steps(steps: &[Step], node_context: &NodeContext) -> (Snapshot, Portals, [Ruleset; 2]) {
    let mut all = Snapshot::new();
    let mut incremental = portals(&all, node_context);
    let mut rulesets = [Settings::default(), ON_DEMAND].map(|settings| Ruleset::new(&incremental, settings));
    for change in steps.iter().flat_map(changes_of) {
        let changed = all.apply(change);
        let touched = incremental.refresh(&all, node_context, &changed);
        rulesets.iter_mut().for_each(|ruleset| drop(ruleset.refresh(&incremental, &touched)));
    }
    (all, incremental, rulesets)
}

fn admitted(portals: &Portals) -> BTreeSet<(ServiceKey, PortalKey)> {
    let within = portals.iter().filter(|portal| portals.fits_share(TableKind::Full, portal));
    within.map(|portal| (portal.service.clone(), portal.key)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn incremental_updates_with_limits_equal_a_fresh_start(steps in steps(), limits in limits()) {
        let node_context = with_limits(limits);
        let (all, incremental, rulesets) = apply_steps(&steps, &node_context);
        let fresh = portals(&all, &node_context);
        prop_assert_eq!(incremental.iter().collect::<Vec<_>>(), fresh.iter().collect::<Vec<_>>());
        prop_assert_eq!(admitted(&incremental), admitted(&fresh));
        prop_assert_eq!(incremental.refusals().collect::<Vec<_>>(), fresh.refusals().collect::<Vec<_>>());
        for (ruleset, settings) in rulesets.iter().zip([Settings::default(), ON_DEMAND]) {
            let fresh = Ruleset::new(&fresh, settings);
            prop_assert_eq!(ruleset.size(), fresh.size());
            let keys = |ruleset: &Ruleset| ruleset.rules().map(|(key, _)| *key).collect::<Vec<_>>();
            prop_assert_eq!(keys(ruleset), keys(&fresh));
        }
    }

    #[test]
    fn tables_and_namespaces_stay_within_their_limits(steps in steps(), limits in limits()) {
        let (_, incremental, [full, unused]) = apply_steps(&steps, &with_limits(limits));
        prop_assert!(full.size() <= limits.table_elements, "{} in a full table", full.size());
        prop_assert!(unused.size() <= limits.unused_elements, "{} in one on demand", unused.size());
        for tenant in ["t0", "t1", "t2"] {
            let own = incremental.iter().filter(|portal| &*portal.service.namespace == tenant);
            let elements = incremental.namespace_elements(tenant);
            prop_assert!(elements <= limits.namespace_elements, "{tenant}: {elements}");
            let most = own.fold(std::collections::BTreeMap::new(), |mut counts, portal| {
                *counts.entry(&portal.service).or_insert(0) += 1;
                counts
            });
            prop_assert!(most.values().all(|count| *count <= limits.service_portals));
        }
    }

    #[test]
    fn admitted_portals_do_not_depend_on_the_order_of_events(
        steps in steps(),
        limits in limits(),
        order in any::<prop::sample::Index>(),
    ) {
        let node_context = with_limits(limits);
        let (all, _, _) = apply_steps(&steps, &node_context);
        // The same objects in another order.
        let mut changes: Vec<Change> = all.services().map(|service| Service::clone(service).into()).collect();
        for service in all.services() {
            changes.extend(all.slices_of(&service.key).map(|slice| Change::Slice((**slice).clone())));
        }
        let turn = order.index(changes.len().max(1));
        changes.rotate_left(turn);
        changes.insert(0, Change::ServiceRanges(all.service_ranges().to_vec()));
        let other: Snapshot = changes.into_iter().collect();
        prop_assert_eq!(admitted(&portals(&other, &node_context)), admitted(&portals(&all, &node_context)));
    }

    #[test]
    fn later_service_takes_nothing_from_its_namespace(
        steps in steps(),
        limits in limits(),
        late in small_service(),
    ) {
        // Between namespaces a table is shared fairly; that a newcomer may have its share is another test.
        let node_context = with_limits(PortalLimits { table_elements: usize::MAX, ..limits });
        let (mut all, mut incremental, _) = apply_steps(&steps, &node_context);
        prop_assume!(all.service(&late.key()).is_none());
        let before = admitted(&incremental);
        for change in (SmallService { day: 9, external: false, manner: 3, ..late }).changes() {
            let change = match change {
                Change::Service(service) => service.created("2027-01-01T00:00:00Z").into(),
                other => other,
            };
            let changed = all.apply(change);
            incremental.refresh(&all, &node_context, &changed);
        }
        let after = admitted(&incremental);
        // Of its own namespace it may take what external addresses had, which come after all cluster addresses.
        let is_cluster_ip = |(_, key): &&(ServiceKey, PortalKey)| key.address.to_string().starts_with("10.96.");
        let lost: Vec<_> = before.difference(&after).filter(is_cluster_ip).collect();
        prop_assert!(lost.is_empty(), "lost {lost:?}");
    }

    #[test]
    fn tenant_takes_nothing_from_a_namespace_below_its_share(
        steps in steps(),
        limits in limits(),
    ) {
        let share = limits.table_elements / 3;
        let alone = PortalLimits { table_elements: usize::MAX, ..limits };
        let (_, incremental, _) = apply_steps(&steps, &with_limits(limits));
        let (_, unshared, _) = apply_steps(&steps, &with_limits(alone));
        for tenant in ["t0", "t1", "t2"] {
            let of = |portals: &Portals| {
                let own = admitted(portals).into_iter().filter(|(service, _)| &*service.namespace == tenant);
                own.collect::<Vec<_>>()
            };
            let needs: usize = unshared.namespace_elements(tenant);
            // A level is rounded down by an eighth at most.
            if needs <= share - share.div_ceil(8) {
                prop_assert_eq!(of(&incremental), of(&unshared), "{} needs {}", tenant, needs);
            }
        }
    }

    #[test]
    fn cost_of_services_equals_the_size_of_the_ruleset(steps in steps()) {
        let (_, incremental, [full, unused]) = apply_steps(&steps, &node_context());
        let cost = ["t0", "t1", "t2"].map(|tenant| incremental.namespace_elements(tenant)).iter().sum::<usize>();
        // Chains of sticky clients may be shared.
        let is_own = |dispatch: &crate::ruleset::dispatch::DispatchKey| {
            matches!(dispatch.action, crate::ruleset::dispatch::Action::Forward { affinity_s: 60, .. })
        };
        let sticky = full.dispatch_keys().filter(is_own).count();
        let with_one = full.rules().filter(|(_, rule)| is_own(&rule.dispatch)).count();
        prop_assert_eq!(full.size(), cost - (with_one - sticky) * STICKY_CHAIN_ELEMENTS);
        for ruleset in [full, unused] {
            let turns = ruleset.dispatch_keys().filter(|dispatch| matches!(dispatch.action, crate::ruleset::dispatch::Action::RoundRobin { .. }));
            let chains = ruleset.dispatch_keys().filter(is_own).count() * STICKY_CHAIN_ELEMENTS
                + turns.count() * ROUND_ROBIN_CHAIN_ELEMENTS;
            let elements = ruleset.elements().count() - ruleset.ranges().len();
            prop_assert_eq!(ruleset.size(), elements + chains);
        }
    }
}
