//! Properties of on-demand tables in every cluster, for all changes, activations and evictions.

use std::collections::BTreeSet;
use std::net::IpAddr;

use proptest::prelude::*;
use proptest::sample::select;

use super::generators::{any_node_context, changes, destinations};
use super::properties::{normalize, sources, traces};
use crate::inspect::trace::{Packet, Trace};
use crate::model::address::Family;
use crate::model::service::Protocol;
use crate::model::snapshot::{Change, Snapshot};
use crate::routing::portal::{ChangedPortals, NodeContext, Portals, portals};
use crate::ruleset::kernel_model::{Table, apply};
use crate::ruleset::plan::{plan, plan_changed};
use crate::ruleset::{Ruleset, Settings};
use crate::sample::{ip, node_context, slice, snapshot, svc, tcp};

const ON_DEMAND: Settings =
    Settings { nat_priority: -99, relay_port: 15_999, on_demand: true, counters: false };

/// What happens after a change.
#[derive(Debug, Clone, Copy)]
enum Step {
    None,
    Activate(IpAddr),
    Evict(IpAddr),
}

fn steps() -> impl Strategy<Value = Vec<(Change, Step)>> {
    let addresses: BTreeSet<IpAddr> = destinations().into_iter().map(|key| key.address).collect();
    let address = select(addresses.into_iter().collect::<Vec<_>>());
    let step = prop_oneof![
        2 => Just(Step::None),
        3 => address.clone().prop_map(Step::Activate),
        1 => address.prop_map(Step::Evict),
    ];
    changes().prop_flat_map(move |changes| {
        let count = changes.len();
        (Just(changes), prop::collection::vec(step.clone(), count))
            .prop_map(|(changes, steps)| changes.into_iter().zip(steps).collect())
    })
}

/// Returns the ruleset after each step, and the portals that were returned as changed.
fn apply_steps(
    steps: Vec<(Change, Step)>,
    node_context: &NodeContext,
) -> (Portals, Vec<(Ruleset, ChangedPortals)>) {
    let mut snapshot = Snapshot::new();
    let mut portals = portals(&snapshot, node_context);
    let mut ruleset = Ruleset::new(&portals, ON_DEMAND);
    let mut history = vec![(ruleset.clone(), ChangedPortals::new())];
    for (change, step) in steps {
        let changed = snapshot.apply(change);
        let touched = portals.refresh(&snapshot, node_context, &changed);
        let mut new = ruleset.refresh(&portals, &touched);
        new.append(&mut match step {
            Step::None => ChangedPortals::new(),
            Step::Activate(address) => ruleset.activate(&portals, address),
            Step::Evict(address) => ruleset.evict(&portals, address),
        });
        history.push((ruleset.clone(), new));
    }
    (portals, history)
}

fn last(history: &[(Ruleset, ChangedPortals)]) -> &Ruleset {
    &history.last().unwrap().0
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn incremental_on_demand_table_equals_a_fresh_start(
        steps in steps(),
        node_context in any_node_context(),
    ) {
        let (portals, history) = apply_steps(steps, &node_context);
        let mut fresh = Ruleset::new(&portals, ON_DEMAND);
        last(&history).active_addresses().for_each(|address| drop(fresh.activate(&portals, address)));
        prop_assert_eq!(normalize(last(&history)), normalize(&fresh));
    }

    #[test]
    fn on_demand_plan_of_changed_portals_equals_the_full_plan(steps in steps(), node_context in any_node_context()) {
        let (_, history) = apply_steps(steps, &node_context);
        for two in history.windows(2) {
            let ((old, _), (new, touched)) = (&two[0], &two[1]);
            prop_assert_eq!(plan_changed(old, new, touched), plan(old, new));
            prop_assert_eq!(apply(&plan_changed(old, new, touched), &Table::from(old)), Ok(Table::from(new)));
        }
    }

    #[test]
    fn on_demand_table_handles_packets_as_a_full_table_or_relays_them(
        steps in steps(),
        node_context in any_node_context(),
    ) {
        let (portals, history) = apply_steps(steps, &node_context);
        let (ruleset, full) = (last(&history), Ruleset::new(&portals, Settings::default()));
        for destination in destinations() {
            let is_in_range = full.ranges().iter().any(|net| net.contains(&destination.address));
            let is_wanted = ruleset.is_active(destination.address);
            let is_here = is_wanted && (!is_in_range || full.has_address(destination.address));
            for source in sources(Family::of(destination.address)) {
                let packet = Packet::sent(source, destination);
                let traces_of = |ruleset: &Ruleset| {
                    let mut traces = traces(ruleset, &packet);
                    traces.sort_unstable_by_key(|trace| format!("{trace:?}"));
                    traces.dedup();
                    traces
                };
                let (here, there) = (traces_of(ruleset), traces_of(&full));
                // SCTP is not relayed: without a portal it is dropped, not rejected.
                let elsewhere = match destination.protocol {
                    Protocol::Sctp => there == [Trace::WrongPort] && here == [Trace::Unallocated],
                    Protocol::Tcp | Protocol::Udp => here == [Trace::Relay],
                };
                // Outside the service ranges, only traffic to a portal may be relayed.
                let is_forwarded = there.iter().all(|trace| matches!(trace, Trace::Forward(_)));
                let may_differ = elsewhere && !is_here && (is_in_range || is_forwarded);
                prop_assert!(here == there || may_differ, "{packet:?}: {here:?}, not {there:?}");
            }
        }
    }
}

fn cluster() -> Snapshot {
    let range = Change::ServiceRanges(vec!["10.96.0.0/16".parse().unwrap()]);
    let plain = |name: &str, address: &str| svc(name).ip(address).tcp("a", 80).tcp("b", 81);
    let mut changes = vec![
        range,
        plain("plain", "10.96.0.1").external("192.0.2.1").into(),
        plain("sticky", "10.96.0.2").sticky(60).into(),
        plain("signal", "10.96.0.3").port(Protocol::Sctp, "c", 82).into(),
        plain("guarded", "10.96.0.4").balanced("10.96.9.4").only_from("10.0.0.0/8").into(),
    ];
    let endpoints = |name: &str| slice(name).tcp("a", 8080).at("10.1.0.1").into();
    changes.extend(["plain", "sticky", "signal", "guarded"].map(endpoints));
    snapshot(changes)
}

fn addresses(ruleset: &Ruleset) -> Vec<String> {
    let all: BTreeSet<IpAddr> = ruleset.rules().map(|(key, _)| key.address).collect();
    all.into_iter().map(|address| address.to_string()).collect()
}

#[test]
fn kernel_only_portals_are_pinned() {
    let portals = portals(&cluster(), &node_context());
    let ruleset = Ruleset::new(&portals, ON_DEMAND);
    assert_eq!(addresses(&ruleset), ["10.96.0.2", "10.96.0.3", "10.96.9.4", "192.0.2.1"]);
}

#[test]
fn address_is_activated_with_all_its_ports() {
    let portals = portals(&cluster(), &node_context());
    let mut ruleset = Ruleset::new(&portals, ON_DEMAND);
    let new = ruleset.activate(&portals, ip("10.96.0.1"));
    assert_eq!(new, ChangedPortals::from([tcp("10.96.0.1:80"), tcp("10.96.0.1:81")]));
    assert!(ruleset.has_address(ip("10.96.0.1")), "and all others are");
    assert_eq!(ruleset.evict(&portals, ip("10.96.0.1")), new);
    assert_eq!(Table::from(&ruleset), Table::from(&Ruleset::new(&portals, ON_DEMAND)));
}

#[test]
fn pinned_portals_are_not_evicted() {
    let portals = portals(&cluster(), &node_context());
    let mut ruleset = Ruleset::new(&portals, ON_DEMAND);
    assert_eq!(ruleset.activate(&portals, ip("10.96.0.2")), ChangedPortals::new());
    assert_eq!(ruleset.evict(&portals, ip("10.96.0.2")), ChangedPortals::new());
    assert!(ruleset.rule(tcp("10.96.0.2:80")).is_some());
}

#[test]
fn full_table_has_no_active_addresses() {
    let portals = portals(&cluster(), &node_context());
    let mut ruleset = Ruleset::new(&portals, Settings::default());
    assert_eq!(ruleset.activate(&portals, ip("10.96.0.1")), ChangedPortals::new());
    assert_eq!(ruleset.active_addresses().count(), 0);
}
