//! A server that is away, slow, full or forgetful: nothing is lost, and each outage is told once.

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

/// Something new is told: services are watched.
fn is_followed(api: &Api, seen: &mut Seen, port: u16) {
    api.put(service("probe", 999, port));
    seen.until(|seen| seen.port("probe") == Some(port));
}

fn lists(requests: &[String]) -> usize {
    let is_list = |request: &&String| request.contains("limit=") || request.contains("sendInitialEvents=");
    requests.iter().filter(is_list).count()
}

#[test]
fn watches_that_are_cut_go_on_where_they_stood() {
    let (api, mut seen) = watched(limits());
    for port in 1..=20 {
        is_followed(&api, &mut seen, port);
        api.fault(Fault::CutWatches);
        api.put(service("b", 2, port));
        seen.until(|seen| seen.port("b") == Some(port));
    }
    seen.until(|seen| !seen.troubles.is_empty() && seen.recoveries == seen.troubles.len());
    assert_eq!(seen.removed, [""; 0]);
    assert_eq!(lists(&api.requests()), 4, "each of the four resources was listed once");
}

#[test]
fn after_a_bookmark_a_watch_goes_on_from_there() {
    let (api, mut seen) = watched(limits());
    for port in 1..=50 {
        api.put(slice("x", "a", &[&format!("10.1.0.{port}")]));
    }
    seen.until(|seen| seen.endpoints("a") == 1 && seen.snapshot.revision() >= 50);
    // Services have not changed since version 1; now they stand where slices stand.
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
    assert_eq!(seen.troubles, [""; 0]);
}

#[test]
fn what_the_server_has_forgotten_is_listed_and_the_difference_told() {
    let (api, mut seen) = watched(limits());
    api.put(service("gone", 2, 80));
    api.put(slice("s", "a", &["10.1.0.1"]));
    seen.until(|seen| seen.port("gone").is_some() && seen.endpoints("a") == 1);
    let revision = seen.snapshot.revision();
    api.fault(Fault::SilentWatches);
    api.delete("Service", "default", "gone");
    api.put(service("new", 3, 80));
    api.fault(Fault::Expire);
    api.fault(Fault::Mended);
    seen.until(|seen| seen.port("new").is_some() && seen.port("gone").is_none());
    assert_eq!(seen.removed, ["gone"]);
    assert_eq!(seen.snapshot.revision() - revision, 2, "what had not changed was not told again");
    is_followed(&api, &mut seen, 1);
    assert_eq!(seen.troubles, [""; 0], "to forget is no trouble");
}

#[test]
fn a_server_that_is_away_is_told_once_and_what_was_missed_is_told_when_it_is_back() {
    let (api, mut seen) = watched(limits());
    for round in 1..=3 {
        api.fault(Fault::Away);
        seen.until(|seen| seen.troubles.len() == round);
        api.put(service("a", 1, 80 + round as u16));
        api.fault(Fault::Mended);
        seen.until(|seen| seen.recoveries == round && seen.port("a") == Some(80 + round as u16));
    }
    assert_eq!(seen.removed, [""; 0]);
}

#[test]
fn a_server_that_answers_with_errors_is_left_alone_for_as_long_as_it_asks() {
    for (status, after) in [(500, None), (429, Some(1)), (503, Some(1))] {
        let (api, mut seen) = watched(limits());
        api.fault(Fault::Answer(status, after));
        api.fault(Fault::EndWatches);
        seen.until(|seen| seen.troubles.iter().any(|text| text.contains(&format!("returned {status}"))));
        api.put(service("a", 1, 81));
        api.fault(Fault::Mended);
        seen.until(|seen| seen.port("a") == Some(81) && seen.recoveries > 0);
        assert!(seen.recoveries <= seen.troubles.len());
        let asked = api.requests().len();
        assert!(after.is_none() || asked < 40, "{asked} requests");
    }
}

#[test]
fn a_server_that_does_not_answer_is_told_once() {
    let (api, mut seen) = watched(WatchOptions { response_timeout: Duration::from_millis(200), ..limits() });
    api.fault(Fault::Hang);
    api.fault(Fault::EndWatches);
    seen.until(|seen| seen.troubles.iter().any(|text| text.contains("timed out after 200ms")));
    api.put(service("a", 1, 81));
    api.fault(Fault::Mended);
    seen.until(|seen| seen.port("a") == Some(81) && seen.recoveries == 1);
    assert_eq!(seen.troubles.len(), 1, "{:?}", seen.troubles);
}

#[test]
fn a_connection_that_hangs_silently_is_noticed() {
    let short = WatchOptions { watch_timeout_s: 1, watch_grace: Duration::from_millis(300), ..limits() };
    let (api, mut seen) = watched(short);
    api.fault(Fault::SilentWatches);
    api.put(service("a", 1, 81));
    seen.until(|seen| seen.troubles.iter().any(|text| text.contains("no event for 1 s")));
    api.fault(Fault::Mended);
    seen.until(|seen| seen.port("a") == Some(81) && seen.recoveries > 0);
    assert_eq!(seen.removed, [""; 0]);
}

#[test]
fn a_resource_that_may_not_be_read_holds_synced_back_until_it_may() {
    let api = Api::double();
    api.put(service("a", 1, 80));
    api.fault(Fault::Deny("endpointslices"));
    let mut seen = Seen::new(api.kubeconfig(), WatchScope::Proxy { node: None }, limits());
    seen.until(|seen| !seen.troubles.is_empty() && seen.port("a").is_some());
    assert!(seen.troubles[0].contains("endpointslices"), "{:?}", seen.troubles);
    is_followed(&api, &mut seen, 1);
    assert!(!seen.is_synced);
    api.fault(Fault::Mended);
    seen.until(|seen| seen.is_synced && seen.recoveries == 1);
    assert_eq!(seen.troubles.len(), 1);
}

#[test]
fn ranges_that_may_not_be_read_are_told_once_and_hold_nothing_back() {
    let api = Api::double();
    api.fault(Fault::Deny("servicecidrs"));
    let mut seen = Seen::synced(&api);
    assert!(matches!(&seen.troubles[..], [text] if text.contains("resources: [\"servicecidrs\"]")));
    is_followed(&api, &mut seen, 1);
    api.fault(Fault::Away);
    seen.until(|seen| seen.troubles.len() == 2);
    api.fault(Fault::Mended);
    seen.until(|seen| seen.recoveries == 1);
}

#[test]
fn ranges_are_read_in_the_older_version_where_the_newer_is_not_known() {
    let api = Api::double();
    api.put(service_cidr("kubernetes", "10.0.0.0/16"));
    api.fault(Fault::Absent("/apis/networking.k8s.io/v1/servicecidrs"));
    let mut seen = Seen::synced(&api);
    seen.until(|seen| !seen.snapshot.service_ranges().is_empty());
    api.put(service_cidr("kubernetes", "10.0.0.0/15"));
    seen.until(|seen| seen.snapshot.service_ranges()[0].prefix_len() == 15);
    assert_eq!(seen.troubles, [""; 0]);
}

#[test]
fn a_server_without_ranges_is_fine() {
    let api = Api::double();
    api.fault(Fault::Absent("/apis/networking.k8s.io/v1/servicecidrs"));
    api.fault(Fault::Absent("/apis/networking.k8s.io/v1beta1/servicecidrs"));
    let mut seen = Seen::synced(&api);
    is_followed(&api, &mut seen, 1);
    assert_eq!(seen.troubles, [""; 0]);
}

#[test]
fn a_token_that_is_not_accepted_is_told() {
    let api = Api::double();
    let config = std::fs::read_to_string(api.kubeconfig()).unwrap().replace("may-do-everything", "unknown");
    let path = api.kubeconfig().with_file_name("unknown");
    std::fs::write(&path, config).unwrap();
    let mut seen = Seen::new(&path, WatchScope::Services, limits());
    seen.until(|seen| !seen.troubles.is_empty());
    assert!(
        seen.troubles[0].starts_with("failed to list services: API server returned 401"),
        "{:?}",
        seen.troubles
    );
}

#[test]
fn without_kubeconfig_and_service_account_both_are_named() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    if std::env::var_os("KUBERNETES_SERVICE_HOST").is_none() {
        let error = runtime.block_on(kube_source::client(None)).err().expect("this is no pod").to_string();
        assert!(error.contains("pass --kubeconfig") && error.contains("service account"), "{error}");
    }
    let missing = runtime.block_on(kube_source::client(Some("missing.yaml".as_ref()))).err();
    assert_eq!(missing.expect("there is none").to_string(), "invalid kubeconfig missing.yaml");
}

#[test]
fn a_service_that_moves_is_not_lost_though_its_new_selection_is_heard_first() {
    use test_support::objects::{OTHER_PROXY, labelled};
    let (api, mut seen) = watched(limits());
    // The old selection is held: its delete comes after the other's change.
    api.fault(Fault::HoldWatches("!service.kubernetes.io/service-proxy-name"));
    api.put(labelled(service("a", 1, 81), OTHER_PROXY));
    seen.until(|seen| seen.port("a") == Some(81));
    api.fault(Fault::Mended);
    is_followed(&api, &mut seen, 1);
    assert_eq!(seen.removed, [""; 0]);
    assert!(!seen.service("a").unwrap().has_portals);
    api.delete("Service", "default", "a");
    seen.until(|seen| seen.service("a").is_none());
}
