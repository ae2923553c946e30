//! Rulesets as values: stable slots, ids and dispatch keys.
//!
//! The tests of `trace` cover packets, and those of `nft` the text.

use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::rule::{id, ids, known_ids, slots};
use super::*;
use crate::model::service::{Mode, Scheduler};
use crate::model::snapshot::{Change, Snapshot};
use crate::routing::portal::{NodeContext, portals};
use crate::sample::{backend, node_context, slice, snapshot, svc, tcp};

const PORTAL: &str = "10.96.0.1:80";

proptest! {
    #[test]
    fn remaining_backend_keeps_its_slot_if_the_count_allows(
        old in prop::collection::btree_set(0_u8..12, 1..10),
        new in prop::collection::btree_set(0_u8..12, 1..10),
        order in any::<prop::sample::Index>(),
    ) {
        let socket = |number: u8| SocketAddr::from((Ipv4Addr::new(10, 1, 0, number), 80));
        let mut old: Vec<SocketAddr> = old.into_iter().map(socket).collect();
        let turn = order.index(old.len());
        old.rotate_left(turn); // slots need not be sorted
        let wanted: Vec<SocketAddr> = new.into_iter().map(socket).collect();
        let slice = slots(&old, &wanted);
        let mut sorted = slice.clone();
        sorted.sort_unstable();
        prop_assert_eq!(&sorted, &wanted);
        let stay = old.iter().filter(|backend| wanted.contains(backend));
        let moved = stay.filter(|b| {
            let place = |all: &[SocketAddr]| all.iter().position(|own| own == *b);
            place(&old) != place(&slice)
        });
        prop_assert!(moved.count() <= old.len().saturating_sub(wanted.len()));
    }
}

/// A ruleset that is updated with its snapshot.
struct IncrementalRuleset {
    snapshot: Snapshot,
    node_context: NodeContext,
    portals: Portals,
    ruleset: Ruleset,
}

impl IncrementalRuleset {
    fn new(changes: impl IntoIterator<Item = Change>) -> Self {
        let (snapshot, node_context) = (snapshot(changes), node_context());
        let portals = portals(&snapshot, &node_context);
        let ruleset = Ruleset::new(&portals, Settings::default());
        Self { snapshot, node_context, portals, ruleset }
    }

    /// One service with the endpoints 10.1.0.x.
    fn with(octets: &[u8]) -> Self {
        Self::new([svc("s").ip("10.96.0.1").tcp("", 80).into(), endpoints(octets)])
    }

    fn apply(&mut self, change: impl Into<Change>) {
        let changed = self.snapshot.apply(change.into());
        let touched = self.portals.refresh(&self.snapshot, &self.node_context, &changed);
        self.ruleset.refresh(&self.portals, &touched);
    }

    fn slots(&self) -> Vec<u8> {
        let last = |backend: &SocketAddr| match backend.ip() {
            IpAddr::V4(v4) => v4.octets()[3],
            IpAddr::V6(_) => 0,
        };
        self.ruleset.rule(tcp(PORTAL)).unwrap().backends.iter().map(last).collect()
    }

    fn dispatch_keys(&self) -> Vec<String> {
        self.ruleset.dispatch_keys().map(|dispatch| dispatch.to_string()).collect()
    }
}

fn endpoints(octets: &[u8]) -> Change {
    let slice = slice("s").tcp("", 80);
    octets.iter().fold(slice, |slice, octet| slice.at(&format!("10.1.0.{octet}"))).into()
}

#[test]
fn new_backend_takes_the_slot_of_a_removed_one() {
    let mut incremental = IncrementalRuleset::with(&[1, 2, 3]);
    incremental.apply(endpoints(&[1, 3, 9]));
    assert_eq!(incremental.slots(), [1, 9, 3]);
}

#[test]
fn additional_backend_takes_a_new_slot() {
    let mut incremental = IncrementalRuleset::with(&[2, 3]);
    incremental.apply(endpoints(&[1, 2, 3]));
    assert_eq!(incremental.slots(), [2, 3, 1]);
}

#[test]
fn removed_backend_is_replaced_by_the_last_one() {
    let mut incremental = IncrementalRuleset::with(&[1, 2, 3, 4]);
    incremental.apply(endpoints(&[1, 3, 4]));
    assert_eq!(incremental.slots(), [1, 4, 3]);
    incremental.apply(endpoints(&[1, 4]));
    assert_eq!(incremental.slots(), [1, 4]);
}

#[test]
fn completely_different_backends_use_the_same_slots() {
    let mut incremental = IncrementalRuleset::with(&[1, 2, 3]);
    incremental.apply(endpoints(&[7, 8]));
    assert_eq!(incremental.slots(), [7, 8]);
}

#[test]
fn portal_without_endpoints_has_no_backends_until_there_are_some() {
    let mut incremental = IncrementalRuleset::with(&[1, 2]);
    incremental.apply(endpoints(&[]));
    assert_eq!(incremental.slots(), [0_u8; 0]);
    assert_eq!(incremental.dispatch_keys(), ["pick-reject"]);
    incremental.apply(endpoints(&[5]));
    assert_eq!(incremental.slots(), [5]);
    assert_eq!(incremental.dispatch_keys(), ["pick-1"]);
}

#[test]
fn dispatch_key_exists_while_a_portal_uses_it() {
    let mut incremental = IncrementalRuleset::with(&[1, 2]);
    incremental.apply(svc("t").ip("10.96.0.2").tcp("", 80));
    assert_eq!(incremental.dispatch_keys(), ["pick-reject", "pick-2"]);
    incremental.apply(slice("t").tcp("", 80).at("10.1.0.8").at("10.1.0.9"));
    assert_eq!(incremental.dispatch_keys(), ["pick-2"]);
    incremental.apply(svc("s").ip("10.96.0.1").tcp("", 80).sticky(60));
    assert_eq!(incremental.dispatch_keys(), ["pick-2", "pick-2-sticky-60s"]);
    incremental.apply(Change::ServiceDeleted(crate::model::service::ServiceKey::new("default", "s")));
    assert_eq!(incremental.dispatch_keys(), ["pick-2"]);
    incremental.apply(svc("t").ip("10.96.0.2").tcp("", 80).mode(Mode::Relay));
    assert_eq!(incremental.dispatch_keys(), ["pick-relay"]);
}

#[test]
fn dispatch_key_contains_affinity_timeout_and_count() {
    let sticky = svc("s").ip("10.96.0.1").tcp("", 80).sticky(10_800);
    let incremental = IncrementalRuleset::new([sticky.into(), endpoints(&[1, 2, 3])]);
    let expected = Action::Forward { count: 3, affinity_s: 10_800 };
    assert_eq!(
        incremental.ruleset.rule(tcp(PORTAL)).unwrap().dispatch,
        DispatchKey { action: expected, guarded: false }
    );
}

#[test]
fn affinity_has_no_effect_unless_connections_are_forwarded() {
    let sticky = || svc("s").ip("10.96.0.1").tcp("", 80).sticky(600);
    assert_eq!(IncrementalRuleset::new([sticky().into()]).dispatch_keys(), ["pick-reject"]);
    let relayed = IncrementalRuleset::new([sticky().mode(Mode::Relay).into(), endpoints(&[1])]);
    assert_eq!(relayed.dispatch_keys(), ["pick-relay"]);
}

#[test]
fn source_ranges_guard_the_dispatch_key_and_are_merged() {
    let service = svc("s").ip("10.96.0.1").tcp("", 80).balanced("192.0.2.1");
    let service = service.only_from("10.2.0.0/17").only_from("10.2.128.0/17").only_from("10.2.3.0/24");
    let incremental = IncrementalRuleset::new([service.into(), endpoints(&[1])]);
    let rule = incremental.ruleset.rule(tcp("192.0.2.1:80")).unwrap();
    assert_eq!(
        rule.dispatch,
        DispatchKey { action: Action::Forward { count: 1, affinity_s: 0 }, guarded: true }
    );
    assert_eq!(*rule.sources, ["10.2.0.0/16".parse().unwrap()]);
    assert_eq!(incremental.dispatch_keys(), ["pick-1", "guarded-1"]);
}

#[test]
fn cluster_address_with_several_ports_is_one_element() {
    let mut incremental = IncrementalRuleset::new([
        svc("s").ip("10.96.0.1").ip("fd00::1").tcp("a", 80).tcp("b", 81).udp("c", 80).into(),
        svc("t").ip("10.96.0.2").tcp("", 80).external("10.96.0.1").external("192.0.2.1").into(),
    ]);
    let texts = |incremental: &IncrementalRuleset| -> Vec<String> {
        incremental.ruleset.addresses().map(|address| address.to_string()).collect()
    };
    assert_eq!(texts(&incremental), ["10.96.0.1", "10.96.0.2", "fd00::1"]);
    incremental.apply(Change::ServiceDeleted(crate::model::service::ServiceKey::new("default", "s")));
    assert_eq!(texts(&incremental), ["10.96.0.2"]);
    assert!(!incremental.ruleset.has_address("10.96.0.1".parse().unwrap()));
}

#[test]
fn elements_are_those_of_rules_addresses_and_ranges() {
    let ranges = Change::ServiceRanges(vec!["10.96.0.0/16".parse().unwrap()]);
    let service = svc("s").ip("10.96.0.1").tcp("", 80);
    let ruleset = IncrementalRuleset::new([ranges, service.into(), endpoints(&[1, 2])]).ruleset;
    let key = tcp(PORTAL);
    let expected = [
        Element::Portal(
            key,
            DispatchKey { action: Action::Forward { count: 2, affinity_s: 0 }, guarded: false },
        ),
        Element::Backend(key, 0, backend("10.1.0.1:80")),
        Element::Backend(key, 1, backend("10.1.0.2:80")),
        Element::Address(key.address),
        Element::Range("10.96.0.0/16".parse().unwrap()),
    ];
    assert_eq!(ruleset.elements().collect::<Vec<_>>(), expected);
}

fn round_robin(name: &str, address: &str) -> [Change; 2] {
    let service = svc(name).ip(address).tcp("", 80).scheduler(Scheduler::RoundRobin);
    [service.into(), slice(name).tcp("", 80).at("10.1.0.1").at("10.1.0.2").into()]
}

#[test]
fn round_robin_portal_keeps_its_chain_and_a_rebuilt_ruleset_has_the_same() {
    let number = |incremental: &IncrementalRuleset| match incremental
        .ruleset
        .rule(tcp(PORTAL))
        .unwrap()
        .dispatch
        .action
    {
        Action::RoundRobin { number, .. } => number,
        other => panic!("{other:?}"),
    };
    let mut incremental = IncrementalRuleset::new(round_robin("s", "10.96.0.1"));
    let first = number(&incremental);
    incremental.apply(endpoints(&[1, 2, 3]));
    assert_eq!(number(&incremental), first);
    let others = (2..200).flat_map(|n| round_robin(&format!("t{n}"), &format!("10.96.0.{n}")));
    assert_eq!(
        number(&IncrementalRuleset::new(round_robin("s", "10.96.0.1").into_iter().chain(others))),
        first
    );
}

#[test]
fn affinity_and_single_backends_take_precedence_over_round_robin() {
    let service = || svc("s").ip("10.96.0.1").tcp("", 80).scheduler(Scheduler::RoundRobin);
    let mut incremental = IncrementalRuleset::new([service().sticky(60).into(), endpoints(&[1, 2])]);
    assert_eq!(incremental.dispatch_keys(), ["pick-2-sticky-60s"]);
    incremental.apply(service());
    assert!(incremental.dispatch_keys()[0].starts_with("pick-2-turn-"), "{:?}", incremental.dispatch_keys());
    incremental.apply(endpoints(&[1]));
    assert_eq!(incremental.dispatch_keys(), ["pick-1"]);
    incremental.apply(service().scheduler(Scheduler::LeastConnection));
    assert_eq!(incremental.dispatch_keys(), ["pick-relay"]);
}

#[test]
fn portal_is_balanced_at_random_if_no_round_robin_chain_is_free() {
    let backends: Arc<[SocketAddr]> = [backend("10.1.0.1:80"), backend("10.1.0.2:80")].into();
    let incremental = IncrementalRuleset::new(round_robin("s", "10.96.0.1"));
    let like = incremental.portals.get(tcp(PORTAL)).unwrap();
    let mut ruleset = Ruleset::new(&Portals::default(), Settings::default());
    let address = |index: u16| IpAddr::from(Ipv4Addr::from(0x0a70_0000 + u32::from(index)));
    for index in 0..=ROUND_ROBIN_CHAINS_MAX {
        let key = PortalKey { address: address(index), ..like.key };
        ruleset.put(&Portal { key, backends: backends.clone(), ..like.clone() }, Form::Whole);
    }
    let dispatch = DispatchKey { action: Action::Forward { count: 2, affinity_s: 0 }, guarded: false };
    assert_eq!(ruleset.dispatch_keys().count(), usize::from(ROUND_ROBIN_CHAINS_MAX) + 1);
    assert_eq!(
        ruleset.rule(PortalKey { address: address(ROUND_ROBIN_CHAINS_MAX), ..like.key }).unwrap().dispatch,
        dispatch
    );
}

#[test]
fn backend_id_does_not_depend_on_the_slot() {
    let numbers = |incremental: &IncrementalRuleset| -> BTreeMap<SocketAddr, u32> {
        let rule = incremental.ruleset.rule(tcp(PORTAL)).unwrap();
        rule.backends.iter().copied().zip(rule.ids.iter().copied()).collect()
    };
    let sticky = || Change::from(svc("s").ip("10.96.0.1").tcp("", 80).sticky(60));
    let mut incremental = IncrementalRuleset::new([sticky(), endpoints(&[1, 2, 3])]);
    let all = numbers(&incremental);
    assert_eq!(all.len(), 3);
    for octets in [&[2, 3][..], &[3, 1], &[2], &[1, 2, 3]] {
        incremental.apply(endpoints(octets));
        assert_eq!(numbers(&IncrementalRuleset::new([sticky(), endpoints(octets)])), numbers(&incremental));
        assert!(numbers(&incremental).iter().all(|(backend, id)| all[backend] == *id), "{octets:?}");
    }
}

#[test]
fn backends_with_equal_digests_have_different_stable_ids() {
    let socket = |number: u32| SocketAddr::from((Ipv4Addr::from(0x0a00_0000 + number), 80));
    let mut first_with = BTreeMap::new();
    let same =
        (0..1_000_000).map(socket).find_map(|one| first_with.insert(id(&one), one).map(|other| [other, one]));
    let same = same.expect("of a million digests of 32 bits two are the same");
    let slice = ids(&same, known_ids(None));
    assert_eq!(slice, [id(&same[0]), id(&same[0]).wrapping_add(1)]);
    let one_is_left = Rule {
        dispatch: DispatchKey { action: Action::Forward { count: 1, affinity_s: 60 }, guarded: false },
        backends: [same[1]].into(),
        ids: [slice[1]].into(),
        sources: Arc::default(),
        is_cluster_ip: true,
    };
    assert_eq!(ids(&same, known_ids(Some(&one_is_left))), slice);
    assert_eq!(ids(&[same[1]], known_ids(Some(&one_is_left))), [slice[1]]);
}
