//! Many and large objects: all arrive by initial events or in pages, and too large ones are reported by name.
//!
//! Generated objects are created while they are sent.

use std::time::Duration;

use kube_source::{WatchOptions, WatchScope};
use serde_json::{Value, json};

use super::observed_cluster::{ObservedCluster, limits};
use test_support::apiserver::{ApiServer, Fault, Generated, InitialEvents};
use test_support::objects::service;

const MANY: usize = 60;

fn metadata(number: usize) -> Value {
    json!({"name": format!("made-{number}"), "namespace": "default"})
}

/// The spec of a service, and a status with this number of bytes.
fn content(number: usize, bytes: usize) -> String {
    let number = u16::try_from(number).expect("a small number");
    let spec = service("", number, 80)["spec"].to_string();
    format!("\"spec\":{spec},\"status\":{{\"padding\":\"{}\"}}", "x".repeat(bytes))
}

fn services(api: &ApiServer, count: usize, content: fn(usize) -> String) {
    api.generate(Generated { kind: "Service", count, metadata, content });
}

fn start_watch(api: &ApiServer) -> ObservedCluster {
    let mut cluster = ObservedCluster::new(api.kubeconfig(), WatchScope::Services, limits());
    cluster.until(|cluster| cluster.is_synced);
    cluster
}

/// The limit and the token of each page.
fn requested_pages(requests: &[String]) -> Vec<(usize, Option<&str>)> {
    let value = |request: &'_ str, key: &str| {
        let at = request.find(key)? + key.len();
        Some(request[at..].split('&').next().unwrap_or_default().to_owned())
    };
    let pages = requests.iter().filter(|request| request.contains("limit="));
    let pages = pages.map(|request| {
        let limit = value(request, "limit=").expect("the request has a limit").parse().expect("a number");
        (limit, request.split("continue=").nth(1))
    });
    pages.collect()
}

#[test]
fn initial_objects_come_from_the_watch_cache_without_a_list() {
    let api = ApiServer::double();
    services(&api, MANY, |number| content(number, 0));
    let mut cluster = start_watch(&api);
    assert!((0..MANY).all(|number| cluster.port(&format!("made-{number}")) == Some(80)));
    api.put(service("later", 999, 81));
    cluster.until(|cluster| cluster.port("later") == Some(81));
    let requests = api.requests();
    assert_eq!(requested_pages(&requests), [], "{requests:?}");
    assert_eq!(requests.len(), 1, "the watch that sent the initial objects also sends changes: {requests:?}");
    assert!(requests[0].contains("sendInitialEvents=true&resourceVersionMatch=NotOlderThan"), "{requests:?}");
}

#[test]
fn every_refusal_of_initial_events_falls_back_to_a_paged_list() {
    use InitialEvents::{Ends, Error, NoBookmark, Status};
    for way in [Status(400), Status(422), Status(500), Error(400), Error(422), Error(500), Ends, NoBookmark] {
        let api = ApiServer::double();
        api.fault(Fault::NoInitialEvents(way));
        api.put(service("a", 1, 80));
        let limits = WatchOptions { response_timeout: Duration::from_millis(500), ..limits() };
        let mut cluster = ObservedCluster::new(api.kubeconfig(), WatchScope::Services, limits);
        cluster.until(|cluster| cluster.is_synced);
        assert_eq!(cluster.port("a"), Some(80), "{way:?}");
        assert_eq!(requested_pages(&api.requests()), [(500, None)], "{way:?}");
        api.put(service("a", 1, 81));
        cluster.until(|cluster| cluster.port("a") == Some(81));
        // Initial events are not requested again from a server that has refused them.
        api.fault(Fault::Expire);
        api.put(service("a", 1, 82));
        cluster.until(|cluster| cluster.port("a") == Some(82));
        assert_eq!((&cluster.outages[..], &cluster.removed[..]), (&[][..], &[][..]), "{way:?}");
        let again = api.requests().iter().filter(|request| request.contains("sendInitialEvents")).count();
        assert!(again == 0 || matches!(way, Status(500)), "{way:?}");
    }
}

#[test]
fn annotation_of_the_initial_bookmark_has_no_effect_on_an_object() {
    let api = ApiServer::double();
    let mut fake = service("a", 1, 80);
    fake["metadata"]["annotations"] = json!({"k8s.io/initial-events-end": "true"});
    api.put(fake);
    services(&api, MANY, |number| content(number, 0));
    let cluster = start_watch(&api);
    assert!((0..MANY).all(|number| cluster.port(&format!("made-{number}")) == Some(80)));
}

#[test]
fn too_large_page_is_requested_again_in_parts_with_the_same_token() {
    let api = ApiServer::double();
    api.fault(Fault::NoInitialEvents(InitialEvents::Status(400)));
    services(&api, MANY, |number| content(number, 1_300_000));
    let cluster = start_watch(&api);
    assert!((0..MANY).all(|number| cluster.port(&format!("made-{number}")) == Some(80)));
    let requests = api.requests();
    let pages = requested_pages(&requests);
    // 12 objects fit into 16 MiB.
    assert_eq!((pages[0], pages[1].1), ((500, None), None));
    assert!(pages[1].0 <= 6, "{pages:?}");
    assert!(pages.iter().skip(2).all(|(limit, token)| *limit <= 6 && token.is_some()), "{pages:?}");
    assert!(pages.len() < 40, "{pages:?}");
    assert_eq!((&cluster.outages[..], cluster.rejected), (&[][..], 0));
}

#[test]
fn too_large_objects_are_named_and_the_others_arrive() {
    for way in [None, Some(InitialEvents::Status(400))] {
        let api = ApiServer::double();
        way.into_iter().for_each(|way| api.fault(Fault::NoInitialEvents(way)));
        services(&api, 9, |number| content(number, if number % 4 == 2 { 20 << 20 } else { 1_000_000 }));
        let cluster = start_watch(&api);
        let missing: Vec<usize> =
            (0..9).filter(|number| cluster.port(&format!("made-{number}")).is_none()).collect();
        assert_eq!(missing, [2, 6], "{way:?}");
        assert_eq!((cluster.rejected, &cluster.outages[..]), (2, &[][..]), "{way:?}");
        let reasons = &cluster.reasons;
        assert!(reasons.len() == 2 && reasons[0].starts_with("Service default/made-2: "), "{reasons:?}");
        let requests = api.requests();
        let is_down_to_one = requested_pages(&requests).iter().any(|(limit, _)| *limit == 1);
        assert_eq!(is_down_to_one, way.is_some(), "{requests:?}");
    }
}

#[test]
fn too_large_change_is_named_and_keeps_the_last_valid_state_until_deletion() {
    let api = ApiServer::double();
    api.put(service("a", 1, 80));
    let mut cluster = start_watch(&api);
    let mut large = service("a", 1, 81);
    large["status"] = json!({"padding": "x".repeat(6 << 20)});
    api.put(large.clone());
    cluster.until(|cluster| cluster.rejected == 1);
    assert!(cluster.reasons[0].starts_with("Service default/a: longer than"), "{:?}", cluster.reasons);
    api.put(service("b", 2, 80));
    cluster.until(|cluster| cluster.port("b") == Some(80));
    assert_eq!(cluster.port("a"), Some(80));
    // The deletion event is as large.
    api.delete("Service", "default", "a");
    cluster.until(|cluster| cluster.rejected == 0 && cluster.port("a").is_none());
    assert_eq!(cluster.outages, [""; 0], "a rejected object is not an outage");
    let requests = api.requests();
    assert_eq!(requests.len(), 1, "the watch continues: {requests:?}");
}
