//! Plans: the number and order of operations of a change, and that the model of the kernel rejects what does not fit.

use super::*;
use crate::model::service::{Mode, Service, ServiceKey};
use crate::model::snapshot::{Change, Snapshot};
use crate::routing::portal::{NodeContext, Portals, portals};
use crate::ruleset::dispatch::Action;
use crate::ruleset::kernel_model::{ApplyError, Table, apply};
use crate::sample::{backend, cluster, cluster_slice, ip, node_context, slice, snapshot, svc, tcp};

const KEY: &str = "10.96.0.1:80";

fn ruleset_of(changes: impl IntoIterator<Item = Change>) -> Ruleset {
    Ruleset::new(&portals(&snapshot(changes), &node_context()), Settings::default())
}

fn service() -> Service {
    svc("s").ip("10.96.0.1").tcp("", 80)
}

fn endpoints(octets: &[u8]) -> Change {
    let slice = slice("s").tcp("", 80);
    octets.iter().fold(slice, |slice, octet| slice.at(&format!("10.1.0.{octet}"))).into()
}

/// The ruleset of the service with the endpoints 10.1.0.x.
fn ruleset_with(octets: &[u8]) -> Ruleset {
    ruleset_of([service().into(), endpoints(octets)])
}

/// The ruleset before and after a change, and the changed portals.
fn apply_change(
    changes: impl IntoIterator<Item = Change>,
    change: impl Into<Change>,
) -> (Ruleset, Ruleset, ChangedPortals) {
    let (mut snapshot, node_context): (Snapshot, NodeContext) = (snapshot(changes), node_context());
    let mut portals: Portals = portals(&snapshot, &node_context);
    let before = Ruleset::new(&portals, Settings::default());
    let mut after = before.clone();
    let changed = snapshot.apply(change.into());
    let touched = portals.refresh(&snapshot, &node_context, &changed);
    after.refresh(&portals, &touched);
    (before, after, touched)
}

fn ops_of_change(changes: impl IntoIterator<Item = Change>, changed: impl Into<Change>) -> Vec<Op> {
    let (before, after, touched) = apply_change(changes, changed);
    plan_changed(&before, &after, &touched).ops().to_vec()
}

fn slot(number: u32, octet: u8) -> Element {
    Element::Backend(tcp(KEY), number, backend(&format!("10.1.0.{octet}:80")))
}

fn portal(count: u16) -> Element {
    Element::Portal(tcp(KEY), count_key(count))
}

fn count_key(count: u16) -> DispatchKey {
    DispatchKey { action: Action::Forward { count, affinity_s: 0 }, guarded: false }
}

#[test]
fn plan_between_equal_tables_has_no_operations() {
    assert!(plan(&ruleset_with(&[1, 2]), &ruleset_with(&[1, 2])).is_empty());
    assert!(plan(&Ruleset::empty(), &Ruleset::empty()).is_empty());
}

#[test]
fn new_namespace_gets_the_table_then_chains_then_elements() {
    let expected = [
        Op::AddTable(Settings::default()),
        Op::AddDispatch(count_key(2)),
        Op::Add(portal(2)),
        Op::Add(slot(0, 1)),
        Op::Add(slot(1, 2)),
        Op::Add(Element::Address(ip("10.96.0.1"))),
    ];
    assert_eq!(plan(&Ruleset::empty(), &ruleset_with(&[1, 2])).ops(), expected);
}

#[test]
fn cluster_without_services_has_a_table() {
    // Its anchor keeps translated connections alive until services come back.
    assert_eq!(plan(&Ruleset::empty(), &ruleset_of([])).ops(), [Op::AddTable(Settings::default())]);
    let (before, after, touched) = apply_change([service().into()], Change::ServiceDeleted(service().key));
    let table = apply(&plan_changed(&before, &after, &touched), &Table::from(&before)).unwrap();
    assert_eq!(table, Table { settings: Some(Settings::default()), ..Table::default() });
}

#[test]
fn deletion_is_one_operation_and_none_without_a_table() {
    assert_eq!(plan(&ruleset_with(&[1, 2]), &Ruleset::empty()).ops(), [Op::DeleteTable]);
    assert_eq!(
        plan_changed(&ruleset_with(&[1]), &Ruleset::empty(), &ChangedPortals::new()).ops(),
        [Op::DeleteTable]
    );
}

#[test]
fn changed_setting_replaces_the_table_in_one_transaction() {
    let settings = Settings { relay_port: 1, ..Settings::default() };
    let before = ruleset_with(&[1, 2]);
    let after =
        Ruleset::new(&portals(&snapshot([service().into(), endpoints(&[1])]), &node_context()), settings);
    let slice = plan(&before, &after);
    let expected = [
        Op::DeleteTable,
        Op::AddTable(settings),
        Op::AddDispatch(count_key(1)),
        Op::Add(portal(1)),
        Op::Add(slot(0, 1)),
        Op::Add(Element::Address(ip("10.96.0.1"))),
    ];
    assert_eq!(slice.ops(), expected);
    assert_eq!(plan_changed(&before, &after, &ChangedPortals::new()), slice);
}

#[test]
fn changed_endpoint_deletes_and_adds_one_slot() {
    let ops = ops_of_change([service().into(), endpoints(&[1, 2, 3])], endpoints(&[1, 3, 9]));
    assert_eq!(ops, [Op::Delete(slot(1, 2)), Op::Add(slot(1, 9))]);
}

#[test]
fn changed_endpoint_with_affinity_deletes_and_adds_two_elements() {
    let sticky = || service().sticky(60);
    let ops = ops_of_change([sticky().into(), endpoints(&[1, 2, 3])], endpoints(&[1, 3, 9]));
    let [Op::Delete(gone), Op::Delete(held), Op::Add(come), Op::Add(holds)] = ops[..] else {
        panic!("{ops:?}")
    };
    let (old, new) = (backend("10.1.0.2:80"), backend("10.1.0.9:80"));
    let [Element::Backend(_, two, two_is), Element::Id(_, 1, two_held)] = [gone, held] else {
        panic!("{ops:?}")
    };
    let [Element::Backend(_, nine, nine_is), Element::Id(_, 1, nine_holds)] = [come, holds] else {
        panic!("{ops:?}")
    };
    assert_eq!((two, two_is, nine, nine_is), (two_held, old, nine_holds, new));
}

#[test]
fn changed_endpoint_among_many_services_is_two_operations() {
    let (before, after, touched) = apply_change(cluster(50, 3), cluster_slice(17, 3, 1));
    assert_eq!(touched.len(), 1);
    let slice = plan_changed(&before, &after, &touched);
    assert!(matches!(slice.ops(), [Op::Delete(Element::Backend(..)), Op::Add(Element::Backend(..))]));
    assert_eq!(plan(&before, &after), slice);
}

#[test]
fn additional_endpoint_adds_a_slot_and_changes_the_count() {
    let others = [svc("t").ip("10.96.0.2").tcp("", 80).into(), slice("t").tcp("", 80).at("10.2.0.1").into()];
    let changes = || [service().into(), endpoints(&[1, 2])].into_iter().chain(others.clone());
    let expected = [
        Op::AddDispatch(count_key(3)),
        Op::Delete(portal(2)),
        Op::Add(portal(3)),
        Op::Add(slot(2, 3)),
        Op::DeleteDispatch(count_key(2)),
    ];
    assert_eq!(ops_of_change(changes(), endpoints(&[1, 2, 3])), expected);
}

#[test]
fn removed_endpoint_moves_at_most_one() {
    let expected = [
        Op::AddDispatch(count_key(2)),
        Op::Delete(portal(3)),
        Op::Delete(slot(0, 1)),
        Op::Delete(slot(2, 3)),
        Op::Add(portal(2)),
        Op::Add(slot(0, 3)),
        Op::DeleteDispatch(count_key(3)),
    ];
    assert_eq!(ops_of_change([service().into(), endpoints(&[1, 2, 3])], endpoints(&[2, 3])), expected);
    let expected = [
        Op::AddDispatch(count_key(2)),
        Op::Delete(portal(3)),
        Op::Delete(slot(2, 3)),
        Op::Add(portal(2)),
        Op::DeleteDispatch(count_key(3)),
    ];
    assert_eq!(ops_of_change([service().into(), endpoints(&[1, 2, 3])], endpoints(&[1, 2])), expected);
}

#[test]
fn count_of_another_portal_needs_no_new_chain() {
    let other = [svc("t").ip("10.96.0.2").tcp("", 80).into(), slice("t").tcp("", 80).at("10.2.0.1").into()];
    let ops = ops_of_change([service().into(), endpoints(&[])].into_iter().chain(other), endpoints(&[1]));
    let reject = DispatchKey { action: Action::Reject, guarded: false };
    let expected = [
        Op::Delete(Element::Portal(tcp(KEY), reject)),
        Op::Add(portal(1)),
        Op::Add(slot(0, 1)),
        Op::DeleteDispatch(reject),
    ];
    assert_eq!(ops, expected);
}

#[test]
fn deleted_portal_deletes_its_slots_and_address() {
    let ops = ops_of_change(
        [service().into(), endpoints(&[1])],
        Change::ServiceDeleted(ServiceKey::new("default", "s")),
    );
    let expected = [
        Op::Delete(portal(1)),
        Op::Delete(slot(0, 1)),
        Op::Delete(Element::Address(ip("10.96.0.1"))),
        Op::DeleteDispatch(count_key(1)),
    ];
    assert_eq!(ops, expected);
}

#[test]
fn address_exists_while_one_of_its_ports_does() {
    let two_ports = svc("s").ip("10.96.0.1").tcp("", 80).tcp("other", 81);
    let ops = ops_of_change([two_ports.into()], service());
    assert!(!ops.iter().any(|op| matches!(op, Op::Delete(Element::Address(_)) | Op::Add(_))), "{ops:?}");
}

#[test]
fn address_element_follows_a_portal_between_cluster_and_external_address() {
    let borrower = svc("t").ip("10.96.0.2").tcp("", 80).external("10.96.0.1");
    let gone = Change::ServiceDeleted(ServiceKey::new("default", "s"));
    // Both are refused without endpoints: only the mark differs.
    assert_eq!(
        ops_of_change([service().into(), borrower.into()], gone),
        [Op::Delete(Element::Address(ip("10.96.0.1")))]
    );
}

#[test]
fn changed_source_ranges_change_only_the_set_of_sources() {
    let balanced = |range| service().balanced("192.0.2.1").only_from(range);
    let key = tcp("192.0.2.1:80");
    let ops = ops_of_change([balanced("10.2.0.0/16").into(), endpoints(&[1])], balanced("10.2.0.0/24"));
    let source = |text: &str| Element::Source(key, text.parse().unwrap());
    assert_eq!(ops, [Op::Delete(source("10.2.0.0/16")), Op::Add(source("10.2.0.0/24"))]);
}

#[test]
fn changed_service_ranges_change_only_the_set_of_ranges() {
    let ranges = |texts: &[&str]| Change::ServiceRanges(texts.iter().map(|t| t.parse().unwrap()).collect());
    let ops =
        ops_of_change([ranges(&["10.96.0.0/16"]), service().into()], ranges(&["10.96.0.0/17", "fd00::/112"]));
    let range = |text: &str| Element::Range(text.parse().unwrap());
    let expected =
        [Op::Delete(range("10.96.0.0/16")), Op::Add(range("10.96.0.0/17")), Op::Add(range("fd00::/112"))];
    assert_eq!(ops, expected);
}

#[test]
fn change_to_relay_mode_deletes_the_slots() {
    let ops = ops_of_change([service().into(), endpoints(&[1])], service().mode(Mode::Relay));
    let relay = DispatchKey { action: Action::Relay, guarded: false };
    let expected = [
        Op::AddDispatch(relay),
        Op::Delete(portal(1)),
        Op::Delete(slot(0, 1)),
        Op::Add(Element::Portal(tcp(KEY), relay)),
        Op::DeleteDispatch(count_key(1)),
    ];
    assert_eq!(ops, expected);
}

/// `apply` rejects what the kernel rejects.
#[test]
fn invalid_operation_is_rejected_and_named() {
    let applied = Table::from(&ruleset_with(&[1, 2]));
    let misfits = [
        Op::AddTable(Settings::default()),
        Op::AddDispatch(count_key(2)),
        Op::Add(portal(2)),
        Op::Add(slot(0, 9)),
        Op::Add(Element::Address(ip("10.96.0.1"))),
        Op::Add(Element::Portal(tcp("10.96.0.2:80"), count_key(7))), // a chain that is not there
        Op::Delete(portal(3)),
        Op::Delete(slot(0, 9)),
        Op::Delete(slot(7, 1)),
        Op::Delete(Element::Id(tcp(KEY), 0, 7)),
        Op::Delete(Element::Address(ip("10.96.0.2"))),
        Op::Delete(Element::Range("10.96.0.0/16".parse().unwrap())),
        Op::Delete(Element::Source(tcp(KEY), "10.96.0.0/16".parse().unwrap())),
        Op::DeleteDispatch(count_key(2)), // a portal still leads to it
        Op::DeleteDispatch(count_key(3)),
    ];
    for op in misfits {
        let harmless = Op::Add(slot(5, 5));
        assert_eq!(apply(&Plan { ops: vec![harmless, op] }, &applied), Err(ApplyError { index: 1, op }));
    }
    for op in [Op::DeleteTable, Op::AddDispatch(count_key(1)), Op::Add(slot(0, 1)), Op::Delete(slot(0, 1))] {
        assert_eq!(apply(&Plan { ops: vec![op] }, &Table::default()), Err(ApplyError { index: 0, op }));
    }
}
