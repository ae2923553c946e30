//! What is told of what sources say.
//!
//! Objects are made as a server stores them, so that keys and versions are those of real ones. What must not go in
//! here: connections.

use serde_json::{Value, json};

use super::*;
use crate::cluster::fault::{Cause, Fault};
use crate::cluster::resource::WatchScope;
use crate::event::RejectedObjects;
use crate::objects::metadata::Names;

/// The sources of a proxy, by number.
const OWN: usize = 0;
const OTHER: usize = 1;
const SLICES: usize = 2;
const RANGES: usize = 3;
const NODE: usize = 4;

fn proxy() -> Collector {
    Collector::new(&WatchScope::Proxy { node: Some("n".to_owned()) }.resources())
}

fn object(kind: Kind, value: &Value) -> Object {
    Object::new(kind, value, &mut Names::default())
}

fn service(name: &str, version: u64, port: u16) -> Object {
    let metadata = json!({"name": name, "namespace": "d", "resourceVersion": version.to_string()});
    let spec = json!({"clusterIP": "10.0.0.1", "ports": [{"port": port}]});
    object(Kind::Service, &json!({"metadata": metadata, "spec": spec}))
}

fn broken(name: &str, version: u64) -> Object {
    let metadata = json!({"name": name, "namespace": "d", "resourceVersion": version.to_string()});
    object(Kind::Service, &json!({"metadata": metadata, "spec": 5}))
}

fn ranges(name: &str, cidr: &str) -> Object {
    object(Kind::ServiceCidr, &json!({"metadata": {"name": name}, "spec": {"cidrs": [cidr]}}))
}

fn gone(object: &Object) -> Said {
    Said::Gone(object.key.clone())
}

/// What is told, each in a word or two.
fn told(collector: &mut Collector) -> Vec<String> {
    let change = |change: Change| match change {
        Change::Service(service) => format!("{} {}", service.key, service.ports[0].port),
        Change::NoService(key) => format!("no {key}"),
        Change::Slice(slice) => format!("slice {}", slice.key),
        Change::NoSlice(key) => format!("no slice {key}"),
        Change::ServiceRanges(ranges) => format!("ranges {}", ranges.len()),
    };
    let event = |event: Event| match event {
        Event::Changes(changes) => changes.into_iter().map(change).collect(),
        Event::Node(node) => vec![format!("node {}", node.zone)],
        Event::Synced => vec!["synced".to_owned()],
        Event::Outage(text) => vec![format!("trouble {text}")],
        Event::Recovered => vec!["recovered".to_owned()],
        Event::Rejected(RejectedObjects { count, reason: Some(reason) }) => {
            vec![format!("refused {count}: {reason}")]
        }
        Event::Rejected(RejectedObjects { count, reason: None }) => vec![format!("refused {count}")],
    };
    collector.events().into_iter().flat_map(event).collect()
}

fn list(collector: &mut Collector, source: usize, objects: impl IntoIterator<Item = Object>) -> Vec<String> {
    collector.step(source, Said::Begin);
    for object in objects {
        collector.step(source, Said::Listed(object));
    }
    collector.step(source, Said::End);
    told(collector)
}

#[test]
fn all_is_told_when_each_source_has_been_listed_once() {
    let mut collector = proxy();
    assert_eq!(list(&mut collector, OWN, [service("a", 1, 80)]), ["d/a 80"]);
    assert_eq!(list(&mut collector, SLICES, []), [""; 0]);
    assert_eq!(list(&mut collector, OTHER, []), [""; 0]);
    assert_eq!(list(&mut collector, RANGES, [ranges("k", "10.0.0.0/8")]), ["ranges 1"]);
    let node = json!({"metadata": {"name": "n", "labels": {"topology.kubernetes.io/zone": "z"}}});
    assert_eq!(list(&mut collector, NODE, [object(Kind::Node, &node)]), ["node z", "synced"]);
}

#[test]
fn ranges_that_are_not_to_be_had_hold_nothing_back() {
    let answers = [
        Said::Absent,
        Said::Denied("no".to_owned()),
        Said::Lost(Fault { cause: Cause::Status(500), text: "no".to_owned(), retry_after: None }),
    ];
    for answer in answers {
        let mut collector = Collector::new(&WatchScope::Proxy { node: None }.resources());
        for source in [OWN, OTHER, SLICES] {
            assert!(!collector.waits_for_ranges());
            list(&mut collector, source, []);
        }
        assert!(collector.waits_for_ranges());
        collector.step(RANGES, answer);
        assert!(told(&mut collector).contains(&"synced".to_owned()));
    }
    let mut collector = Collector::new(&WatchScope::Proxy { node: None }.resources());
    for source in [OWN, OTHER, SLICES] {
        list(&mut collector, source, []);
    }
    collector.do_without_ranges();
    assert_eq!(told(&mut collector), ["synced"]);
    assert_eq!(list(&mut collector, RANGES, [ranges("k", "10.0.0.0/8")]), ["ranges 1"]);
}

#[test]
fn of_a_new_list_the_difference_is_told() {
    let mut collector = proxy();
    list(&mut collector, OWN, [service("a", 1, 80), service("b", 2, 80), service("c", 3, 80)]);
    let again = [service("a", 1, 80), service("b", 9, 81), service("d", 8, 80)];
    assert_eq!(list(&mut collector, OWN, again), ["d/b 81", "d/d 80", "no d/c"]);
    // What does not matter here has changed.
    assert_eq!(
        list(&mut collector, OWN, [service("a", 10, 80), service("b", 11, 81), service("d", 12, 80)]),
        [""; 0]
    );
}

#[test]
fn a_list_that_breaks_off_takes_nothing_away() {
    let mut collector = proxy();
    list(&mut collector, OWN, [service("a", 1, 80), service("b", 2, 80)]);
    collector.step(OWN, Said::Begin);
    collector.step(OWN, Said::Listed(service("a", 3, 81)));
    collector.step(OWN, Said::Begin);
    collector.step(OWN, Said::Listed(service("b", 2, 80)));
    assert_eq!(told(&mut collector), ["d/a 81"]);
}

#[test]
fn a_service_that_moves_between_selections_is_there_all_the_time_whichever_is_heard_first() {
    for (from, to) in [(OWN, OTHER), (OTHER, OWN)] {
        let mut collector = proxy();
        list(&mut collector, OTHER, []);
        list(&mut collector, from, [service("a", 1, 80)]);
        // The new selection first: nothing goes.
        collector.step(to, Said::Changed(service("a", 5, 81)));
        collector.step(from, gone(&service("a", 5, 80)));
        assert_eq!(told(&mut collector), ["d/a 81"]);
        // The old one first: it goes and comes.
        collector.step(to, gone(&service("a", 7, 81)));
        collector.step(from, Said::Changed(service("a", 7, 82)));
        assert_eq!(told(&mut collector), ["no d/a", "d/a 82"]);
    }
}

#[test]
fn of_two_selections_the_later_version_counts() {
    let mut collector = proxy();
    list(&mut collector, OWN, [service("a", 1, 80)]);
    list(&mut collector, OTHER, [service("a", 9, 90)]);
    assert_eq!(told(&mut collector), [""; 0]);
    collector.step(OWN, Said::Changed(service("a", 4, 84)));
    assert_eq!(list(&mut collector, OWN, [service("a", 5, 85)]), [""; 0]);
    assert_eq!(list(&mut collector, OWN, []), [""; 0], "the other selection has it");
    assert_eq!(list(&mut collector, OTHER, []), ["no d/a"]);
}

#[test]
fn a_server_that_was_set_back_is_believed() {
    let mut collector = proxy();
    list(&mut collector, OWN, [service("a", 900, 80)]);
    assert_eq!(list(&mut collector, OWN, [service("a", 3, 79)]), ["d/a 79"]);
}

#[test]
fn a_refused_object_keeps_its_last_good_state_and_is_told_once() {
    let mut collector = proxy();
    list(&mut collector, OWN, [service("a", 1, 80)]);
    collector.step(OWN, Said::Changed(broken("a", 2)));
    let refused = told(&mut collector);
    assert!(matches!(&refused[..], [text] if text.starts_with("refused 1: Service d/a: ")), "{refused:?}");
    collector.step(OWN, Said::Changed(broken("a", 3)));
    assert_eq!(list(&mut collector, OWN, [broken("a", 3)]), [""; 0]);
    collector.step(OWN, Said::Changed(service("a", 4, 81)));
    assert_eq!(told(&mut collector), ["d/a 81", "refused 0"]);
    collector.step(OWN, Said::Changed(broken("a", 5)));
    assert_eq!(told(&mut collector), ["refused 1"], "it has been named");
    collector.step(OWN, gone(&service("a", 6, 0)));
    assert_eq!(told(&mut collector), ["no d/a", "refused 0"]);
    assert_eq!(list(&mut collector, OWN, [broken("a", 7)]), ["refused 1"]);
    assert_eq!(list(&mut collector, OWN, []), ["refused 0"]);
}

#[test]
fn while_a_list_has_nameless_objects_nothing_is_taken_away() {
    let mut collector = proxy();
    list(&mut collector, OWN, [service("a", 1, 80)]);
    let nameless = || object(Kind::Service, &json!({"metadata": {}}));
    assert_eq!(list(&mut collector, OWN, [nameless()]), ["refused 1: Service without a name"]);
    assert_eq!(list(&mut collector, OWN, [nameless()]), [""; 0]);
    assert_eq!(list(&mut collector, OWN, []), ["no d/a", "refused 0"]);
}

#[test]
fn a_slice_that_is_nothing_for_a_portal_any_more_goes() {
    let slice = |label: &str| {
        let metadata = json!({"name": "s", "namespace": "d", "labels": {label: "w"}});
        object(Kind::Slice, &json!({"metadata": metadata, "addressType": "IPv4", "endpoints": []}))
    };
    let mut collector = proxy();
    let label = "kubernetes.io/service-name";
    assert_eq!(list(&mut collector, SLICES, [slice(label)]), ["slice d/s"]);
    collector.step(SLICES, Said::Changed(slice("other")));
    assert_eq!(told(&mut collector), ["no slice d/s"]);
    collector.step(SLICES, gone(&slice("other")));
    assert_eq!(told(&mut collector), [""; 0]);
}

#[test]
fn ranges_are_those_of_all_objects() {
    let mut collector = proxy();
    assert_eq!(
        list(&mut collector, RANGES, [ranges("a", "10.0.0.0/8"), ranges("b", "fd00::/108")]),
        ["ranges 2"]
    );
    collector.step(RANGES, Said::Changed(ranges("a", "10.0.0.0/8")));
    assert_eq!(told(&mut collector), [""; 0]);
    collector.step(RANGES, gone(&ranges("b", "fd00::/108")));
    assert_eq!(told(&mut collector), ["ranges 1"]);
    assert_eq!(list(&mut collector, RANGES, []), ["ranges 0"]);
}

#[test]
fn a_node_that_goes_is_what_it_was() {
    let mut collector = proxy();
    let node = object(Kind::Node, &json!({"metadata": {"name": "n"}}));
    assert_eq!(list(&mut collector, NODE, [node.clone()]), ["node "]);
    collector.step(NODE, gone(&node));
    collector.step(NODE, Said::Changed(node));
    assert_eq!(told(&mut collector), [""; 0]);
}
