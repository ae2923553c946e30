//! Watching the metadata of any resource without the content.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use kube_source::{
    MetadataEvent, MetadataSelection, ObjectMeta, RejectedObjects, WatchOptions, client, watch_metadata,
};
use serde_json::{Value, json};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc::{Receiver, channel};

use super::observed_cluster::limits;
use test_support::apiserver::{ApiServer, Fault, Generated, InitialEvents};

const TIMEOUT: Duration = Duration::from_secs(60);
const MANAGED: &str = "example.com/managed";

/// The state that results from the events of a metadata watch.
struct ObservedMetadata {
    known: BTreeMap<String, ObjectMeta>,
    deleted: Vec<String>,
    is_synced: bool,
    rejected: usize,
    outages: Vec<String>,
    recoveries: usize,
    events: Receiver<MetadataEvent>,
    runtime: Runtime,
}

impl ObservedMetadata {
    fn new(kubeconfig: &Path, selection: MetadataSelection, limits: WatchOptions) -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let client = runtime.block_on(client(Some(kubeconfig))).expect("a client");
        let (sender, events) = channel(16);
        runtime.spawn(watch_metadata(client, selection, limits, sender));
        Self {
            known: BTreeMap::new(),
            deleted: Vec::new(),
            is_synced: false,
            rejected: 0,
            outages: Vec::new(),
            recoveries: 0,
            events,
            runtime,
        }
    }

    fn until(&mut self, is_so: impl Fn(&Self) -> bool) {
        while !is_so(self) {
            let received = async { tokio::time::timeout(TIMEOUT, self.events.recv()).await };
            let event = self.runtime.block_on(received);
            let event =
                event.unwrap_or_else(|_| panic!("timed out without an event; outages: {:?}", self.outages));
            match event.expect("the watch continues") {
                MetadataEvent::Applied(meta) => {
                    self.known.insert(meta.key.name.to_string(), meta);
                }
                MetadataEvent::Deleted(key) => {
                    assert!(self.known.remove(&*key.name).is_some(), "{key:?} exists");
                    self.deleted.push(key.name.to_string());
                }
                MetadataEvent::Synced => {
                    assert!(!std::mem::replace(&mut self.is_synced, true), "synced is sent once");
                }
                MetadataEvent::Outage(why) => self.outages.push(why),
                MetadataEvent::Recovered => self.recoveries += 1,
                MetadataEvent::Rejected(RejectedObjects { count, .. }) => self.rejected = count,
            }
        }
    }

    fn names(&self) -> Vec<&str> {
        self.known.keys().map(String::as_str).collect()
    }
}

fn managed_selection() -> MetadataSelection {
    MetadataSelection {
        path: "/api/v1/configmaps".to_owned(),
        label_selector: Some(format!("{MANAGED}=yes")),
        labels: vec![MANAGED.to_owned()],
        annotations: vec!["portico.dev/".to_owned()],
        ..MetadataSelection::default()
    }
}

fn config_map(name: &str, note: &str) -> Value {
    json!({"kind": "ConfigMap", "metadata": {"name": name, "namespace": "default", "labels": {MANAGED: "yes"},
        "annotations": {"portico.dev/selection": note, "other": "x"}}, "data": {"text": "x".repeat(100_000)}})
}

fn existing_objects_and_every_change_are_reported_without_content(api: &ApiServer) {
    api.put(config_map("first", "1"));
    let mut foreign = config_map("foreign", "1");
    foreign["metadata"]["labels"] = json!({});
    api.put(foreign);
    let mut objects = ObservedMetadata::new(api.kubeconfig(), managed_selection(), limits());
    objects.until(|objects| objects.is_synced);
    assert_eq!(objects.names(), ["first"]);
    let first = objects.known["first"].clone();
    assert_eq!(first.labels.keys().map(|key| &**key).collect::<Vec<_>>(), [MANAGED]);
    assert_eq!(first.annotations.keys().map(|key| &**key).collect::<Vec<_>>(), ["portico.dev/selection"]);
    api.put(config_map("first", "2"));
    let note =
        |objects: &ObservedMetadata| objects.known["first"].annotations["portico.dev/selection"].to_string();
    objects.until(|objects| note(objects) == "2");
    let changed = &objects.known["first"];
    assert_eq!(changed.uid, first.uid);
    assert_ne!(changed.resource_version, first.resource_version);
    api.put(config_map("second", "1"));
    objects.until(|objects| objects.known.contains_key("second"));
    // An object that no longer matches counts as deleted.
    let mut released = config_map("second", "1");
    released["metadata"]["labels"] = json!({});
    api.put(released);
    objects.until(|objects| objects.deleted == ["second"]);
    api.delete("ConfigMap", "default", "first");
    objects.until(|objects| objects.known.is_empty());
    assert_eq!((&objects.outages[..], objects.rejected), (&[][..], 0));
}

#[test]
fn double_sends_metadata_and_every_change_without_content() {
    existing_objects_and_every_change_are_reported_without_content(&ApiServer::double());
}

#[test]
#[cfg_attr(not(feature = "api-server"), ignore = "needs KUBEBUILDER_ASSETS and the feature api-server")]
fn real_api_server_sends_metadata_and_every_change_without_content() {
    let api = ApiServer::real();
    existing_objects_and_every_change_are_reported_without_content(&api);
}

/// The number of lists of the pods of all namespaces that a real API server has served.
fn lists_of_pods(api: &ApiServer) -> u64 {
    let page = api.kubectl(&["get", "--raw", "/metrics"]).expect("the metrics of the server");
    let is_list = |line: &&str| {
        line.starts_with("apiserver_request_total{")
            && ["resource=\"pods\"", "scope=\"cluster\"", "verb=\"LIST\""]
                .iter()
                .all(|part| line.contains(part))
    };
    let counts = page.lines().filter(is_list).filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
    counts.sum()
}

/// Whether a real API server sends initial events, which requires an etcd with progress notifications (3.4.25, 3.5.8
/// and later).
fn sends_initial_events(api: &ApiServer) -> bool {
    let query = "watch=true&timeoutSeconds=1&allowWatchBookmarks=true&sendInitialEvents=true";
    let path = format!("/api/v1/pods?{query}&resourceVersionMatch=NotOlderThan");
    let answer = api.kubectl(&["get", "--raw", &path]).unwrap_or_else(|why| why);
    answer.contains("initial-events-end")
}

#[test]
#[cfg_attr(not(feature = "api-server"), ignore = "needs KUBEBUILDER_ASSETS and the feature api-server")]
#[allow(clippy::print_stderr)] // The binaries determine which of the two cases was tested.
fn change_causes_no_list_on_a_real_api_server() {
    let api = ApiServer::real();
    api.send("GET", "/api/v1/pods", "application/json", &Value::Null);
    assert!(lists_of_pods(&api) > 0, "the metric counts");
    eprintln!("this API server sends initial events: {}", sends_initial_events(&api));
    let selection = MetadataSelection { path: "/api/v1/pods".to_owned(), ..MetadataSelection::default() };
    let mut objects = ObservedMetadata::new(api.kubeconfig(), selection, limits());
    objects.until(|objects| objects.is_synced);
    let before = lists_of_pods(&api);
    let spec = json!({"containers": [{"name": "c", "image": "i"}]});
    for number in 0..5 {
        let name = format!("pod-{number}");
        api.put(json!({"kind": "Pod", "metadata": {"name": name, "namespace": "default"}, "spec": spec}));
        objects.until(|objects| objects.known.contains_key(&name));
    }
    assert_eq!(lists_of_pods(&api), before);
}

#[test]
fn change_causes_no_list() {
    for refused in [false, true] {
        let api = ApiServer::double();
        if refused {
            api.fault(Fault::NoInitialEvents(InitialEvents::Status(422)));
        }
        let selection =
            |kind: &str| MetadataSelection { path: format!("/api/v1/{kind}"), ..Default::default() };
        let kinds = ["namespaces", "pods", "configmaps"];
        let mut all = kinds.map(|kind| ObservedMetadata::new(api.kubeconfig(), selection(kind), limits()));
        all.iter_mut().for_each(|objects| objects.until(|objects| objects.is_synced));
        api.requests();
        for round in 0..20 {
            for (kind, objects) in ["Namespace", "Pod", "ConfigMap"].into_iter().zip(&mut all) {
                let name = format!("changed-{round}");
                api.put(json!({"kind": kind, "metadata": {"name": name}}));
                objects.until(|objects| objects.known.contains_key(&name));
            }
        }
        let requests = api.requests();
        let is_list = |request: &&String| request.contains("limit=") || request.contains("sendInitial");
        assert_eq!(requests.iter().filter(is_list).count(), 0, "{requests:?}");
    }
}

#[test]
fn objects_deleted_during_an_outage_are_reported_as_deleted() {
    let api = ApiServer::double();
    ["a", "b"].iter().for_each(|name| api.put(config_map(name, "1")));
    let mut objects = ObservedMetadata::new(api.kubeconfig(), managed_selection(), limits());
    objects.until(|objects| objects.is_synced);
    api.fault(Fault::Down);
    objects.until(|objects| !objects.outages.is_empty());
    api.delete("ConfigMap", "default", "a");
    api.fault(Fault::Expire);
    api.fault(Fault::Cleared);
    objects.until(|objects| objects.recoveries == 1 && objects.deleted == ["a"]);
    assert_eq!(objects.names(), ["b"]);
    assert_eq!(objects.outages.len(), 1, "{:?}", objects.outages);
}

#[test]
fn too_large_metadata_is_rejected_and_the_others_arrive() {
    let api = ApiServer::double();
    api.generate(Generated {
        kind: "ConfigMap",
        count: 100,
        metadata: |number| json!({"name": format!("made-{number}"), "namespace": "default", "labels": {MANAGED: "yes"}}),
        content: |_| format!("\"data\":{{\"text\":\"{}\"}}", "x".repeat(600_000)),
    });
    api.put(config_map("hostile", &"x".repeat(200_000)));
    let mut objects = ObservedMetadata::new(api.kubeconfig(), managed_selection(), limits());
    objects.until(|objects| objects.is_synced);
    assert_eq!((objects.known.len(), objects.rejected), (100, 1));
    api.put(config_map("hostile", "small"));
    objects.until(|objects| objects.rejected == 0 && objects.known.contains_key("hostile"));
}
