//! The state of node portals without a kernel: what is written, and when.

use proxy_core::portal::{Place, node_port_address};
use proxy_core::ruleset::node::{FrontendAction, NodeElement, NodeTable};
use proxy_core::sample::{ip, node_context, slice, snapshot, svc};
use proxy_core::snapshot::Change;

use super::*;

const GRACE: Duration = Duration::from_secs(30);

fn options(grace: Duration) -> NodeOptions {
    NodeOptions {
        context: NodeContext { place: Place::Node, ..node_context() },
        settings: NodeSettings::default(),
        addresses: NodePortAddresses::default(),
        detect_local: DetectLocal::Ranges(vec!["10.1.0.0/16".parse().expect("a CIDR")]),
        grace,
    }
}

fn node_port() -> PortalKey {
    PortalKey {
        address: node_port_address(proxy_core::address::Family::V4),
        protocol: Protocol::Tcp,
        port: 30_080,
    }
}

fn services(local: &[&str]) -> Snapshot {
    let service = svc("web").ip("10.96.0.1").tcp("", 80).node_port(30_080).external_local();
    let endpoints = slice("web").tcp("", 8080).at("10.1.1.1").on("n2");
    let endpoints = local.iter().fold(endpoints, |slice, address| slice.at(address).on("n1"));
    snapshot([service.into(), endpoints.into()])
}

fn changed_services() -> ChangedServices {
    services(&[]).services().map(|service| service.key.clone()).collect()
}

fn action(state: &NodeState) -> FrontendAction {
    state.desired().frontend_at(node_port()).expect("a node port").action
}

#[test]
fn nothing_is_written_before_the_initial_sync() {
    let mut state = NodeState::new(options(Duration::ZERO));
    state.set_local_addresses([ip("10.240.0.5")].into());
    assert!(state.work().is_none());
}

#[test]
fn table_is_read_before_the_first_write_and_after_a_change_by_another_process() {
    let mut state = NodeState::new(options(Duration::ZERO));
    state.set_services(services(&["10.1.0.1"]), None, Instant::now());
    assert!(matches!(state.work(), Some(Work::Read)));
    assert_eq!(state.on_read(NodeTableState::Missing), None);
    assert!(matches!(state.work(), Some(Work::Apply(_))));
    state.on_applied();
    assert!(state.work().is_none() && state.is_applied());
    state.mark_unknown();
    assert!(matches!(state.work(), Some(Work::Read)));
    let why = state.on_read(NodeTableState::Drifted("a chain is missing".to_owned()));
    assert_eq!(why.as_deref(), Some("a chain is missing"));
    assert!(matches!(state.work(), Some(Work::Apply(_))));
}

#[test]
fn connections_are_dropped_at_once_without_grace() {
    let mut state = NodeState::new(options(Duration::ZERO));
    let now = Instant::now();
    state.set_services(services(&["10.1.0.1"]), None, now);
    state.set_services(services(&[]), Some(&changed_services()), now);
    assert_eq!(action(&state), FrontendAction::Drop);
    assert_eq!(state.deadline(), None);
}

#[test]
fn other_endpoints_serve_during_the_grace_only() {
    let mut state = NodeState::new(options(GRACE));
    let now = Instant::now();
    state.set_services(services(&["10.1.0.1"]), None, now);
    state.set_services(services(&[]), Some(&changed_services()), now);
    assert!(matches!(action(&state), FrontendAction::Forward(_, 1)));
    assert_eq!(state.deadline(), Some(now + GRACE));
    state.end_grace(now + GRACE);
    assert_eq!(action(&state), FrontendAction::Drop);
    assert_eq!(state.deadline(), None);
}

#[test]
fn grace_continues_when_the_table_is_read_again() {
    let mut state = NodeState::new(options(GRACE));
    let now = Instant::now();
    state.set_services(services(&["10.1.0.1"]), None, now);
    state.set_services(services(&[]), Some(&changed_services()), now);
    let elements = state.desired().elements();
    let table = NodeTable {
        settings: state.desired().settings(),
        chains: elements.iter().filter_map(NodeElement::chain).collect(),
        elements: elements.into_iter().collect(),
        ..NodeTable::default()
    };
    state.mark_unknown();
    assert_eq!(state.on_read(NodeTableState::Intact(table)), None);
    assert!(matches!(action(&state), FrontendAction::Forward(_, 1)));
    assert!(state.work().is_none(), "nothing is written");
    state.end_grace(now + GRACE);
    assert_eq!(action(&state), FrontendAction::Drop);
}

#[test]
fn services_that_never_had_a_local_endpoint_have_no_grace() {
    let mut state = NodeState::new(options(GRACE));
    let now = Instant::now();
    state.set_services(services(&[]), None, now);
    state.set_services(services(&[]), Some(&changed_services()), now);
    assert_eq!(action(&state), FrontendAction::Drop);
}

#[test]
fn flows_to_a_node_port_are_checked_at_the_addresses_of_the_node() {
    let mut state = NodeState::new(options(Duration::ZERO));
    let service = svc("dns").ip("10.96.0.9").udp("", 53).node_port(30_053);
    let endpoints: Change = slice("dns").udp("", 53).at("10.1.0.1").into();
    state.set_services(snapshot([service.into(), endpoints]), None, Instant::now());
    state.on_read(NodeTableState::Missing);
    assert!(state.take_stale_udp().is_none(), "not before the rules are applied");
    state.on_applied();
    let stale = state.take_stale_udp().expect("UDP portals");
    let keys: Vec<String> = stale.keys().map(ToString::to_string).collect();
    assert_eq!(keys, ["10.96.0.9/UDP/53", "10.240.0.5/UDP/30053"]);
}

#[test]
fn flows_to_a_service_at_an_address_of_the_node_are_not_those_of_a_node_port() {
    let mut state = NodeState::new(options(Duration::ZERO));
    let dns = || svc("dns").ip("10.96.0.9").udp("", 53).node_port(30_053);
    let owner = svc("owner").ip("10.96.0.8").udp("", 30_053).external("10.240.0.5");
    let mut services = snapshot([dns().into(), slice("dns").udp("", 53).at("10.1.0.1").into(), owner.into()]);
    state.set_services(services.clone(), None, Instant::now());
    state.on_read(NodeTableState::Missing);
    state.on_applied();
    state.take_stale_udp().expect("UDP portals");
    let changed = services.apply(slice("dns").udp("", 53).at("10.1.0.2").into());
    state.set_services(services, Some(&changed), Instant::now());
    state.on_applied();
    let stale = state.take_stale_udp().expect("UDP portals");
    let keys: Vec<String> = stale.keys().map(ToString::to_string).collect();
    assert_eq!(keys, ["10.96.0.9/UDP/53"]);
}
