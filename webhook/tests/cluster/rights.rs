//! What the chart grants the webhook and registers for it, and what the webhook asks for and registers itself.
//!
//! The same story on the double, which tells what was asked for, and on a real API server, which refuses what is not
//! granted.

use serde_json::{Value, json};

use crate::double::{admitted, admitted_pod, maps_of};
use test_support::apiserver::rights::{Grant, not_called, not_granted};
use test_support::apiserver::{Api, Fault, InitialEvents};
use test_support::helm::{objects, one};
use test_support::program::repository;
use test_support::replica::{CONFIGURATION, Cluster, service};
use test_support::review::{annotated, pod};
use test_support::webhook::{Webhook, until};

const ACCOUNT: &str = "portico-webhook";

/// A replica that may what its service account may.
fn replica(cluster: &Cluster) -> Webhook {
    let kubeconfig = cluster.api.kubeconfig_of_account(ACCOUNT);
    let kubeconfig = kubeconfig.to_str().expect("a path");
    let args =
        ["--kubeconfig", kubeconfig, "--register", "ca-bundle", "--drain", "1", "--config-map-grace", "1"];
    Webhook::ready(cluster.folder.path(), cluster.port, &args)
}

/// A ConfigMap is made, kept fresh and collected, and an owner is told of a warning.
fn story(cluster: &Cluster, webhook: &Webhook) {
    cluster.configuration();
    admitted(cluster, webhook, "a", &[("portico.dev/inject", "configmap")]);
    maps_of(cluster, "default", 1);
    cluster.api.put(service("mysql", 13, 3306));
    until("it is fresh", || {
        let map = cluster.config_maps("default").pop()?;
        map["data"]["MYSQL_PORT"].is_string().then_some(())
    });
    cluster.api.delete("Pod", "default", "a");
    until("it is collected", || cluster.config_maps("default").is_empty().then_some(()));
    let mut owned = annotated(pod("b"), &[("portico.dev/max-bytes", "lots")]);
    owned["metadata"]["ownerReferences"] = json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-1",
        "uid": "r-1", "controller": true}]);
    admitted_pod(cluster, webhook, owned);
    let mut external = service("external", 14, 80);
    external["spec"]["externalIPs"] = json!(["192.0.2.1"]);
    cluster.api.put(external);
    until("the controller and the service have Events", || {
        let path = "/api/v1/namespaces/default/events";
        let list = cluster.api.send("GET", path, "application/json", &Value::Null).object.to_string();
        (list.contains("max-bytes") && list.contains("PortalsRefused")).then_some(())
    });
}

#[test]
fn the_roles_of_the_webhook_grant_what_it_calls_and_nothing_else() {
    let cluster = Cluster::new(Api::double());
    // Where a server sends initial events, lists are not needed; where it does not, they are.
    cluster.api.fault(Fault::NoInitialEvents(InitialEvents::Status(422)));
    let objects = objects(&[]);
    // What the chart makes and the webhook fills.
    cluster.api.put(one(&objects, "Secret", "").clone());
    cluster.api.put(one(&objects, CONFIGURATION, "").clone());
    let grants = Grant::all(&objects, ACCOUNT);
    assert!(!grants.is_empty());
    let webhook = replica(&cluster);
    story(&cluster, &webhook);
    until("everything is watched", || {
        not_called(&cluster.api.calls(ACCOUNT), &grants).is_empty().then_some(())
    });
    let calls = cluster.api.calls(ACCOUNT);
    let refused = not_granted(&calls, &grants);
    assert!(refused.is_empty(), "not granted: {refused:#?}");
}

#[test]
#[cfg_attr(not(feature = "api-server"), ignore = "needs KUBEBUILDER_ASSETS and the feature api-server")]
fn on_a_real_api_server_the_webhook_needs_no_more_than_its_roles() {
    let api = Api::real();
    let cluster = Cluster::new(api);
    let manifests = repository().join("deploy/manifests/portico.yaml");
    let manifests = manifests.to_str().expect("a path");
    let kubectl = |args: &[&str]| cluster.api.kubectl(args);
    kubectl(&["apply", "--server-side", "--force-conflicts", "-f", manifests])
        .unwrap_or_else(|why| panic!("{why}"));
    let webhook = replica(&cluster);
    story(&cluster, &webhook);
    let log = webhook.log();
    assert!(!log.contains("forbidden") && !log.contains("ERROR"), "{log}");
    // An upgrade leaves what the webhook has filled as it is.
    let before =
        (cluster.secret().expect("a Secret")["data"].clone(), cluster.configuration()["webhooks"].clone());
    kubectl(&["apply", "--server-side", "--force-conflicts", "-f", manifests])
        .unwrap_or_else(|why| panic!("{why}"));
    let after =
        (cluster.secret().expect("a Secret")["data"].clone(), cluster.configuration()["webhooks"].clone());
    assert_eq!(before, after);
    let account = format!("system:serviceaccount:portico-system:{ACCOUNT}");
    for (verb, resource) in [
        ("get", "secrets"),
        ("create", "secrets"),
        ("create", "mutatingwebhookconfigurations"),
        ("update", "mutatingwebhookconfigurations/other"),
        ("get", "pods"),
        ("delete", "events"),
    ] {
        assert!(
            kubectl(&["auth", "can-i", verb, resource, "--as", &account, "-A"]).is_err(),
            "{verb} {resource}"
        );
    }
    // The role may write any ConfigMap; the policy has it write its own alone. It takes a while to be in force.
    until("a foreign ConfigMap is refused", || {
        let create = ["create", "configmap", "mine", "-n", "default", "--dry-run=server", "--as", &account];
        kubectl(&create).is_err_and(|why| why.contains("can only write its own ConfigMaps")).then_some(())
    });
    admitted(&cluster, &webhook, "c", &[("portico.dev/inject", "configmap")]);
    maps_of(&cluster, "default", 1);
    let root_ca = ["delete", "configmap", "-n", "default", "--dry-run=server", "--as", &account, "theirs"];
    kubectl(&["create", "configmap", "theirs", "-n", "default"]).unwrap_or_else(|why| panic!("{why}"));
    let why = kubectl(&root_ca).expect_err("it is not its own");
    assert!(why.contains("can only write its own ConfigMaps"), "{why}");
}

#[test]
fn the_chart_registers_what_the_webhook_would_register_itself() {
    let cluster = Cluster::new(Api::double());
    let kubeconfig = cluster.api.kubeconfig().to_str().expect("a path").to_owned();
    let _webhook =
        Webhook::ready(cluster.folder.path(), cluster.port, &["--kubeconfig", &kubeconfig, "--drain", "1"]);
    let mut own = cluster.configuration()["webhooks"].clone();
    let rendered = objects(&[]);
    let charts = &one(&rendered, CONFIGURATION, "")["webhooks"];
    for webhook in own.as_array_mut().expect("a list") {
        webhook["clientConfig"].as_object_mut().expect("fields").remove("caBundle");
    }
    assert_eq!(own, *charts);
}
