//! A server that is down, slow or overloaded, or has expired its history: nothing is lost, and each outage is reported
//! once.

use std::time::Duration;

use kube_source::{WatchOptions, WatchScope};

use super::observed_cluster::{ObservedCluster, limits};
use test_support::apiserver::{ApiServer, Fault};
use test_support::objects::{service, service_cidr, slice};

fn start_watch(limits: WatchOptions) -> (ApiServer, ObservedCluster) {
    let api = ApiServer::double();
    api.put(service("a", 1, 80));
    let mut cluster =
        ObservedCluster::new(api.kubeconfig(), WatchScope::Proxy { node: None, has_names: false }, limits);
    cluster.until(|cluster| cluster.is_synced);
    assert_followed(&api, &mut cluster, 9999);
    (api, cluster)
}

/// Changes a service and waits for the change, so that the services are watched afterwards.
fn assert_followed(api: &ApiServer, cluster: &mut ObservedCluster, port: u16) {
    api.put(service("probe", 999, port));
    cluster.until(|cluster| cluster.port("probe") == Some(port));
}

fn list_count(requests: &[String]) -> usize {
    let is_list = |request: &&String| request.contains("limit=") || request.contains("sendInitialEvents=");
    requests.iter().filter(is_list).count()
}

#[test]
fn interrupted_watches_resume_at_their_resource_version() {
    let (api, mut cluster) = start_watch(limits());
    for port in 1..=20 {
        assert_followed(&api, &mut cluster, port);
        api.fault(Fault::CutWatches);
        api.put(service("b", 2, port));
        cluster.until(|cluster| cluster.port("b") == Some(port));
    }
    cluster.until(|cluster| !cluster.outages.is_empty() && cluster.recoveries == cluster.outages.len());
    assert_eq!(cluster.removed, [""; 0]);
    assert_eq!(list_count(&api.requests()), 4, "each of the four resources was listed once");
}

#[test]
fn watch_resumes_from_a_bookmark() {
    let (api, mut cluster) = start_watch(limits());
    for port in 1..=50 {
        api.put(slice("x", "a", &[&format!("10.1.0.{port}")]));
    }
    cluster.until(|cluster| cluster.endpoints("a") == 1 && cluster.snapshot.revision() >= 50);
    // The services have not changed since version 1. The bookmark moves them to the version of the slices.
    api.fault(Fault::Bookmark);
    assert_followed(&api, &mut cluster, 1);
    api.requests();
    api.fault(Fault::EndWatches);
    assert_followed(&api, &mut cluster, 2);
    let requests = api.requests();
    let of_services = requests.iter().filter(|request| request.starts_with("/api/v1/services?watch"));
    for request in of_services {
        let version = request.split("resourceVersion=").nth(1).and_then(|rest| rest.split('&').next());
        assert!(version.unwrap().parse::<u64>().unwrap() >= 51, "{request}");
    }
    assert_eq!(cluster.outages, [""; 0]);
}

#[test]
fn expired_resource_version_causes_a_list_and_only_differences_are_reported() {
    let (api, mut cluster) = start_watch(limits());
    api.put(service("gone", 2, 80));
    api.put(slice("s", "a", &["10.1.0.1"]));
    cluster.until(|cluster| cluster.port("gone").is_some() && cluster.endpoints("a") == 1);
    let revision = cluster.snapshot.revision();
    api.fault(Fault::SilentWatches);
    api.delete("Service", "default", "gone");
    api.put(service("new", 3, 80));
    api.fault(Fault::Expire);
    api.fault(Fault::Cleared);
    cluster.until(|cluster| cluster.port("new").is_some() && cluster.port("gone").is_none());
    assert_eq!(cluster.removed, ["gone"]);
    assert_eq!(cluster.snapshot.revision() - revision, 2, "unchanged objects are not reported again");
    assert_followed(&api, &mut cluster, 1);
    assert_eq!(cluster.outages, [""; 0], "an expired version is not an outage");
}

#[test]
fn outage_is_reported_once_and_missed_changes_arrive_after_it() {
    let (api, mut cluster) = start_watch(limits());
    for round in 1..=3 {
        api.fault(Fault::Down);
        cluster.until(|cluster| cluster.outages.len() == round);
        api.put(service("a", 1, 80 + round as u16));
        api.fault(Fault::Cleared);
        cluster.until(|cluster| cluster.recoveries == round && cluster.port("a") == Some(80 + round as u16));
    }
    assert_eq!(cluster.removed, [""; 0]);
}

#[test]
fn retry_after_of_an_error_is_respected() {
    for (status, after) in [(500, None), (429, Some(1)), (503, Some(1))] {
        let (api, mut cluster) = start_watch(limits());
        api.fault(Fault::Answer(status, after));
        api.fault(Fault::EndWatches);
        cluster
            .until(|cluster| cluster.outages.iter().any(|text| text.contains(&format!("returned {status}"))));
        api.put(service("a", 1, 81));
        api.fault(Fault::Cleared);
        cluster.until(|cluster| cluster.port("a") == Some(81) && cluster.recoveries > 0);
        assert!(cluster.recoveries <= cluster.outages.len());
        let asked = api.requests().len();
        assert!(after.is_none() || asked < 40, "{asked} requests");
    }
}

#[test]
fn unresponsive_server_is_reported_once() {
    let (api, mut cluster) =
        start_watch(WatchOptions { response_timeout: Duration::from_millis(200), ..limits() });
    api.fault(Fault::Hang);
    api.fault(Fault::EndWatches);
    cluster.until(|cluster| cluster.outages.iter().any(|text| text.contains("timed out after 200ms")));
    api.put(service("a", 1, 81));
    api.fault(Fault::Cleared);
    cluster.until(|cluster| cluster.port("a") == Some(81) && cluster.recoveries == 1);
    assert_eq!(cluster.outages.len(), 1, "{:?}", cluster.outages);
}

#[test]
fn hanging_connection_is_detected() {
    let short = WatchOptions { watch_timeout_s: 1, watch_grace: Duration::from_millis(300), ..limits() };
    let (api, mut cluster) = start_watch(short);
    api.fault(Fault::SilentWatches);
    api.put(service("a", 1, 81));
    cluster.until(|cluster| cluster.outages.iter().any(|text| text.contains("no event for 1 s")));
    api.fault(Fault::Cleared);
    cluster.until(|cluster| cluster.port("a") == Some(81) && cluster.recoveries > 0);
    assert_eq!(cluster.removed, [""; 0]);
}

#[test]
fn forbidden_resource_delays_synced_until_it_is_readable() {
    let api = ApiServer::double();
    api.put(service("a", 1, 80));
    api.fault(Fault::Deny("endpointslices"));
    let mut cluster =
        ObservedCluster::new(api.kubeconfig(), WatchScope::Proxy { node: None, has_names: false }, limits());
    cluster.until(|cluster| !cluster.outages.is_empty() && cluster.port("a").is_some());
    assert!(cluster.outages[0].contains("endpointslices"), "{:?}", cluster.outages);
    assert_followed(&api, &mut cluster, 1);
    assert!(!cluster.is_synced);
    api.fault(Fault::Cleared);
    cluster.until(|cluster| cluster.is_synced && cluster.recoveries == 1);
    assert_eq!(cluster.outages.len(), 1);
}

#[test]
fn forbidden_ranges_are_reported_once_and_do_not_delay_synced() {
    let api = ApiServer::double();
    api.fault(Fault::Deny("servicecidrs"));
    let mut cluster = ObservedCluster::synced(&api);
    assert!(matches!(&cluster.outages[..], [text] if text.contains("resources: [\"servicecidrs\"]")));
    assert_followed(&api, &mut cluster, 1);
    api.fault(Fault::Down);
    cluster.until(|cluster| cluster.outages.len() == 2);
    api.fault(Fault::Cleared);
    cluster.until(|cluster| cluster.recoveries == 1);
}

#[test]
fn ranges_are_read_in_v1beta1_if_v1_is_missing() {
    let api = ApiServer::double();
    api.put(service_cidr("kubernetes", "10.0.0.0/16"));
    api.fault(Fault::Absent("/apis/networking.k8s.io/v1/servicecidrs"));
    let mut cluster = ObservedCluster::synced(&api);
    cluster.until(|cluster| !cluster.snapshot.service_ranges().is_empty());
    api.put(service_cidr("kubernetes", "10.0.0.0/15"));
    cluster.until(|cluster| cluster.snapshot.service_ranges()[0].prefix_len() == 15);
    assert_eq!(cluster.outages, [""; 0]);
}

#[test]
fn server_without_ranges_syncs() {
    let api = ApiServer::double();
    api.fault(Fault::Absent("/apis/networking.k8s.io/v1/servicecidrs"));
    api.fault(Fault::Absent("/apis/networking.k8s.io/v1beta1/servicecidrs"));
    let mut cluster = ObservedCluster::synced(&api);
    assert_followed(&api, &mut cluster, 1);
    assert_eq!(cluster.outages, [""; 0]);
}

#[test]
fn rejected_token_is_reported() {
    let api = ApiServer::double();
    let config = std::fs::read_to_string(api.kubeconfig()).unwrap().replace("may-do-everything", "unknown");
    let path = api.kubeconfig().with_file_name("unknown");
    std::fs::write(&path, config).unwrap();
    let mut cluster = ObservedCluster::new(&path, WatchScope::Services, limits());
    cluster.until(|cluster| !cluster.outages.is_empty());
    assert!(
        cluster.outages[0].starts_with("failed to list services: API server returned 401"),
        "{:?}",
        cluster.outages
    );
}

#[test]
fn missing_kubeconfig_and_service_account_are_both_named() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    if std::env::var_os("KUBERNETES_SERVICE_HOST").is_none() {
        let error = runtime
            .block_on(kube_source::client(None))
            .err()
            .expect("this process is not in a pod")
            .to_string();
        assert!(error.contains("pass --kubeconfig") && error.contains("service account"), "{error}");
    }
    let missing = runtime.block_on(kube_source::client(Some("missing.yaml".as_ref()))).err();
    assert_eq!(missing.expect("the file is missing").to_string(), "invalid kubeconfig missing.yaml");
}

#[test]
fn service_that_changes_selection_is_not_lost_if_its_addition_arrives_first() {
    use test_support::objects::{OTHER_PROXY, with_label};
    let (api, mut cluster) = start_watch(limits());
    // The watch of the old selection is delayed, so its deletion arrives after the other's addition.
    api.fault(Fault::HoldWatches("!service.kubernetes.io/service-proxy-name"));
    api.put(with_label(service("a", 1, 81), OTHER_PROXY));
    cluster.until(|cluster| cluster.port("a") == Some(81));
    api.fault(Fault::Cleared);
    assert_followed(&api, &mut cluster, 1);
    assert_eq!(cluster.removed, [""; 0]);
    assert!(!cluster.service("a").unwrap().has_portals);
    api.delete("Service", "default", "a");
    cluster.until(|cluster| cluster.service("a").is_none());
}
