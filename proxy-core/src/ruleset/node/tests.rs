//! Tests of the node's table: frontends and targets, plans, and recovery.

use std::collections::BTreeSet;

use super::*;
use crate::model::service::{Service, TrafficPolicy};
use crate::model::snapshot::{Change, Snapshot};
use crate::routing::portal::{NodeContext, Place, node_port_address, portals};
use crate::sample::{backend, ip, node_context, slice, snapshot, svc, tcp};
use crate::service::Protocol;

fn context() -> NodeContext {
    NodeContext { place: Place::Node, ..node_context() }
}

fn environment() -> NodeEnvironment {
    NodeEnvironment { addresses: Arc::new([ip("10.240.0.5")].into()), ..NodeEnvironment::default() }
}

fn ruleset(changes: impl IntoIterator<Item = Change>) -> NodeRuleset {
    NodeRuleset::new(&portals(&snapshot(changes), &context()), NodeSettings::default(), environment())
}

fn node_port(port: u16) -> PortalKey {
    PortalKey { address: node_port_address(crate::address::Family::V4), protocol: Protocol::Tcp, port }
}

fn web() -> Service {
    svc("web").ip("10.96.0.1").tcp("", 80).node_port(30_080)
}

fn backends_of(ruleset: &NodeRuleset, action: FrontendAction) -> Vec<String> {
    let target = action.target().and_then(|number| ruleset.target(number)).expect("a target");
    target.backends.iter().map(ToString::to_string).collect()
}

/// Applies a plan to a table as the kernel does: it rejects what exists already, and what does not exist.
fn apply(table: &mut NodeTable, plan: &NodePlan) {
    for op in plan.ops() {
        match *op {
            NodeOp::DeleteTable => *table = NodeTable::default(),
            NodeOp::AddTable(settings) => {
                *table = NodeTable { settings: Some(settings), ..NodeTable::default() }
            }
            NodeOp::AddClients(family, number) => assert!(table.clients.insert((family, number))),
            NodeOp::AddChain(chain) => {
                assert!(table.chains.insert(chain));
                if let NodeChain::Own(OwnChain {
                    number,
                    family,
                    selection: BackendSelection::Affinity(_),
                    ..
                }) = chain
                {
                    assert!(table.clients.contains(&(family, number)), "rules of {chain} need the map");
                }
            }
            NodeOp::Delete(element) => assert!(table.elements.remove(&element), "{element:?} does not exist"),
            NodeOp::Add(element) => {
                let chain = element.chain();
                assert!(
                    chain.is_none_or(|chain| table.chains.contains(&chain)),
                    "{element:?} needs its chain"
                );
                assert!(table.elements.insert(element), "{element:?} exists");
            }
            NodeOp::DeleteChain(chain) => {
                assert!(!table.elements.iter().any(|element| element.chain() == Some(chain)), "in use");
                assert!(table.chains.remove(&chain));
            }
            NodeOp::DeleteClients(family, number) => assert!(table.clients.remove(&(family, number))),
        }
    }
}

fn table_of(ruleset: &NodeRuleset) -> NodeTable {
    let mut table = NodeTable::default();
    let changes = NodeChanges::default();
    apply(&mut table, &node_plan(&NodeRuleset::empty(), ruleset, &changes));
    table
}

#[test]
fn cluster_address_and_node_port_share_their_target() {
    let ruleset = ruleset([web().into(), slice("web").tcp("", 8080).at("10.1.0.1").at("10.1.0.2").into()]);
    let action = |key| ruleset.frontend_at(key).expect("a frontend").action;
    let cluster = action(tcp("10.96.0.1:80"));
    assert_eq!(action(node_port(30_080)), cluster);
    assert_eq!(backends_of(&ruleset, cluster), ["10.1.0.1:8080", "10.1.0.2:8080"]);
    let backends = ruleset.elements().into_iter().filter(|e| matches!(e, NodeElement::Backend(..)));
    assert_eq!(backends.count(), 2);
}

#[test]
fn external_policy_local_has_local_backends_outside_and_all_backends_in_the_cluster() {
    let service = Service { external_policy: TrafficPolicy::Local, ..web() };
    let endpoints = slice("web").tcp("", 8080).at("10.1.0.1").at("10.1.0.2").on("n1");
    let ruleset = ruleset([service.into(), endpoints.into()]);
    let frontend = ruleset.frontend_at(node_port(30_080)).expect("a node port");
    assert_eq!(backends_of(&ruleset, frontend.action), ["10.1.0.2:8080"]);
    let short = frontend.short.expect("an action for clients in the cluster");
    assert_eq!(backends_of(&ruleset, short), ["10.1.0.1:8080", "10.1.0.2:8080"]);
    assert!(ruleset.is_local_endpoint(ip("10.1.0.2")) && !ruleset.is_local_endpoint(ip("10.1.0.1")));
}

#[test]
fn external_policy_local_without_local_endpoint_drops_outside_only() {
    let service = Service { external_policy: TrafficPolicy::Local, ..web() };
    let ruleset = ruleset([service.into(), slice("web").tcp("", 8080).at("10.1.0.1").into()]);
    let frontend = ruleset.frontend_at(node_port(30_080)).expect("a node port");
    assert_eq!(frontend.action, FrontendAction::Drop);
    assert_eq!(backends_of(&ruleset, frontend.short.expect("in the cluster")), ["10.1.0.1:8080"]);
}

#[test]
fn service_without_endpoints_rejects_on_every_address() {
    let ruleset = ruleset([web().into()]);
    for key in [tcp("10.96.0.1:80"), node_port(30_080)] {
        assert_eq!(ruleset.frontend_at(key).expect("a frontend").action, FrontendAction::Reject);
    }
}

#[test]
fn changed_endpoint_changes_one_backend() {
    let mut snapshot =
        snapshot([web().into(), slice("web").tcp("", 8080).at("10.1.0.1").at("10.1.0.2").into()]);
    let mut portals = portals(&snapshot, &context());
    let applied = NodeRuleset::new(&portals, NodeSettings::default(), environment());
    let changed = snapshot.apply(slice("web").tcp("", 8080).at("10.1.0.1").at("10.1.0.3").into());
    let changed = portals.refresh(&snapshot, &context(), &changed);
    let mut desired = applied.clone();
    let changes = desired.refresh(&portals, &changed);
    let plan = node_plan(&applied, &desired, &changes);
    let (deleted, added): (Vec<_>, Vec<_>) = (
        plan.ops().iter().filter_map(|op| op.deleted()).collect(),
        plan.ops().iter().filter_map(|op| op.added()).collect(),
    );
    assert!(matches!(deleted[..], [NodeElement::Backend(_, 1, old)] if old == backend("10.1.0.2:8080")));
    assert!(matches!(added[..], [NodeElement::Backend(_, 1, new)] if new == backend("10.1.0.3:8080")));
    assert_eq!(plan.ops().len(), 2);
}

#[test]
fn clients_with_affinity_keep_their_map_if_the_number_of_backends_changes() {
    let sticky = web().sticky(60);
    let mut snapshot = snapshot([sticky.into(), slice("web").tcp("", 8080).at("10.1.0.1").into()]);
    let mut portals = portals(&snapshot, &context());
    let applied = NodeRuleset::new(&portals, NodeSettings::default(), environment());
    let changed = snapshot.apply(slice("web").tcp("", 8080).at("10.1.0.1").at("10.1.0.3").into());
    let changed = portals.refresh(&snapshot, &context(), &changed);
    let mut desired = applied.clone();
    let changes = desired.refresh(&portals, &changed);
    let plan = node_plan(&applied, &desired, &changes);
    let is_clients = |op: &NodeOp| matches!(op, NodeOp::AddClients(..) | NodeOp::DeleteClients(..));
    assert!(!plan.ops().iter().any(is_clients), "{plan:?}");
    let mut table = table_of(&applied);
    apply(&mut table, &plan);
    assert_eq!(table, table_of(&desired));
}

#[test]
fn names_of_chains_and_values_of_frontends_are_parsed_back() {
    let number = TargetNumber::new(TARGETS_MAX - 1).expect("a number");
    assert_eq!(TargetNumber::new(TARGETS_MAX), None);
    for action in [
        FrontendAction::Reject,
        FrontendAction::Drop,
        FrontendAction::Forward(number, 3),
        FrontendAction::OwnChain(number),
    ] {
        assert_eq!(FrontendAction::from_value(action.value()), Some(action));
        for (has_short, is_guarded) in [(false, false), (false, true), (true, false), (true, true)] {
            let value = FrontendValue { action, has_short, is_guarded };
            assert_eq!(FrontendValue::from_value(value.value()), Some(value));
        }
    }
    for selection in
        [BackendSelection::Affinity(10_800), BackendSelection::RoundRobin, BackendSelection::Random]
    {
        for family in crate::address::Family::BOTH {
            let chain = NodeChain::Own(OwnChain { number, family, selection, count: 3 });
            assert_eq!(NodeChain::parse(&chain.to_string()), Some(chain));
        }
    }
    assert_eq!(NodeChain::parse("pick-12"), Some(NodeChain::Pick(12)));
    assert_eq!(NodeChain::parse("pick-012"), None);
    assert_eq!(NodeChain::parse("own4-1-2-turns"), None);
}

#[test]
fn target_with_more_backends_than_shared_chains_have_has_its_own_chain() {
    let most = u32::from(code::COUNT_MAX);
    for (count, is_shared) in [(most, true), (most + 1, false)] {
        let addresses = (0..count).map(|number| std::net::Ipv4Addr::from_bits(0x0a01_0000 + number));
        let endpoints = addresses.fold(slice("web").tcp("", 8080), |slice, at| slice.at(&at.to_string()));
        let ruleset = ruleset([web().into(), endpoints.into()]);
        let action = ruleset.frontend_at(tcp("10.96.0.1:80")).expect("a frontend").action;
        assert_eq!(matches!(action, FrontendAction::Forward(..)), is_shared);
        assert_eq!(backends_of(&ruleset, action).len(), usize::try_from(count).expect("a small number"));
        assert!(table_of(&ruleset).to_ruleset().is_some());
    }
}

#[test]
fn table_of_another_process_is_not_recovered() {
    let ruleset = ruleset([web().into(), slice("web").tcp("", 8080).at("10.1.0.1").into()]);
    let table = table_of(&ruleset);
    assert!(table.to_ruleset().is_some());
    let backend = table.elements.iter().find(|e| matches!(e, NodeElement::Backend(..))).copied();
    let mut damaged = table.clone();
    damaged.elements.remove(&backend.expect("a backend"));
    assert!(damaged.to_ruleset().is_none());
    let mut extended = table;
    extended.elements.insert(NodeElement::Address(ip("10.96.0.99")));
    assert!(extended.to_ruleset().is_none());
}

/// A history of snapshots: services with different policies and affinity, endpoints that come and go.
fn steps(seed: u64) -> Vec<Change> {
    let mut changes = vec![Change::ServiceRanges(vec!["10.96.0.0/16".parse().expect("a CIDR")])];
    let mut state = seed;
    let mut draw = |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    for _ in 0..60 {
        let name = format!("s{}", draw(8));
        let number = name.trim_start_matches('s').parse::<u16>().expect("a digit");
        if draw(3) == 0 {
            let mut service =
                svc(&name).ip(&format!("10.96.0.{}", number + 1)).tcp("", 80).node_port(30_000 + number);
            if draw(3) == 0 {
                service = service.sticky(60 + u32::from(number));
            }
            if draw(3) == 0 {
                service = service.balanced(&format!("192.0.2.{number}")).only_from("198.51.100.0/24");
            }
            if draw(2) == 0 {
                service.external_policy = TrafficPolicy::Local;
            }
            changes.push(service.into());
        } else {
            let mut endpoints = slice(&name).tcp("", 8080);
            for _ in 0..draw(5) {
                let address = format!("10.1.{number}.{}", draw(6) + 1);
                endpoints =
                    if draw(2) == 0 { endpoints.at(&address) } else { endpoints.at(&address).on("n1") };
            }
            changes.push(endpoints.into());
        }
    }
    changes
}

#[test]
fn incremental_plans_lead_to_the_table_of_the_ruleset_and_a_restart_writes_nothing() {
    for seed in 0..200 {
        let mut snapshot = Snapshot::default();
        let mut portals = portals(&snapshot, &context());
        let mut applied = NodeRuleset::new(&portals, NodeSettings::default(), environment());
        let mut table = table_of(&applied);
        for change in steps(seed) {
            let changed = snapshot.apply(change);
            let changed = portals.refresh(&snapshot, &context(), &changed);
            let mut desired = applied.clone();
            let changes = desired.refresh(&portals, &changed);
            apply(&mut table, &node_plan(&applied, &desired, &changes));
            applied = desired;
            let elements: BTreeSet<NodeElement> = applied.elements().into_iter().collect();
            assert_eq!(table.elements, elements, "seed {seed}");
        }
        let recovered = table.to_ruleset().expect("the table of a ruleset");
        let mut desired = recovered.clone();
        let changes = desired.refresh_all(&portals, environment());
        assert_eq!(node_plan(&recovered, &desired, &changes), NodePlan::default(), "seed {seed}");
    }
}

#[test]
fn elements_are_in_their_order_and_size_is_their_number() {
    for seed in 0..50 {
        let settings = NodeSettings { keep_client_address: true, ..NodeSettings::default() };
        let portals = portals(&snapshot(steps(seed)), &context());
        let ruleset = NodeRuleset::new(&portals, settings, environment());
        let elements = ruleset.elements();
        assert!(elements.is_sorted(), "seed {seed}");
        assert_eq!(ruleset.size(), elements.len(), "seed {seed}");
    }
}
