//! The events from any API server: the double, and a real one with the feature `api-server`.
//!
//! The objects of each behaviour have distinct names, since all behaviours share one real server. Tests of faults are
//! in other files.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use kube_source::WatchScope;
use proxy_core::service::ClusterIps;

use super::names::unwatched_objects_and_namespaces_are_reported_if_names_are_needed;
use super::observed_cluster::{ObservedCluster, limits};
use super::random_changes::without_faults;
use test_support::apiserver::ApiServer;
use test_support::objects::{HEADLESS, OTHER_PROXY, node, service, service_cidr, slice, with_label};

/// More than a page.
const MANY: u16 = 620;

fn existing_objects_and_every_change_are_reported(api: &ApiServer) {
    api.put(service("change-a", 1, 80));
    api.put(slice("change-a-1", "change-a", &["10.1.0.1", "10.1.0.2"]));
    let mut cluster = ObservedCluster::synced(api);
    assert_eq!(cluster.port("change-a"), Some(80));
    assert_eq!(cluster.endpoints("change-a"), 2);
    assert!(matches!(
        cluster.service("change-a").expect("the service was reported").cluster_ips,
        ClusterIps::One(_)
    ));

    api.put(service("change-b", 2, 81));
    cluster.until(|cluster| cluster.port("change-b") == Some(81));
    api.put(service("change-a", 1, 90));
    cluster.until(|cluster| cluster.port("change-a") == Some(90));
    api.put(slice("change-a-1", "change-a", &["10.1.0.2"]));
    api.put(slice("change-a-2", "change-a", &["10.1.0.3", "10.1.0.4"]));
    cluster.until(|cluster| cluster.endpoints("change-a") == 3);
    api.delete("EndpointSlice", "default", "change-a-1");
    cluster.until(|cluster| cluster.endpoints("change-a") == 2);
    api.delete("Service", "default", "change-a");
    cluster.until(|cluster| cluster.port("change-a").is_none());
    assert_eq!((&cluster.outages[..], cluster.recoveries), (&[][..], 0));
}

fn services_of_several_pages_are_reported_before_synced(api: &ApiServer) {
    for number in 0..MANY {
        api.put(service(&format!("many-{number}"), 1000 + number, 80));
    }
    let cluster = ObservedCluster::synced(api);
    assert!((0..MANY).all(|number| cluster.port(&format!("many-{number}")) == Some(80)));
    for number in 0..MANY {
        api.delete("Service", "default", &format!("many-{number}"));
    }
}

fn watches_that_the_server_ends_resume_without_an_outage(api: &ApiServer) {
    let mut cluster = ObservedCluster::new(
        api.kubeconfig(),
        WatchScope::Proxy { node: None, has_names: false },
        kube_source::WatchOptions { watch_timeout_s: 1, ..limits() },
    );
    cluster.until(|cluster| cluster.is_synced);
    // Longer than two watches.
    let began = Instant::now();
    let mut port = 0;
    while began.elapsed() < Duration::from_millis(2600) {
        port = port % 60_000 + 1;
        api.put(service("ended", 2000, port));
        cluster.until(|cluster| cluster.port("ended") == Some(port));
    }
    assert_eq!(cluster.outages, [""; 0]);
}

fn services_of_other_proxies_are_known_and_hide_the_ranges(api: &ApiServer) {
    api.put(with_label(service("selected-headless", 3000, 80), HEADLESS));
    api.put(with_label(service("selected-other", 3001, 80), OTHER_PROXY));
    api.put(service("selected-own", 3002, 80));
    let mut cluster = ObservedCluster::synced(api);
    assert!(cluster.service("selected-headless").is_none());
    assert!(cluster.service("selected-own").expect("the service was reported").has_portals);
    assert!(!cluster.service("selected-other").expect("the service was reported").has_portals);
    assert!(cluster.snapshot.service_ranges().is_empty());
    api.delete("Service", "default", "selected-other");
    cluster.until(|cluster| !cluster.snapshot.service_ranges().is_empty());

    let mut all = ObservedCluster::new(api.kubeconfig(), WatchScope::Services, limits());
    all.until(|all| all.is_synced);
    assert!(all.service("selected-headless").is_some());
    assert!(all.snapshot.service_ranges().is_empty());
}

fn service_that_changes_its_proxy_is_not_lost(api: &ApiServer) {
    let (own, other) = (service("moved", 4000, 80), with_label(service("moved", 4000, 80), OTHER_PROXY));
    api.put(own.clone());
    let mut cluster = ObservedCluster::synced(api);
    let has_portals = |cluster: &ObservedCluster| cluster.service("moved").map(|service| service.has_portals);
    for _ in 0..10 {
        api.put(other.clone());
        cluster.until(|cluster| has_portals(cluster) == Some(false));
        api.put(own.clone());
        cluster.until(|cluster| has_portals(cluster) == Some(true));
    }
    // Change between proxies faster than the watches follow.
    for _ in 0..10 {
        api.put(other.clone());
        api.put(own.clone());
    }
    api.put(service("moved", 4000, 99));
    cluster.until(|cluster| cluster.port("moved") == Some(99));
    api.put(service("moved-later", 4001, 80));
    cluster.until(|cluster| cluster.port("moved-later").is_some());
    assert_eq!(has_portals(&cluster), Some(true));
    api.delete("Service", "default", "moved");
    cluster.until(|cluster| cluster.service("moved").is_none());
}

fn only_the_own_node_is_watched(api: &ApiServer) {
    api.put(node("other", "far"));
    api.put(node("n", "here"));
    let mut cluster = ObservedCluster::proxy(api);
    cluster.until(|cluster| cluster.is_synced);
    let zone = |cluster: &ObservedCluster| cluster.node.as_ref().map(|node| node.zone.to_string());
    assert_eq!(zone(&cluster).as_deref(), Some("here"));
    assert_eq!(cluster.node.as_ref().map(|node| node.addresses.len()), Some(1));
    api.put(node("other", "farther"));
    api.put(node("n", "there"));
    cluster.until(|cluster| zone(cluster).as_deref() == Some("there"));
    api.delete("Node", "", "n");
    api.put(service("node-later", 5000, 80));
    cluster.until(|cluster| cluster.port("node-later").is_some());
    assert_eq!(zone(&cluster).as_deref(), Some("there"));
}

fn new_ranges_are_reported(api: &ApiServer) {
    let mut cluster = ObservedCluster::synced(api);
    let covers = |cluster: &ObservedCluster| {
        let address = IpAddr::from([10, 200, 0, 7]);
        cluster.snapshot.service_ranges().iter().any(|range| range.contains(&address))
    };
    assert!(!covers(&cluster));
    api.put(service_cidr("more", "10.200.0.0/24"));
    cluster.until(covers);
}

fn missing_rule_of_an_unauthorized_client_is_named(api: &ApiServer) {
    let mut cluster = ObservedCluster::new(
        api.kubeconfig_without_rights(),
        WatchScope::Proxy { node: None, has_names: false },
        limits(),
    );
    let of = |cluster: &ObservedCluster, resource: &str| {
        let text = cluster.outages.iter().find(|text| text.contains(&format!("resources: [\"{resource}\"]")));
        text.cloned()
    };
    cluster.until(|cluster| {
        ["services", "endpointslices", "servicecidrs"].iter().all(|name| of(cluster, name).is_some())
    });
    let text = of(&cluster, "endpointslices").expect("the outage was reported above");
    assert!(text.starts_with("failed to list endpointslices: API server returned 403"), "{text}");
    assert!(text.contains("apiGroups: [\"discovery.k8s.io\"]"), "{text}");
    assert!(!cluster.is_synced);
    // Both selections of services lack the same rule.
    assert!(cluster.outages.len() <= 4, "{:?}", cluster.outages);
}

fn many_changes_leave_the_state_of_the_server(api: &ApiServer) {
    without_faults(api);
}

fn watch_ends_when_its_receiver_is_dropped(api: &ApiServer) {
    ObservedCluster::synced(api).end();
}

macro_rules! behaviours {
    ($($name:ident)*) => {
        const ALL: &[(&str, fn(&ApiServer))] = &[$((stringify!($name), super::$name)),*];
        $(#[test]
        fn $name() {
            super::$name(&ready());
        })*
    };
}

/// One test per behaviour with the double, and one test of all with a real server.
mod tests {
    use super::*;

    behaviours! {
        existing_objects_and_every_change_are_reported
        services_of_several_pages_are_reported_before_synced
        watches_that_the_server_ends_resume_without_an_outage
        services_of_other_proxies_are_known_and_hide_the_ranges
        service_that_changes_its_proxy_is_not_lost
        only_the_own_node_is_watched
        new_ranges_are_reported
        unwatched_objects_and_namespaces_are_reported_if_names_are_needed
        missing_rule_of_an_unauthorized_client_is_named
        many_changes_leave_the_state_of_the_server
        watch_ends_when_its_receiver_is_dropped
    }

    /// The double with the objects that a real server creates itself.
    fn ready() -> ApiServer {
        let api = ApiServer::double();
        api.put(service_cidr("kubernetes", "10.0.0.0/16"));
        api
    }

    #[test]
    #[cfg_attr(not(feature = "api-server"), ignore = "needs KUBEBUILDER_ASSETS and the feature api-server")]
    fn real_api_server_has_the_same_behaviour() {
        let api = ApiServer::real();
        for (name, behaviour) in ALL {
            eprintln!("with a real API server: {name}");
            behaviour(&api);
        }
    }
}
