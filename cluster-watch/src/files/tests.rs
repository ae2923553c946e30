//! Files watched, in real folders and by real inotify.
//!
//! Nothing sleeps: what must come is waited for, and what must not come is shown by something that was done later
//! and is told first.

mod ways;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use proxy_core::snapshot::{Change, Snapshot};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc::{Receiver, channel};

use super::{FileWatch, watch_files};
use crate::tests::folder::Folder;
use crate::{Event, ReadOptions};

/// Far more than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a watch tells, and what it adds up to.
struct Watched {
    events: Receiver<Event>,
    runtime: Runtime,
    snapshot: Snapshot,
    /// What has been told as taken away.
    removed: Vec<String>,
    _watch: FileWatch,
}

impl Watched {
    fn new(path: &Path) -> Self {
        Self::of_node(path, None)
    }

    fn of_node(path: &Path, node: Option<&str>) -> Self {
        let (tell, events) = channel(64);
        let watch = watch_files(vec![path.to_owned()], ReadOptions::default(), node.map(str::to_owned), tell)
            .unwrap();
        let runtime = Builder::new_current_thread().enable_time().build().unwrap();
        Self { events, runtime, snapshot: Snapshot::new(), removed: Vec::new(), _watch: watch }
    }

    /// Those of a folder, from the moment at which all has been told.
    fn synced(folder: &Folder) -> Self {
        let mut watched = Self::new(&folder.0);
        watched.until(|event, _| *event == Event::Synced);
        watched
    }

    fn next(&mut self) -> Event {
        let received = async { tokio::time::timeout(PATIENCE, self.events.recv()).await };
        let event =
            self.runtime.block_on(received).expect("something is told in time").expect("it is watched");
        if let Event::Changes(changes) = &event {
            assert!(!changes.is_empty());
            for change in changes.clone() {
                match &change {
                    Change::NoService(key) => self.removed.push(key.to_string()),
                    Change::NoSlice(key) => self.removed.push(key.to_string()),
                    _ => {}
                }
                self.snapshot.apply(change);
            }
        }
        event
    }

    /// Takes what is told until it is so; says all that was told.
    fn until(&mut self, is_so: impl Fn(&Event, &Snapshot) -> bool) -> Vec<Event> {
        let mut events = Vec::new();
        loop {
            let event = self.next();
            events.push(event);
            if events.last().is_some_and(|event| is_so(event, &self.snapshot)) {
                return events;
            }
        }
    }

    /// Waits until there are exactly these services.
    fn until_services(&mut self, names: &[&str]) -> Vec<Event> {
        let wanted: BTreeSet<&str> = names.iter().copied().collect();
        self.until(|_, snapshot| {
            snapshot.services().map(|service| &*service.key.name).collect::<BTreeSet<_>>() == wanted
        })
    }

    fn trouble(&mut self) -> String {
        let events = self.until(|event, _| matches!(event, Event::Trouble(_)));
        match events.into_iter().next_back() {
            Some(Event::Trouble(text)) => text,
            _ => unreachable!("it was waited for"),
        }
    }

    fn address(&self, name: &str) -> String {
        let service = self.snapshot.services().find(|service| &*service.key.name == name).unwrap();
        service.cluster_ip_text.as_deref().unwrap().to_owned()
    }

    fn endpoints(&self, name: &str) -> usize {
        let service = self.snapshot.services().find(|service| &*service.key.name == name).unwrap();
        self.snapshot.slices_of(&service.key).map(|slice| slice.endpoints.len()).sum()
    }
}

fn service(name: &str) -> String {
    format!("apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{ports: [{{port: 1}}]}}\n")
}

fn selecting(name: &str) -> String {
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
fn all_that_is_there_is_told_then_synced_then_the_difference_alone() {
    let folder = Folder::new("live-difference");
    folder.write("a.yaml", service("a"));
    folder.write("b.yaml", service("b"));
    let mut watched = Watched::synced(&folder);
    assert_eq!(watched.snapshot.service_count(), 2);

    folder.write("c.yaml", service("c"));
    let events = watched.until_services(&["a", "b", "c"]);
    let told = events.iter().map(|event| match event {
        Event::Changes(changes) => changes.len(),
        other => panic!("{other:?}"),
    });
    assert_eq!(told.sum::<usize>(), 1);

    fs::remove_file(folder.0.join("a.yaml")).unwrap();
    watched.until_services(&["b", "c"]);
    assert_eq!(watched.removed, ["default/a"]);
}

#[test]
fn an_empty_folder_means_no_objects() {
    let folder = Folder::new("live-empty");
    let mut watched = Watched::new(&folder.0);
    assert_eq!(watched.next(), Event::Synced);
    folder.write("a.yaml", service("a"));
    watched.until_services(&["a"]);
    fs::remove_file(folder.0.join("a.yaml")).unwrap();
    watched.until_services(&[]);
}

#[test]
fn while_a_file_is_broken_nothing_is_taken_away() {
    let folder = Folder::new("live-broken");
    folder.write("a.yaml", [service("a"), service("b")].join("---\n"));
    folder.write("c.yaml", service("c"));
    let mut watched = Watched::synced(&folder);

    folder.write("a.yaml", "kind: [");
    assert!(watched.trouble().contains("a.yaml:1"), "the place is named");
    fs::remove_file(folder.0.join("c.yaml")).unwrap();
    folder.write("d.yaml", service("d"));
    watched.until_services(&["a", "b", "c", "d"]);
    assert_eq!(watched.removed, [""; 0]);

    folder.write("a.yaml", service("a"));
    watched.until(|event, _| *event == Event::Recovered);
    watched.until_services(&["a", "d"]);
    assert_eq!(watched.removed, ["default/b", "default/c"]);
}

#[test]
fn a_refused_object_keeps_its_last_good_state() {
    let folder = Folder::new("live-refused");
    folder.write("a.yaml", service("a"));
    let mut watched = Watched::synced(&folder);
    folder.write("a.yaml", service("a").replace("port: 1", "port: 0"));
    let trouble = watched.trouble();
    assert!(trouble.contains("Service default/a"), "{trouble}");
    folder.write("b.yaml", [service("b"), service("c").replace("port: 1", "port: x")].join("---\n"));
    assert!(watched.trouble().ends_with("(and 1 more)"));
    assert_eq!(watched.snapshot.service_count(), 2);
    assert_eq!(watched.removed, [""; 0]);
}

#[test]
fn one_more_service_moves_no_address() {
    let folder = Folder::new("live-addresses");
    folder.write("p.yaml", [service("p"), service("q")].join("---\n"));
    let mut watched = Watched::synced(&folder);
    let before = (watched.address("p"), watched.address("q"));
    folder.write("a.yaml", service("a"));
    watched.until_services(&["a", "p", "q"]);
    assert_eq!((watched.address("p"), watched.address("q")), before);

    // An address that is free again is not drawn in the same moment.
    fs::remove_file(folder.0.join("p.yaml")).unwrap();
    folder.write("b.yaml", service("b"));
    watched.until_services(&["a", "b"]);
    assert!(![before.0, before.1].contains(&watched.address("b")));
}

#[test]
fn a_pod_that_cannot_be_read_takes_no_endpoint_away() {
    let folder = Folder::new("live-pods");
    folder.write("s.yaml", selecting("web"));
    folder.write("p.yaml", pod("p", "web", "10.1.0.1"));
    folder.write("q.yaml", pod("q", "web", "10.1.0.2"));
    let mut watched = Watched::synced(&folder);
    assert_eq!(watched.endpoints("web"), 2);
    folder.write("q.yaml", "kind: [");
    watched.trouble();
    assert_eq!(watched.endpoints("web"), 2);
    fs::remove_file(folder.0.join("q.yaml")).unwrap();
    watched.until(|event, _| *event == Event::Recovered);
    watched.next();
    assert_eq!(watched.endpoints("web"), 1);
}

#[test]
fn pods_do_not_take_the_place_of_a_slice_that_cannot_be_read() {
    let folder = Folder::new("live-derived");
    folder.write("s.yaml", selecting("web"));
    folder.write("e.yaml", slice("web", "10.1.0.9"));
    folder.write("p.yaml", pod("p", "web", "10.1.0.1"));
    let mut watched = Watched::synced(&folder);
    folder.write("e.yaml", "kind: [");
    watched.trouble();
    folder.write("x.yaml", service("x"));
    watched.until_services(&["web", "x"]);
    assert_eq!(watched.endpoints("web"), 1);
    assert_eq!(watched.removed, [""; 0]);
}

#[test]
fn the_own_node_is_told_when_it_comes_and_when_it_changes() {
    let folder = Folder::new("live-node");
    folder.write("n.yaml", [node("one", "a"), node("two", "b")].join("---\n"));
    let mut watched = Watched::of_node(&folder.0, Some("two"));
    let zones = |events: Vec<Event>| -> Vec<String> {
        let zones = events.into_iter().filter_map(|event| match event {
            Event::Node(node) => Some(format!("{} {}", node.name, node.zone)),
            _ => None,
        });
        zones.collect()
    };
    let events = watched.until(|event, _| *event == Event::Synced);
    assert_eq!(zones(events), ["two b"]);
    folder.write("n.yaml", [node("one", "x"), node("two", "c")].join("---\n"));
    let events = watched.until(|event, _| matches!(event, Event::Node(_)));
    assert_eq!(zones(events), ["two c"]);
}

#[test]
fn a_dropped_watch_ends_its_thread() {
    let folder = Folder::new("live-end");
    let Watched { mut events, runtime, _watch, .. } = Watched::synced(&folder);
    drop(_watch);
    let end = async { tokio::time::timeout(PATIENCE, events.recv()).await };
    assert_eq!(runtime.block_on(end).expect("the thread ends"), None);
}
