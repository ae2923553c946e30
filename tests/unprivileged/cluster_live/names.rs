//! The watch of a proxy that needs names: services and slices without selectors, and namespaces.

use kube_source::{WatchOptions, WatchScope};
use proxy_core::address::Family;
use proxy_core::portal::{NodeContext, portals};
use proxy_core::service::{Protocol, ServiceKey};
use proxy_core::snapshot::Snapshot;
use serde_json::{Value, json};

use super::observed_cluster::{ObservedCluster, limits};
use test_support::apiserver::{ApiServer, Fault, InitialEvents};
use test_support::objects::{HEADLESS, OTHER_PROXY, service, service_cidr, slice, with_label};

const SCOPE: WatchScope = WatchScope::Proxy { node: None, has_names: true };

fn with_names(api: &ApiServer, limits: WatchOptions) -> ObservedCluster {
    let mut cluster = ObservedCluster::new(api.kubeconfig(), SCOPE, limits);
    cluster.until(|cluster| cluster.is_synced);
    cluster
}

fn namespace(name: &str, dns: &str) -> Value {
    let annotations = json!({"portico.dev/dns": dns, "note": "x".repeat(1_000)});
    json!({"kind": "Namespace", "metadata": {"name": name, "annotations": annotations}})
}

fn labelled_slice(name: &str, service: &str, label: &str) -> Value {
    let mut slice = slice(name, service, &["10.1.0.1", "10.1.0.2"]);
    slice["metadata"]["labels"][label] = "".into();
    slice["endpoints"][0]["hostname"] = "names-0".into();
    slice["endpoints"][0]["zone"] = "z1".into();
    slice
}

/// Returns whether pods of the namespace are excluded from DNS; none if the namespace is unknown.
fn is_dns_off(cluster: &ObservedCluster, name: &str) -> Option<bool> {
    cluster.snapshot.namespace(name).map(|namespace| namespace.is_dns_off)
}

pub(crate) fn unwatched_objects_and_namespaces_are_reported_if_names_are_needed(api: &ApiServer) {
    api.put(with_label(service("names-headless", 6000, 80), HEADLESS));
    api.put(labelled_slice("names-headless-1", "names-headless", HEADLESS));
    api.put(labelled_slice("names-other-1", "names-other", OTHER_PROXY));
    api.put(namespace("names-off", "off"));
    api.put(namespace("names-on", "on"));
    let mut cluster = with_names(api, limits());
    let found = cluster.service("names-headless").expect("the service was reported");
    assert!(!found.has_portals && found.is_unproxied);
    assert_eq!((cluster.endpoints("names-headless"), cluster.endpoints("names-other")), (2, 2));
    let key = ServiceKey::new("default", "names-headless");
    let slice = cluster.snapshot.slices_of(&key).next().expect("the slice was reported");
    let first = &slice.endpoints[0];
    assert_eq!((first.hostname.as_deref(), first.zone.as_deref()), (Some("names-0"), Some("z1")));
    assert_eq!(
        (is_dns_off(&cluster, "names-off"), is_dns_off(&cluster, "names-on")),
        (Some(true), Some(false))
    );
    assert!(cluster.snapshot.has_namespace("names-on") && !cluster.snapshot.has_namespace("names-none"));
    api.put(namespace("names-on", "off"));
    cluster.until(|cluster| is_dns_off(cluster, "names-on") == Some(true));
    api.put(namespace("names-on", "invalid"));
    cluster.until(|cluster| is_dns_off(cluster, "names-on") == Some(false));
    api.put(namespace("names-later", "on"));
    cluster.until(|cluster| cluster.snapshot.has_namespace("names-later"));
}

/// A double with a service with portals, and objects that have names only.
fn mixed() -> ApiServer {
    let api = ApiServer::double();
    api.put(service_cidr("kubernetes", "10.0.0.0/16"));
    api.put(json!({"kind": "Namespace", "metadata": {"name": "default"}}));
    api.put(service("own", 1, 80));
    api.put(slice("own-1", "own", &["10.1.0.1", "10.0.1.2"]));
    // The address 10.0.1.2 of this service is an endpoint of the other one.
    api.put(with_label(service("unproxied", 2, 80), HEADLESS));
    api.put(labelled_slice("own-2", "own", HEADLESS));
    api.put(labelled_slice("own-3", "own", OTHER_PROXY));
    api
}

#[test]
fn watched_names_change_no_portal() {
    let api = mixed();
    let (with, without) = (with_names(&api, limits()), ObservedCluster::synced(&api));
    let of = |snapshot: &Snapshot| {
        let all = portals(snapshot, &NodeContext::default());
        let own = ServiceKey::new("default", "own");
        let backends = snapshot.endpoints_of(&own, "main", Protocol::Tcp, Family::V4);
        assert_eq!(backends.len(), 2);
        (all.by_service().cloned().collect::<Vec<_>>(), snapshot.service_ranges().to_vec())
    };
    assert_eq!(of(&with.snapshot), of(&without.snapshot));
    assert_eq!((with.snapshot.service_count(), without.snapshot.service_count()), (2, 1));
}

#[test]
fn deleted_namespace_is_removed() {
    let api = mixed();
    api.put(namespace("short", "off"));
    let mut cluster = with_names(&api, limits());
    assert!(cluster.snapshot.has_namespace("short"));
    api.delete("Namespace", "", "short");
    cluster.until(|cluster| !cluster.snapshot.has_namespace("short"));
    assert!(cluster.snapshot.has_namespace("default"));
}

#[test]
fn namespace_that_is_deleted_during_an_outage_is_removed() {
    let api = mixed();
    api.put(namespace("short", "off"));
    let mut cluster = with_names(&api, limits());
    api.fault(Fault::Down);
    cluster.until(|cluster| !cluster.outages.is_empty());
    api.delete("Namespace", "", "short");
    api.fault(Fault::Expire);
    api.fault(Fault::Cleared);
    cluster.until(|cluster| !cluster.snapshot.has_namespace("short"));
}

#[test]
fn initial_sync_waits_for_namespaces() {
    let api = mixed();
    api.fault(Fault::Deny("namespaces"));
    let mut cluster = ObservedCluster::new(api.kubeconfig(), SCOPE, limits());
    cluster.until(|cluster| !cluster.outages.is_empty() && cluster.service("own").is_some());
    let outage = &cluster.outages[0];
    assert!(
        outage.contains("failed to list namespaces") && outage.contains("resources: [\"namespaces\"]"),
        "{outage}"
    );
    assert!(!cluster.is_synced);
    api.fault(Fault::Cleared);
    cluster.until(|cluster| cluster.is_synced);
    assert!(cluster.snapshot.has_namespace("default"));
}

#[test]
fn objects_are_listed_without_selectors_only_if_names_are_needed() {
    let api = mixed();
    api.fault(Fault::NoInitialEvents(InitialEvents::Status(422)));
    ObservedCluster::synced(&api).end();
    assert!(api.requests().iter().all(|request| !request.contains("namespaces")), "without names");
    let cluster = with_names(&api, limits());
    let requests = api.requests();
    for resource in ["services", "endpointslices", "namespaces"] {
        let path = format!("/{resource}?limit=");
        let lists = requests.iter().filter(|request| request.contains(&path));
        let lists: Vec<_> = lists.collect();
        assert!(lists.len() == 1 && !lists[0].contains("Selector"), "{resource}: {requests:?}");
    }
    cluster.end();
}

#[test]
fn only_the_metadata_of_namespaces_is_read() {
    let api = mixed();
    // An object of this size is rejected.
    api.put(
        json!({"kind": "Namespace", "metadata": {"name": "large"}, "spec": {"text": "x".repeat(5 << 20)}}),
    );
    let cluster = with_names(&api, limits());
    assert!(cluster.snapshot.namespace("large").is_some());
    assert_eq!(cluster.rejected, 0, "{:?}", cluster.reasons);
}
