//! A server that is down, slow or overloaded, or has expired its history: nothing is lost, and each outage is reported
//! once.

use std::time::Duration;

use kube_source::{WatchOptions, WatchScope};

use super::seen::{Seen, limits};
use test_support::apiserver::{Api, Fault};
use test_support::objects::{service, service_cidr, slice};

fn watched(limits: WatchOptions) -> (Api, Seen) {
    let api = Api::double();
    api.put(service("a", 1, 80));
    let mut seen = Seen::new(api.kubeconfig(), WatchScope::Proxy { node: None }, limits);
    seen.until(|seen| seen.is_synced);
    is_followed(&api, &mut seen, 9999);
    (api, seen)
}

/// Changes a service and waits for the change, so that the services are watched afterwards.
fn is_followed(api: &Api, seen: &mut Seen, port: u16) {
    api.put(service("probe", 999, port));
    seen.until(|seen| seen.port("probe") == Some(port));
}

fn lists(requests: &[String]) -> usize {
    let is_list = |request: &&String| request.contains("limit=") || request.contains("sendInitialEvents=");
    requests.iter().filter(is_list).count()
}

#[test]
fn interrupted_watches_resume_at_their_resource_version() {
    let (api, mut seen) = watched(limits());
    for port in 1..=20 {
        is_followed(&api, &mut seen, port);
        api.fault(Fault::CutWatches);
        api.put(service("b", 2, port));
        seen.until(|seen| seen.port("b") == Some(port));
    }
    seen.until(|seen| !seen.outages.is_empty() && seen.recoveries == seen.outages.len());
    assert_eq!(seen.removed, [""; 0]);
    assert_eq!(lists(&api.requests()), 4, "each of the four resources was listed once");
}

#[test]
fn watch_resumes_from_a_bookmark() {
    let (api, mut seen) = watched(limits());
    for port in 1..=50 {
        api.put(slice("x", "a", &[&format!("10.1.0.{port}")]));
    }
    seen.until(|seen| seen.endpoints("a") == 1 && seen.snapshot.revision() >= 50);
    // The services have not changed since version 1. The bookmark moves them to the version of the slices.
    api.fault(Fault::Bookmark);
    is_followed(&api, &mut seen, 1);
    api.requests();
    api.fault(Fault::EndWatches);
    is_followed(&api, &mut seen, 2);
    let requests = api.requests();
    let of_services = requests.iter().filter(|request| request.starts_with("/api/v1/services?watch"));
    for request in of_services {
        let version = request.split("resourceVersion=").nth(1).and_then(|rest| rest.split('&').next());
        assert!(version.unwrap().parse::<u64>().unwrap() >= 51, "{request}");
    }
    assert_eq!(seen.outages, [""; 0]);
}

#[test]
fn expired_resource_version_causes_a_list_and_only_differences_are_reported() {
    let (api, mut seen) = watched(limits());
    api.put(service("gone", 2, 80));
    api.put(slice("s", "a", &["10.1.0.1"]));
    seen.until(|seen| seen.port("gone").is_some() && seen.endpoints("a") == 1);
    let revision = seen.snapshot.revision();
    api.fault(Fault::SilentWatches);
    api.delete("Service", "default", "gone");
    api.put(service("new", 3, 80));
    api.fault(Fault::Expire);
    api.fault(Fault::Cleared);
    seen.until(|seen| seen.port("new").is_some() && seen.port("gone").is_none());
    assert_eq!(seen.removed, ["gone"]);
    assert_eq!(seen.snapshot.revision() - revision, 2, "unchanged objects are not reported again");
    is_followed(&api, &mut seen, 1);
    assert_eq!(seen.outages, [""; 0], "an expired version is not an outage");
}

#[test]
fn outage_is_reported_once_and_missed_changes_arrive_after_it() {
    let (api, mut seen) = watched(limits());
    for round in 1..=3 {
        api.fault(Fault::Down);
        seen.until(|seen| seen.outages.len() == round);
        api.put(service("a", 1, 80 + round as u16));
        api.fault(Fault::Cleared);
        seen.until(|seen| seen.recoveries == round && seen.port("a") == Some(80 + round as u16));
    }
    assert_eq!(seen.removed, [""; 0]);
}

#[test]
fn retry_after_of_an_error_is_respected() {
    for (status, after) in [(500, None), (429, Some(1)), (503, Some(1))] {
        let (api, mut seen) = watched(limits());
        api.fault(Fault::Answer(status, after));
        api.fault(Fault::EndWatches);
        seen.until(|seen| seen.outages.iter().any(|text| text.contains(&format!("returned {status}"))));
        api.put(service("a", 1, 81));
        api.fault(Fault::Cleared);
        seen.until(|seen| seen.port("a") == Some(81) && seen.recoveries > 0);
        assert!(seen.recoveries <= seen.outages.len());
        let asked = api.requests().len();
        assert!(after.is_none() || asked < 40, "{asked} requests");
    }
}

#[test]
fn unresponsive_server_is_reported_once() {
    let (api, mut seen) = watched(WatchOptions { response_timeout: Duration::from_millis(200), ..limits() });
    api.fault(Fault::Hang);
    api.fault(Fault::EndWatches);
    seen.until(|seen| seen.outages.iter().any(|text| text.contains("timed out after 200ms")));
    api.put(service("a", 1, 81));
    api.fault(Fault::Cleared);
    seen.until(|seen| seen.port("a") == Some(81) && seen.recoveries == 1);
    assert_eq!(seen.outages.len(), 1, "{:?}", seen.outages);
}

#[test]
fn hanging_connection_is_detected() {
    let short = WatchOptions { watch_timeout_s: 1, watch_grace: Duration::from_millis(300), ..limits() };
    let (api, mut seen) = watched(short);
    api.fault(Fault::SilentWatches);
    api.put(service("a", 1, 81));
    seen.until(|seen| seen.outages.iter().any(|text| text.contains("no event for 1 s")));
    api.fault(Fault::Cleared);
    seen.until(|seen| seen.port("a") == Some(81) && seen.recoveries > 0);
    assert_eq!(seen.removed, [""; 0]);
}

#[test]
fn forbidden_resource_delays_synced_until_it_is_readable() {
    let api = Api::double();
    api.put(service("a", 1, 80));
    api.fault(Fault::Deny("endpointslices"));
    let mut seen = Seen::new(api.kubeconfig(), WatchScope::Proxy { node: None }, limits());
    seen.until(|seen| !seen.outages.is_empty() && seen.port("a").is_some());
    assert!(seen.outages[0].contains("endpointslices"), "{:?}", seen.outages);
    is_followed(&api, &mut seen, 1);
    assert!(!seen.is_synced);
    api.fault(Fault::Cleared);
    seen.until(|seen| seen.is_synced && seen.recoveries == 1);
    assert_eq!(seen.outages.len(), 1);
}

#[test]
fn forbidden_ranges_are_reported_once_and_do_not_delay_synced() {
    let api = Api::double();
    api.fault(Fault::Deny("servicecidrs"));
    let mut seen = Seen::synced(&api);
    assert!(matches!(&seen.outages[..], [text] if text.contains("resources: [\"servicecidrs\"]")));
    is_followed(&api, &mut seen, 1);
    api.fault(Fault::Down);
    seen.until(|seen| seen.outages.len() == 2);
    api.fault(Fault::Cleared);
    seen.until(|seen| seen.recoveries == 1);
}

#[test]
fn ranges_are_read_in_v1beta1_if_v1_is_missing() {
    let api = Api::double();
    api.put(service_cidr("kubernetes", "10.0.0.0/16"));
    api.fault(Fault::Absent("/apis/networking.k8s.io/v1/servicecidrs"));
    let mut seen = Seen::synced(&api);
    seen.until(|seen| !seen.snapshot.service_ranges().is_empty());
    api.put(service_cidr("kubernetes", "10.0.0.0/15"));
    seen.until(|seen| seen.snapshot.service_ranges()[0].prefix_len() == 15);
    assert_eq!(seen.outages, [""; 0]);
}

#[test]
fn server_without_ranges_syncs() {
    let api = Api::double();
    api.fault(Fault::Absent("/apis/networking.k8s.io/v1/servicecidrs"));
    api.fault(Fault::Absent("/apis/networking.k8s.io/v1beta1/servicecidrs"));
    let mut seen = Seen::synced(&api);
    is_followed(&api, &mut seen, 1);
    assert_eq!(seen.outages, [""; 0]);
}

#[test]
fn rejected_token_is_reported() {
    let api = Api::double();
    let config = std::fs::read_to_string(api.kubeconfig()).unwrap().replace("may-do-everything", "unknown");
    let path = api.kubeconfig().with_file_name("unknown");
    std::fs::write(&path, config).unwrap();
    let mut seen = Seen::new(&path, WatchScope::Services, limits());
    seen.until(|seen| !seen.outages.is_empty());
    assert!(
        seen.outages[0].starts_with("failed to list services: API server returned 401"),
        "{:?}",
        seen.outages
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
    use test_support::objects::{OTHER_PROXY, labelled};
    let (api, mut seen) = watched(limits());
    // The watch of the old selection is delayed, so its deletion arrives after the other's addition.
    api.fault(Fault::HoldWatches("!service.kubernetes.io/service-proxy-name"));
    api.put(labelled(service("a", 1, 81), OTHER_PROXY));
    seen.until(|seen| seen.port("a") == Some(81));
    api.fault(Fault::Cleared);
    is_followed(&api, &mut seen, 1);
    assert_eq!(seen.removed, [""; 0]);
    assert!(!seen.service("a").unwrap().has_portals);
    api.delete("Service", "default", "a");
    seen.until(|seen| seen.service("a").is_none());
}
