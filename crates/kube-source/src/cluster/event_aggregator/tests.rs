//! Tests of the events that messages lead to.
//!
//! Objects are decoded from the form in which an API server stores them, so that keys and versions are realistic.

use serde_json::{Value, json};

use super::*;
use crate::cluster::resource::WatchScope;
use crate::cluster::watch_error::{ErrorKind, WatchError};
use crate::event::RejectedObjects;
use crate::objects::metadata::Names;

/// The indexes of the resources of a proxy: services with kube-proxy's selector, and so on.
const KUBE_PROXY: usize = 0;
const OTHER_PROXY: usize = 1;
const SLICES: usize = 2;
const CIDRS: usize = 3;
const NODE: usize = 4;

fn proxy() -> EventAggregator {
    EventAggregator::new(&WatchScope::Proxy { node: Some("n".to_owned()), has_names: false }.resources())
}

fn object(kind: Kind, value: &Value) -> Object<Content> {
    Object::parse(kind, value, &mut Names::default())
}

fn service(name: &str, version: u64, port: u16) -> Object<Content> {
    let metadata = json!({"name": name, "namespace": "d", "resourceVersion": version.to_string()});
    let spec = json!({"clusterIP": "10.0.0.1", "ports": [{"port": port}]});
    object(Kind::Service, &json!({"metadata": metadata, "spec": spec}))
}

fn broken(name: &str, version: u64) -> Object<Content> {
    let metadata = json!({"name": name, "namespace": "d", "resourceVersion": version.to_string()});
    object(Kind::Service, &json!({"metadata": metadata, "spec": 5}))
}

fn ranges(name: &str, cidr: &str) -> Object<Content> {
    object(Kind::ServiceCidr, &json!({"metadata": {"name": name}, "spec": {"cidrs": [cidr]}}))
}

fn deleted(object: &Object<Content>) -> WatchMessage {
    WatchMessage::Deleted(object.key.clone())
}

/// Returns the events in short form.
fn events(aggregator: &mut EventAggregator) -> Vec<String> {
    let change = |change: Change| match change {
        Change::Service(service) => format!("{} {}", service.key, service.ports[0].port),
        Change::ServiceDeleted(key) => format!("no {key}"),
        Change::Slice(slice) => format!("slice {}", slice.key),
        Change::SliceDeleted(key) => format!("no slice {key}"),
        Change::ServiceRanges(ranges) => format!("ranges {}", ranges.len()),
        Change::Namespace(namespace) => format!("namespace {}", namespace.name),
        Change::NamespaceDeleted(name) => format!("no namespace {name}"),
    };
    let event = |event: Event| match event {
        Event::Changes(changes) => changes.into_iter().map(change).collect(),
        Event::Node(node) => vec![format!("node {}", node.zone)],
        Event::Synced => vec!["synced".to_owned()],
        Event::Outage(text) => vec![format!("outage {text}")],
        Event::Recovered => vec!["recovered".to_owned()],
        Event::Rejected(RejectedObjects { count, reason: Some(reason) }) => {
            vec![format!("rejected {count}: {reason}")]
        }
        Event::Rejected(RejectedObjects { count, reason: None }) => vec![format!("rejected {count}")],
    };
    aggregator.take_events().into_iter().flat_map(event).collect()
}

fn list(
    aggregator: &mut EventAggregator,
    resource: usize,
    objects: impl IntoIterator<Item = Object<Content>>,
) -> Vec<String> {
    aggregator.apply(resource, WatchMessage::ListStarted);
    for object in objects {
        aggregator.apply(resource, WatchMessage::Listed(object));
    }
    aggregator.apply(resource, WatchMessage::ListDone);
    events(aggregator)
}

#[test]
fn initial_sync_is_complete_once_each_resource_was_listed() {
    let mut aggregator = proxy();
    assert_eq!(list(&mut aggregator, KUBE_PROXY, [service("a", 1, 80)]), ["d/a 80"]);
    assert_eq!(list(&mut aggregator, SLICES, []), [""; 0]);
    assert_eq!(list(&mut aggregator, OTHER_PROXY, []), [""; 0]);
    assert_eq!(list(&mut aggregator, CIDRS, [ranges("k", "10.0.0.0/8")]), ["ranges 1"]);
    let node = json!({"metadata": {"name": "n", "labels": {"topology.kubernetes.io/zone": "z"}}});
    assert_eq!(list(&mut aggregator, NODE, [object(Kind::Node, &node)]), ["node z", "synced"]);
}

#[test]
fn initial_sync_with_names_waits_for_namespaces() {
    let scope = WatchScope::Proxy { node: None, has_names: true };
    let mut aggregator = EventAggregator::new(&scope.resources());
    let [services, slices, namespaces, cidrs] = [0, 1, 2, 3];
    let namespace = |name: &str, dns: &str| {
        let metadata = json!({"name": name, "resourceVersion": "1", "annotations": {"portico.dev/dns": dns}});
        object(Kind::Namespace, &json!({"metadata": metadata}))
    };
    assert_eq!(list(&mut aggregator, services, [service("a", 1, 80)]), ["d/a 80"]);
    assert_eq!(list(&mut aggregator, slices, []), [""; 0]);
    assert_eq!(list(&mut aggregator, cidrs, []), [""; 0]);
    assert!(!aggregator.awaits_service_cidrs());
    let both = [namespace("x", "on"), namespace("y", "off")];
    assert_eq!(list(&mut aggregator, namespaces, both), ["namespace x", "namespace y", "synced"]);
    assert_eq!(list(&mut aggregator, namespaces, [namespace("x", "other")]), ["no namespace y"]);
    aggregator.apply(namespaces, WatchMessage::Applied(namespace("x", "off")));
    assert_eq!(events(&mut aggregator), ["namespace x"]);
    aggregator.apply(namespaces, deleted(&namespace("x", "off")));
    assert_eq!(events(&mut aggregator), ["no namespace x"]);
}

#[test]
fn unavailable_service_cidrs_do_not_delay_the_initial_sync() {
    let messages = [
        WatchMessage::Unsupported,
        WatchMessage::Denied("no".to_owned()),
        WatchMessage::Failed(WatchError {
            kind: ErrorKind::Status(500),
            text: "no".to_owned(),
            retry_after: None,
        }),
    ];
    for message in messages {
        let mut aggregator =
            EventAggregator::new(&WatchScope::Proxy { node: None, has_names: false }.resources());
        for resource in [KUBE_PROXY, OTHER_PROXY, SLICES] {
            assert!(!aggregator.awaits_service_cidrs());
            list(&mut aggregator, resource, []);
        }
        assert!(aggregator.awaits_service_cidrs());
        aggregator.apply(CIDRS, message);
        assert!(events(&mut aggregator).contains(&"synced".to_owned()));
    }
    let mut aggregator =
        EventAggregator::new(&WatchScope::Proxy { node: None, has_names: false }.resources());
    for resource in [KUBE_PROXY, OTHER_PROXY, SLICES] {
        list(&mut aggregator, resource, []);
    }
    aggregator.proceed_without_service_cidrs();
    assert_eq!(events(&mut aggregator), ["synced"]);
    assert_eq!(list(&mut aggregator, CIDRS, [ranges("k", "10.0.0.0/8")]), ["ranges 1"]);
}

#[test]
fn only_the_difference_of_a_new_list_is_sent() {
    let mut aggregator = proxy();
    list(&mut aggregator, KUBE_PROXY, [service("a", 1, 80), service("b", 2, 80), service("c", 3, 80)]);
    let again = [service("a", 1, 80), service("b", 9, 81), service("d", 8, 80)];
    assert_eq!(list(&mut aggregator, KUBE_PROXY, again), ["d/b 81", "d/d 80", "no d/c"]);
    // New versions with the same content.
    assert_eq!(
        list(&mut aggregator, KUBE_PROXY, [service("a", 10, 80), service("b", 11, 81), service("d", 12, 80)]),
        [""; 0]
    );
}

#[test]
fn interrupted_list_removes_nothing() {
    let mut aggregator = proxy();
    list(&mut aggregator, KUBE_PROXY, [service("a", 1, 80), service("b", 2, 80)]);
    aggregator.apply(KUBE_PROXY, WatchMessage::ListStarted);
    aggregator.apply(KUBE_PROXY, WatchMessage::Listed(service("a", 3, 81)));
    aggregator.apply(KUBE_PROXY, WatchMessage::ListStarted);
    aggregator.apply(KUBE_PROXY, WatchMessage::Listed(service("b", 2, 80)));
    assert_eq!(events(&mut aggregator), ["d/a 81"]);
}

#[test]
fn service_that_moves_between_selections_is_kept_in_any_order_of_messages() {
    for (from, to) in [(KUBE_PROXY, OTHER_PROXY), (OTHER_PROXY, KUBE_PROXY)] {
        let mut aggregator = proxy();
        list(&mut aggregator, OTHER_PROXY, []);
        list(&mut aggregator, from, [service("a", 1, 80)]);
        // The new selection first: no removal.
        aggregator.apply(to, WatchMessage::Applied(service("a", 5, 81)));
        aggregator.apply(from, deleted(&service("a", 5, 80)));
        assert_eq!(events(&mut aggregator), ["d/a 81"]);
        // The old one first: the service is removed and added.
        aggregator.apply(to, deleted(&service("a", 7, 81)));
        aggregator.apply(from, WatchMessage::Applied(service("a", 7, 82)));
        assert_eq!(events(&mut aggregator), ["no d/a", "d/a 82"]);
    }
}

#[test]
fn later_version_of_two_selections_wins() {
    let mut aggregator = proxy();
    list(&mut aggregator, KUBE_PROXY, [service("a", 1, 80)]);
    list(&mut aggregator, OTHER_PROXY, [service("a", 9, 90)]);
    assert_eq!(events(&mut aggregator), [""; 0]);
    aggregator.apply(KUBE_PROXY, WatchMessage::Applied(service("a", 4, 84)));
    assert_eq!(list(&mut aggregator, KUBE_PROXY, [service("a", 5, 85)]), [""; 0]);
    assert_eq!(list(&mut aggregator, KUBE_PROXY, []), [""; 0], "the other selection still has it");
    assert_eq!(list(&mut aggregator, OTHER_PROXY, []), ["no d/a"]);
}

#[test]
fn list_of_a_restored_api_server_replaces_newer_versions() {
    let mut aggregator = proxy();
    list(&mut aggregator, KUBE_PROXY, [service("a", 900, 80)]);
    assert_eq!(list(&mut aggregator, KUBE_PROXY, [service("a", 3, 79)]), ["d/a 79"]);
}

#[test]
fn rejected_object_keeps_its_last_valid_state_and_is_reported_once() {
    let mut aggregator = proxy();
    list(&mut aggregator, KUBE_PROXY, [service("a", 1, 80)]);
    aggregator.apply(KUBE_PROXY, WatchMessage::Applied(broken("a", 2)));
    let rejected = events(&mut aggregator);
    assert!(matches!(&rejected[..], [text] if text.starts_with("rejected 1: Service d/a: ")), "{rejected:?}");
    aggregator.apply(KUBE_PROXY, WatchMessage::Applied(broken("a", 3)));
    assert_eq!(list(&mut aggregator, KUBE_PROXY, [broken("a", 3)]), [""; 0]);
    aggregator.apply(KUBE_PROXY, WatchMessage::Applied(service("a", 4, 81)));
    assert_eq!(events(&mut aggregator), ["d/a 81", "rejected 0"]);
    aggregator.apply(KUBE_PROXY, WatchMessage::Applied(broken("a", 5)));
    assert_eq!(events(&mut aggregator), ["rejected 1"], "its name was reported before");
    aggregator.apply(KUBE_PROXY, deleted(&service("a", 6, 0)));
    assert_eq!(events(&mut aggregator), ["no d/a", "rejected 0"]);
    assert_eq!(list(&mut aggregator, KUBE_PROXY, [broken("a", 7)]), ["rejected 1"]);
    assert_eq!(list(&mut aggregator, KUBE_PROXY, []), ["rejected 0"]);
}

#[test]
fn list_with_nameless_objects_removes_nothing() {
    let mut aggregator = proxy();
    list(&mut aggregator, KUBE_PROXY, [service("a", 1, 80)]);
    let nameless = || object(Kind::Service, &json!({"metadata": {}}));
    assert_eq!(list(&mut aggregator, KUBE_PROXY, [nameless()]), ["rejected 1: Service without a name"]);
    assert_eq!(list(&mut aggregator, KUBE_PROXY, [nameless()]), [""; 0]);
    assert_eq!(list(&mut aggregator, KUBE_PROXY, []), ["no d/a", "rejected 0"]);
}

#[test]
fn slice_that_is_no_longer_used_is_removed() {
    let slice = |label: &str| {
        let metadata = json!({"name": "s", "namespace": "d", "labels": {label: "w"}});
        object(Kind::Slice, &json!({"metadata": metadata, "addressType": "IPv4", "endpoints": []}))
    };
    let mut aggregator = proxy();
    let label = "kubernetes.io/service-name";
    assert_eq!(list(&mut aggregator, SLICES, [slice(label)]), ["slice d/s"]);
    aggregator.apply(SLICES, WatchMessage::Applied(slice("other")));
    assert_eq!(events(&mut aggregator), ["no slice d/s"]);
    aggregator.apply(SLICES, deleted(&slice("other")));
    assert_eq!(events(&mut aggregator), [""; 0]);
}

#[test]
fn service_ranges_are_those_of_all_service_cidrs() {
    let mut aggregator = proxy();
    assert_eq!(
        list(&mut aggregator, CIDRS, [ranges("a", "10.0.0.0/8"), ranges("b", "fd00::/108")]),
        ["ranges 2"]
    );
    aggregator.apply(CIDRS, WatchMessage::Applied(ranges("a", "10.0.0.0/8")));
    assert_eq!(events(&mut aggregator), [""; 0]);
    aggregator.apply(CIDRS, deleted(&ranges("b", "fd00::/108")));
    assert_eq!(events(&mut aggregator), ["ranges 1"]);
    assert_eq!(list(&mut aggregator, CIDRS, []), ["ranges 0"]);
}

#[test]
fn deleted_node_keeps_its_last_state() {
    let mut aggregator = proxy();
    let node = object(Kind::Node, &json!({"metadata": {"name": "n"}}));
    assert_eq!(list(&mut aggregator, NODE, [node.clone()]), ["node "]);
    aggregator.apply(NODE, deleted(&node));
    aggregator.apply(NODE, WatchMessage::Applied(node));
    assert_eq!(events(&mut aggregator), [""; 0]);
}
