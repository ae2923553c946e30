//! The time from the creation of a pod to its ConfigMap, with two replicas and many new selections.
//!
//! A container whose ConfigMap is created more than half a second later starts seconds later, since the kubelet backs
//! off. The test measures the controller; the API server double stores an object at once.
//!
//! One of four rounds must meet the limit. On a quiet machine the first round does, with a p99 far below the limit. The
//! other rounds exist because tests run in parallel: another test that takes the CPUs for a second moves the p99 of
//! a round, since two slow ConfigMaps of 150 suffice. A controller that is too slow fails all four.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use test_support::apiserver::ApiServer;
use test_support::caller::Caller;
use test_support::eventually::eventually;
use test_support::review::{apply_patch, pod, review, with_annotations};
use test_support::webhook::{Webhook, free_port};
use test_support::webhook_cluster::WebhookCluster;

const SELECTIONS_PER_S: u32 = 50;
const SECONDS: u32 = 3;
const COUNT: u32 = SELECTIONS_PER_S * SECONDS;
const P99_MAX: Duration = Duration::from_millis(200);
/// The number of rounds, of which one must meet the limit: see above.
const ROUNDS: u32 = 4;

/// Creates pods with new selections at the given rate, and returns the times to their ConfigMaps, sorted.
fn round(cluster: &WebhookCluster, webhook: &Webhook, round: u32) -> Vec<Duration> {
    // The time of admission is not measured.
    let mut caller = Caller::local(webhook.address).expect("connect");
    let mut admitted = |number: u32| {
        let prefix = format!("P{round}_{number}_");
        let annotations = [("portico.dev/inject", "configmap"), ("portico.dev/prefix", prefix.as_str())];
        let pod = with_annotations(pod(&format!("pod-{round}-{number}")), &annotations);
        apply_patch(&pod, &caller.review(&review("u", &pod)).expect("a response"))
    };
    let pods: Vec<Value> = (0..COUNT).map(&mut admitted).collect();
    let start = Instant::now();
    let mut put = BTreeMap::new();
    for (number, pod) in (0..).zip(pods) {
        let due = start + Duration::from_secs(1) * number / SELECTIONS_PER_S;
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let map = &pod["spec"]["containers"][0]["envFrom"][0]["configMapRef"]["name"];
        put.insert(map.as_str().expect("a name").to_owned(), Instant::now());
        cluster.api.put(pod);
    }
    let mut took = eventually("all ConfigMaps exist", || {
        let made = cluster.api.created_objects("ConfigMap").into_iter();
        let took = made.filter_map(|(_, name, at)| Some(at.saturating_duration_since(*put.get(&name)?)));
        let took: Vec<Duration> = took.collect();
        (took.len() == put.len()).then_some(took)
    });
    took.sort();
    took
}

#[test]
#[allow(clippy::print_stderr)] // The figures are worth a line.
fn config_maps_exist_within_200_ms_at_50_new_selections_a_second() {
    let cluster = WebhookCluster::new(ApiServer::double());
    let max = (COUNT * ROUNDS).to_string();
    let first = cluster.replica(&["--config-maps-max", &max]);
    let _second = cluster.replica_at(free_port(), &["--config-maps-max", &max]);
    let p99s = (0..ROUNDS).map(|number| {
        let took = round(&cluster, &first, number);
        let of = |percent: usize| took[(took.len() * percent / 100).min(took.len() - 1)];
        eprintln!("pod to ConfigMap: p50 {:?}, p99 {:?}, most {:?}", of(50), of(99), of(100));
        of(99)
    });
    let mut seen = Vec::new();
    let is_met = p99s.inspect(|p99| seen.push(*p99)).any(|p99| p99 <= P99_MAX);
    assert!(is_met, "p99 of each round: {seen:?}");
}
