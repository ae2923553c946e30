//! Properties of every cluster and every change, from the snapshot to the plan.
//!
//! `generators` generates the clusters. The expected values are those of a fresh start and of `oracle`, never of
//! incremental updates.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use proptest::prelude::*;

use super::generators::{IncrementalCluster, Revision, any_node_context, changes, destinations};
use super::oracle::{ConnectionResult, expected_result};
use crate::inspect::explain::{Outcome, Query, explain};
use crate::inspect::trace::{Packet, Trace, trace};
use crate::model::address::Family;
use crate::model::service::{Mode, Protocol, Scheduler, ServiceKey};
use crate::model::snapshot::Snapshot;
use crate::routing::portal::{PortalKey, Portals, portals};
use crate::ruleset::dispatch::{Action, DispatchKey};
use crate::ruleset::kernel_model::{Table, apply};
use crate::ruleset::plan::{plan, plan_changed};
use crate::ruleset::{Rule, Ruleset, Settings};
use crate::sample::ip;

/// Sources: one in no range, a pod in a source range, the node, a load-balancer address, and an unknown one.
pub(super) fn sources(family: Family) -> Vec<Option<IpAddr>> {
    let known = ["10.9.0.1", "10.1.0.7", "10.240.0.5", "192.0.2.1", "fd01::7", "2001:db8::1"];
    known.into_iter().map(ip).filter(|ip| Family::of(*ip) == family).map(Some).chain([None]).collect()
}

/// The results of a packet over all draws.
pub(super) fn traces(ruleset: &Ruleset, packet: &Packet) -> Vec<Trace> {
    let slots = ruleset.rule(packet.destination).map_or(0, |rule| rule.backends.len());
    (0..u32::try_from(slots).unwrap().max(1)).map(|draw| trace(ruleset, packet, draw)).collect()
}

fn result_of(traces: &[Trace], relayed: BTreeSet<SocketAddr>) -> ConnectionResult {
    let mut traces = traces.to_vec();
    traces.dedup();
    match traces.as_slice() {
        [Trace::Relay] => ConnectionResult::Relay(relayed),
        [Trace::Reject] => ConnectionResult::Reject,
        [Trace::Drop] => ConnectionResult::Drop,
        [Trace::SourceDenied] => ConnectionResult::SourceDenied,
        [Trace::WrongPort] => ConnectionResult::WrongPort,
        [Trace::Unallocated] => ConnectionResult::Unallocated,
        [Trace::Pass] => ConnectionResult::Pass,
        forwarded => {
            let backend = |trace: &Trace| match trace {
                Trace::Forward(backend) => *backend,
                other => panic!("some draws are forwarded, and one results in {other:?}"),
            };
            ConnectionResult::Forward(forwarded.iter().map(backend).collect())
        }
    }
}

/// A ruleset without what depends on its history: the order of slots, and the numbers of round-robin chains.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NormalizedRuleset {
    rules: BTreeMap<PortalKey, Rule>,
    dispatch_keys: Vec<DispatchKey>,
    addresses: Vec<IpAddr>,
    ranges: Vec<ipnet::IpNet>,
}

pub(super) fn normalize(ruleset: &Ruleset) -> NormalizedRuleset {
    let without_number = |dispatch: DispatchKey| match dispatch.action {
        Action::RoundRobin { count, .. } => {
            DispatchKey { action: Action::RoundRobin { number: 0, count }, ..dispatch }
        }
        _ => dispatch,
    };
    let rules = ruleset.rules().map(|(key, rule)| {
        let mut backends = rule.backends.to_vec();
        backends.sort_unstable();
        let ids: BTreeMap<&SocketAddr, u32> = rule.backends.iter().zip(rule.ids.iter().copied()).collect();
        let ids = ids.into_values().collect();
        (
            *key,
            Rule { dispatch: without_number(rule.dispatch), backends: backends.into(), ids, ..rule.clone() },
        )
    });
    let mut dispatch_keys: Vec<DispatchKey> = ruleset.dispatch_keys().map(without_number).collect();
    dispatch_keys.sort_unstable();
    NormalizedRuleset {
        rules: rules.collect(),
        dispatch_keys,
        addresses: ruleset.addresses().collect(),
        ranges: ruleset.ranges().to_vec(),
    }
}

fn winning_portals(portals: &Portals) -> Vec<crate::routing::portal::Portal> {
    portals.iter().cloned().collect()
}

/// Everything that a snapshot returns about services and endpoints.
fn query_all(snapshot: &Snapshot) -> impl PartialEq + std::fmt::Debug + use<> {
    let services: Vec<_> = snapshot.services().cloned().collect();
    let mut endpoints = Vec::new();
    let mut slices = Vec::new();
    for name in ["s0", "s1", "s2", "s3"] {
        let key = ServiceKey::new("default", name);
        slices.extend(snapshot.slices_of(&key).cloned());
        for (port, protocol) in ["a", "b", "c"].into_iter().flat_map(|p| Protocol::ALL.map(|all| (p, all))) {
            for family in Family::BOTH {
                let found = snapshot.endpoints_of(&key, port, protocol, family);
                endpoints.extend(found.into_iter().map(|e| (e.backend, e.endpoint.clone())));
            }
        }
    }
    let addresses = destinations().into_iter().map(|key| key.address).collect::<BTreeSet<_>>();
    let owners: Vec<_> = addresses.into_iter().map(|a| snapshot.owner_of(a).cloned()).collect();
    (services, slices, endpoints, owners, snapshot.service_ranges().to_vec(), snapshot.service_count())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn packet_is_handled_as_by_kube_proxy(changes in changes(), node_context in any_node_context()) {
        let cluster = IncrementalCluster::after(changes, &node_context);
        let proxied = cluster.objects.proxied();
        for destination in destinations() {
            for source in sources(Family::of(destination.address)) {
                let packet = Packet::sent(source, destination);
                let relayed = cluster.portals.get(destination).map(|portal| portal.backends.to_vec());
                let traces = traces(cluster.ruleset(), &packet);
                let result = result_of(&traces, relayed.unwrap_or_default().into_iter().collect());
                prop_assert_eq!(result, expected_result(&proxied, &node_context, &packet), "{:?}", packet);
            }
        }
    }

    #[test]
    fn objects_that_only_have_names_change_no_portal(changes in changes(), node_context in any_node_context()) {
        let cluster = IncrementalCluster::after(changes, &node_context);
        let proxied = portals(&cluster.objects.proxied().snapshot(), &node_context);
        prop_assert_eq!(winning_portals(&cluster.portals), winning_portals(&proxied));
        prop_assert_eq!(cluster.portals.service_ranges(), proxied.service_ranges());
    }

    #[test]
    fn incremental_snapshot_equals_a_fresh_one(changes in changes()) {
        let cluster = IncrementalCluster::after(changes, &crate::sample::node_context());
        prop_assert_eq!(query_all(&cluster.snapshot), query_all(&cluster.objects.snapshot()));
    }

    #[test]
    fn incremental_portals_and_ruleset_equal_a_fresh_start(
        changes in changes(),
        node_context in any_node_context(),
    ) {
        let cluster = IncrementalCluster::after(changes, &node_context);
        let fresh = portals(&cluster.objects.snapshot(), &node_context);
        prop_assert_eq!(winning_portals(&cluster.portals), winning_portals(&fresh));
        let claims = |portals: &Portals| portals.by_service().cloned().collect::<Vec<_>>();
        prop_assert_eq!(claims(&cluster.portals), claims(&fresh));
        let fresh = Ruleset::new(&fresh, Settings::default());
        prop_assert_eq!(normalize(cluster.ruleset()), normalize(&fresh));
    }

    #[test]
    fn plan_applied_to_the_applied_table_is_the_desired_one(
        changes in changes(),
        node_context in any_node_context(),
        (from, to) in any::<(prop::sample::Index, prop::sample::Index)>(),
    ) {
        let revisions = IncrementalCluster::after(changes, &node_context).revisions;
        let mut pairs: Vec<_> = revisions.windows(2).map(|two| (&two[0].ruleset, &two[1].ruleset)).collect();
        let empty = Ruleset::empty();
        let (from, to) = (from.get(&revisions), to.get(&revisions));
        // Also across several changes, back in time, to and from nothing, and to other settings.
        let other = Settings { nat_priority: -100, ..Settings::default() };
        let other_settings = Ruleset::new(&portals(&Snapshot::new(), &node_context), other);
        pairs.extend([(&from.ruleset, &to.ruleset), (&empty, &to.ruleset), (&from.ruleset, &empty)]);
        pairs.extend([(&other_settings, &to.ruleset), (&from.ruleset, &other_settings)]);
        for (applied, desired) in pairs {
            let result = apply(&plan(applied, desired), &Table::from(applied));
            prop_assert_eq!(result, Ok(Table::from(desired)));
        }
    }

    #[test]
    fn plan_of_changed_portals_equals_the_full_plan(
        changes in changes(),
        node_context in any_node_context(),
        (one, other) in any::<(prop::sample::Index, prop::sample::Index)>(),
    ) {
        let revisions = IncrementalCluster::after(changes, &node_context).revisions;
        for two in revisions.windows(2) {
            let (old, new) = (&two[0].ruleset, &two[1].ruleset);
            prop_assert_eq!(plan_changed(old, new, &two[1].touched), plan(old, new));
        }
        // Also over several changes at once, with all portals that were touched in between.
        let (one, other) = (one.index(revisions.len()), other.index(revisions.len()));
        let range: &[Revision] = &revisions[one.min(other)..=one.max(other)];
        let touched = range.iter().skip(1).flat_map(|revision| revision.touched.iter().copied()).collect();
        let (old, new) = (&range[0].ruleset, &range[range.len() - 1].ruleset);
        prop_assert_eq!(plan_changed(old, new, &touched), plan(old, new));
        prop_assert_eq!(plan_changed(new, old, &touched), plan(new, old));
    }

    #[test]
    fn plan_between_equal_rulesets_is_empty(changes in changes(), node_context in any_node_context()) {
        for Revision { ruleset, touched } in IncrementalCluster::after(changes, &node_context).revisions {
            prop_assert!(plan(&ruleset, &ruleset).is_empty());
            prop_assert!(plan_changed(&ruleset, &ruleset, &touched).is_empty());
        }
    }

    #[test]
    fn round_robin_portal_has_its_own_chain(changes in changes(), node_context in any_node_context()) {
        let cluster = IncrementalCluster::after(changes, &node_context);
        let mut chains = BTreeSet::new();
        for (key, rule) in cluster.ruleset().rules() {
            let Some(portal) = cluster.portals.get(*key) else { panic!("{key} has a rule and no portal") };
            let service = &cluster.objects.services[&portal.service];
            let by_kernel = portal.mode == Mode::Kernel && !rule.backends.is_empty();
            let asks = service.scheduler == Some(Scheduler::RoundRobin) && service.affinity_s.is_none();
            let in_turn = matches!(rule.dispatch.action, Action::RoundRobin { .. });
            prop_assert_eq!(in_turn, asks && by_kernel && rule.backends.len() > 1);
            if let Action::RoundRobin { number, count } = rule.dispatch.action {
                prop_assert!(chains.insert(number), "{} is taken", number);
                prop_assert_eq!(usize::from(count), rule.backends.len());
            }
        }
    }

    #[test]
    fn backend_id_is_stable_while_the_backend_exists(
        changes in changes(),
        node_context in any_node_context(),
    ) {
        // The last backend of each id. A portal that is not sticky loses its ids.
        let mut held: BTreeMap<(PortalKey, u32), SocketAddr> = BTreeMap::new();
        for Revision { ruleset, .. } in IncrementalCluster::after(changes, &node_context).revisions {
            let table = Table::from(&ruleset);
            let mut holds = BTreeMap::new();
            for (key, rule) in ruleset.rules() {
                let is_sticky = matches!(rule.dispatch.action, Action::Forward { affinity_s: 1.., .. });
                prop_assert_eq!(rule.ids.len(), if is_sticky { rule.backends.len() } else { 0 });
                for (slot, backend) in (0..).zip(rule.backends.iter()).filter(|_| is_sticky) {
                    let id = table.ids[&(*key, slot)];
                    prop_assert_eq!(table.backends[&(*key, id)], *backend);
                    prop_assert!(holds.insert((*key, id), *backend).is_none(), "two backends have the same id");
                    let before = held.iter().find(|((portal, _), other)| portal == key && *other == backend);
                    prop_assert!(before.is_none_or(|((_, before), _)| *before == id), "{} changed", backend);
                }
            }
            prop_assert_eq!(holds.len(), table.ids.len());
            held = holds;
        }
    }

    #[test]
    fn every_draw_selects_a_different_backend(changes in changes(), node_context in any_node_context()) {
        let cluster = IncrementalCluster::after(changes, &node_context);
        for (key, rule) in cluster.ruleset().rules() {
            let source = rule.sources.first().map(ipnet::IpNet::addr);
            let traces = traces(cluster.ruleset(), &Packet::sent(source, *key));
            let mut backends: Vec<SocketAddr> = Vec::new();
            backends.extend(traces.iter().filter_map(|t| if let Trace::Forward(b) = t { Some(*b) } else { None }));
            backends.sort_unstable();
            let mut slots = rule.backends.to_vec();
            slots.sort_unstable();
            prop_assert_eq!(&backends, &slots);
            backends.dedup();
            prop_assert_eq!(backends.len(), slots.len());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn explanation_agrees_with_the_trace(
        changes in changes(),
        node_context in any_node_context(),
    ) {
        let cluster = IncrementalCluster::after(changes, &node_context);
        for destination in destinations() {
            for source in [None, Some(ip("10.1.0.7")), Some(ip("10.240.0.5"))] {
                let explanation = explain(&cluster.snapshot, &node_context, &Query { destination, source });
                let packet = Packet::sent(source, destination);
                let traces = traces(cluster.ruleset(), &packet);
                let backends: BTreeSet<SocketAddr> = explanation.backends.iter().copied().collect();
                let expected = match result_of(&traces, backends.clone()) {
                    ConnectionResult::Forward(found) => {
                        prop_assert_eq!(&found, &backends);
                        Outcome::Forward
                    }
                    ConnectionResult::Relay(_) => Outcome::Forward,
                    ConnectionResult::Reject | ConnectionResult::WrongPort => Outcome::Reject,
                    ConnectionResult::Drop | ConnectionResult::SourceDenied | ConnectionResult::Unallocated => Outcome::Drop,
                    ConnectionResult::Pass => Outcome::Pass,
                };
                prop_assert_eq!(explanation.verdict, expected);
                prop_assert!(explanation.backends.is_sorted());
                let portal = cluster.portals.get(destination);
                let is_held = portal.is_some_and(|portal| portal.is_relayed() && portal.backends.is_empty());
                prop_assert_eq!(explanation.backends.is_empty(), is_held || expected != Outcome::Forward);
                prop_assert_eq!(explanation.portal.is_some(), portal.is_some());
                prop_assert_eq!(explanation.steps.last(), Some(&explanation.reason));
            }
        }
    }
}
