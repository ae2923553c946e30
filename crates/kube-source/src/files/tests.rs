//! Tests of the file watch, with real files and inotify.
//!
//! No test sleeps. Expected events are awaited. To show that an event does not come, a test makes a later change and
//! checks that its event comes first.

mod changes;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use proxy_core::snapshot::{Change, Snapshot};
use support::temp_dir::TempDir;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc::{Receiver, channel};

use super::{FileWatch, watch_files};
use crate::{Event, ReadOptions};

/// Far more than any step takes.
const TIMEOUT: Duration = Duration::from_secs(20);

/// A running watch, and the state that its events add up to.
struct TestWatch {
    events: Receiver<Event>,
    runtime: Runtime,
    snapshot: Snapshot,
    /// The services and slices that were removed.
    removed: Vec<String>,
    _watch: FileWatch,
}

impl TestWatch {
    fn new(path: &Path) -> Self {
        Self::with_node(path, None)
    }

    fn with_node(path: &Path, node: Option<&str>) -> Self {
        let (sender, events) = channel(64);
        let node = node.map(str::to_owned);
        let watch = watch_files(vec![path.to_owned()], ReadOptions::default(), node, sender).unwrap();
        let runtime = Builder::new_current_thread().enable_time().build().unwrap();
        Self { events, runtime, snapshot: Snapshot::new(), removed: Vec::new(), _watch: watch }
    }

    /// Watches a directory, and waits for the initial sync.
    fn synced(directory: &TempDir) -> Self {
        let mut watched = Self::new(directory.path());
        watched.until(|event, _| *event == Event::Synced);
        watched
    }

    fn next(&mut self) -> Event {
        let received = async { tokio::time::timeout(TIMEOUT, self.events.recv()).await };
        let event =
            self.runtime.block_on(received).expect("an event before the timeout").expect("a running watch");
        if let Event::Changes(changes) = &event {
            assert!(!changes.is_empty());
            for change in changes.clone() {
                match &change {
                    Change::ServiceDeleted(key) => self.removed.push(key.to_string()),
                    Change::SliceDeleted(key) => self.removed.push(key.to_string()),
                    Change::NamespaceDeleted(name) => self.removed.push(name.to_string()),
                    _ => {}
                }
                self.snapshot.apply(change);
            }
        }
        event
    }

    /// Receives events until the condition holds, and returns them.
    fn until(&mut self, condition: impl Fn(&Event, &Snapshot) -> bool) -> Vec<Event> {
        let mut events = Vec::new();
        loop {
            let event = self.next();
            events.push(event);
            if events.last().is_some_and(|event| condition(event, &self.snapshot)) {
                return events;
            }
        }
    }

    /// Receives events until there are exactly these services.
    fn until_services(&mut self, names: &[&str]) -> Vec<Event> {
        let expected: BTreeSet<&str> = names.iter().copied().collect();
        self.until(|_, snapshot| {
            snapshot.services().map(|service| &*service.key.name).collect::<BTreeSet<_>>() == expected
        })
    }

    fn next_error(&mut self) -> String {
        let events = self.until(|event, _| matches!(event, Event::Outage(_)));
        match events.into_iter().next_back() {
            Some(Event::Outage(text)) => text,
            _ => unreachable!("`until` ends with this event"),
        }
    }

    fn address(&self, name: &str) -> String {
        let service = self.snapshot.services().find(|service| &*service.key.name == name).unwrap();
        service.cluster_ip_text.as_deref().unwrap().to_owned()
    }

    fn endpoint_count(&self, name: &str) -> usize {
        let service = self.snapshot.services().find(|service| &*service.key.name == name).unwrap();
        self.snapshot.slices_of(&service.key).map(|slice| slice.endpoints.len()).sum()
    }
}

fn service(name: &str) -> String {
    format!("apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{ports: [{{port: 1}}]}}\n")
}

fn service_with_selector(name: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\n\
         spec: {{selector: {{app: {name}}}, ports: [{{port: 1}}]}}\n"
    )
}

fn pod(name: &str, app: &str, address: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: {app}}}}}\n\
         status: {{phase: Running, podIP: {address}, podIPs: [{{ip: {address}}}], \
         conditions: [{{type: Ready, status: 'True'}}]}}\n"
    )
}

fn slice(service: &str, address: &str) -> String {
    format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {{name: {service}-x, labels: {{kubernetes.io/service-name: {service}}}}}\n\
         addressType: IPv4\nports: [{{port: 1}}]\nendpoints: [{{addresses: [{address}]}}]\n"
    )
}

fn node(name: &str, zone: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Node\nmetadata: {{name: {name}, \
         labels: {{topology.kubernetes.io/zone: {zone}}}}}\n"
    )
}

#[test]
fn all_objects_are_sent_before_synced_and_then_only_changes() {
    let directory = TempDir::new("live-difference");
    directory.write("a.yaml", service("a"));
    directory.write("b.yaml", service("b"));
    let mut watched = TestWatch::synced(&directory);
    assert_eq!(watched.snapshot.service_count(), 2);

    directory.write("c.yaml", service("c"));
    let events = watched.until_services(&["a", "b", "c"]);
    let change_counts = events.iter().map(|event| match event {
        Event::Changes(changes) => changes.len(),
        other => panic!("{other:?}"),
    });
    assert_eq!(change_counts.sum::<usize>(), 1);

    fs::remove_file(directory.join("a.yaml")).unwrap();
    watched.until_services(&["b", "c"]);
    assert_eq!(watched.removed, ["default/a"]);
}

#[test]
fn empty_directory_syncs_without_objects() {
    let directory = TempDir::new("live-empty");
    let mut watched = TestWatch::new(directory.path());
    assert_eq!(watched.next(), Event::Synced);
    directory.write("a.yaml", service("a"));
    watched.until_services(&["a"]);
    fs::remove_file(directory.join("a.yaml")).unwrap();
    watched.until_services(&[]);
}

#[test]
fn no_object_is_removed_while_a_file_is_invalid() {
    let directory = TempDir::new("live-broken");
    directory.write("a.yaml", [service("a"), service("b")].join("---\n"));
    directory.write("c.yaml", service("c"));
    let mut watched = TestWatch::synced(&directory);

    directory.write("a.yaml", "kind: [");
    assert!(watched.next_error().contains("a.yaml:1"), "the error has its location");
    fs::remove_file(directory.join("c.yaml")).unwrap();
    directory.write("d.yaml", service("d"));
    watched.until_services(&["a", "b", "c", "d"]);
    assert_eq!(watched.removed, [""; 0]);

    directory.write("a.yaml", service("a"));
    watched.until(|event, _| *event == Event::Recovered);
    watched.until_services(&["a", "d"]);
    assert_eq!(watched.removed, ["default/b", "default/c"]);
}

#[test]
fn rejected_object_keeps_its_last_valid_state() {
    let directory = TempDir::new("live-rejected");
    directory.write("a.yaml", service("a"));
    let mut watched = TestWatch::synced(&directory);
    directory.write("a.yaml", service("a").replace("port: 1", "port: 0"));
    let error = watched.next_error();
    assert!(error.contains("Service default/a"), "{error}");
    directory.write("b.yaml", [service("b"), service("c").replace("port: 1", "port: x")].join("---\n"));
    assert!(watched.next_error().ends_with("(and 1 more)"));
    assert_eq!(watched.snapshot.service_count(), 2);
    assert_eq!(watched.removed, [""; 0]);
}

#[test]
fn new_service_does_not_change_the_addresses_of_others() {
    let directory = TempDir::new("live-addresses");
    directory.write("p.yaml", [service("p"), service("q")].join("---\n"));
    let mut watched = TestWatch::synced(&directory);
    let before = (watched.address("p"), watched.address("q"));
    directory.write("a.yaml", service("a"));
    watched.until_services(&["a", "p", "q"]);
    assert_eq!((watched.address("p"), watched.address("q")), before);

    // The address of a deleted service is not assigned again at once.
    fs::remove_file(directory.join("p.yaml")).unwrap();
    directory.write("b.yaml", service("b"));
    watched.until_services(&["a", "b"]);
    assert!(![before.0, before.1].contains(&watched.address("b")));
}

#[test]
fn unparsable_pod_keeps_its_endpoint() {
    let directory = TempDir::new("live-pods");
    directory.write("s.yaml", service_with_selector("web"));
    directory.write("p.yaml", pod("p", "web", "10.1.0.1"));
    directory.write("q.yaml", pod("q", "web", "10.1.0.2"));
    let mut watched = TestWatch::synced(&directory);
    assert_eq!(watched.endpoint_count("web"), 2);
    directory.write("q.yaml", "kind: [");
    watched.next_error();
    assert_eq!(watched.endpoint_count("web"), 2);
    fs::remove_file(directory.join("q.yaml")).unwrap();
    watched.until(|event, _| *event == Event::Recovered);
    watched.next();
    assert_eq!(watched.endpoint_count("web"), 1);
}

#[test]
fn pods_do_not_replace_an_unparsable_slice() {
    let directory = TempDir::new("live-derived");
    directory.write("s.yaml", service_with_selector("web"));
    directory.write("e.yaml", slice("web", "10.1.0.9"));
    directory.write("p.yaml", pod("p", "web", "10.1.0.1"));
    let mut watched = TestWatch::synced(&directory);
    directory.write("e.yaml", "kind: [");
    watched.next_error();
    directory.write("x.yaml", service("x"));
    watched.until_services(&["web", "x"]);
    assert_eq!(watched.endpoint_count("web"), 1);
    assert_eq!(watched.removed, [""; 0]);
}

#[test]
fn own_node_is_sent_initially_and_on_change() {
    let directory = TempDir::new("live-node");
    directory.write("n.yaml", [node("one", "a"), node("two", "b")].join("---\n"));
    let mut watched = TestWatch::with_node(directory.path(), Some("two"));
    let zones = |events: Vec<Event>| -> Vec<String> {
        let zones = events.into_iter().filter_map(|event| match event {
            Event::Node(node) => Some(format!("{} {}", node.name, node.zone)),
            _ => None,
        });
        zones.collect()
    };
    let events = watched.until(|event, _| *event == Event::Synced);
    assert_eq!(zones(events), ["two b"]);
    directory.write("n.yaml", [node("one", "x"), node("two", "c")].join("---\n"));
    let events = watched.until(|event, _| matches!(event, Event::Node(_)));
    assert_eq!(zones(events), ["two c"]);
}

#[test]
fn dropping_the_watch_ends_its_thread() {
    let directory = TempDir::new("live-end");
    let TestWatch { mut events, runtime, _watch, .. } = TestWatch::synced(&directory);
    drop(_watch);
    let end = async { tokio::time::timeout(TIMEOUT, events.recv()).await };
    assert_eq!(runtime.block_on(end).expect("the thread ends"), None);
}
