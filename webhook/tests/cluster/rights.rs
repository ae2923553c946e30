//! The roles and the registration of the chart, compared with the requests and the registration of the webhook.
//!
//! The same scenario runs on the double, which records requests, and on a real API server, which rejects requests that
//! are not granted.

use serde_json::{Value, json};

use crate::double::{create_admitted_pod, create_pod, wait_for_config_maps};
use test_support::apiserver::rights::{Grant, not_called, not_granted};
use test_support::apiserver::{ApiServer, Fault, InitialEvents};
use test_support::eventually::eventually;
use test_support::helm::{objects, one};
use test_support::program::repository;
use test_support::review::{pod, with_annotations};
use test_support::webhook::Webhook;
use test_support::webhook_cluster::{WEBHOOK_CONFIGURATION, WebhookCluster, service};

const ACCOUNT: &str = "portico-webhook";

/// Starts a replica with the token of its service account.
fn replica(cluster: &WebhookCluster) -> Webhook {
    let kubeconfig = cluster.api.kubeconfig_of_account(ACCOUNT);
    let kubeconfig = kubeconfig.to_str().expect("a path");
    let args =
        ["--kubeconfig", kubeconfig, "--register", "ca-bundle", "--drain", "1", "--config-map-grace", "1"];
    Webhook::start_ready(cluster.dir.path(), cluster.port, &args)
}

/// Has the webhook create, update and delete a ConfigMap, and write Events on a controller and on a service.
fn scenario(cluster: &WebhookCluster, webhook: &Webhook) {
    cluster.configuration();
    create_admitted_pod(cluster, webhook, "a", &[("portico.dev/inject", "configmap")]);
    wait_for_config_maps(cluster, "default", 1);
    cluster.api.put(service("mysql", 13, 3306));
    eventually("it is updated", || {
        let map = cluster.config_maps("default").pop()?;
        map["data"]["MYSQL_PORT"].is_string().then_some(())
    });
    cluster.api.delete("Pod", "default", "a");
    eventually("it is deleted", || cluster.config_maps("default").is_empty().then_some(()));
    let mut owned = with_annotations(pod("b"), &[("portico.dev/max-bytes", "lots")]);
    owned["metadata"]["ownerReferences"] = json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-1",
        "uid": "r-1", "controller": true}]);
    create_pod(cluster, webhook, owned);
    let mut external = service("external", 14, 80);
    external["spec"]["externalIPs"] = json!(["192.0.2.1"]);
    cluster.api.put(external);
    eventually("the controller and the service have Events", || {
        let path = "/api/v1/namespaces/default/events";
        let list = cluster.api.send("GET", path, "application/json", &Value::Null).object.to_string();
        (list.contains("max-bytes") && list.contains("PortalsRefused")).then_some(())
    });
}

#[test]
fn roles_of_the_webhook_grant_exactly_what_it_calls() {
    let cluster = WebhookCluster::new(ApiServer::double());
    // The webhook only lists objects if the server does not send initial events.
    cluster.api.fault(Fault::NoInitialEvents(InitialEvents::Status(422)));
    let objects = objects(&[]);
    // The chart creates these, and the webhook fills them in.
    cluster.api.put(one(&objects, "Secret", "").clone());
    cluster.api.put(one(&objects, WEBHOOK_CONFIGURATION, "").clone());
    let grants = Grant::all(&objects, ACCOUNT);
    assert!(!grants.is_empty());
    let webhook = replica(&cluster);
    scenario(&cluster, &webhook);
    eventually("everything is watched", || {
        not_called(&cluster.api.calls(ACCOUNT), &grants).is_empty().then_some(())
    });
    let calls = cluster.api.calls(ACCOUNT);
    let refused = not_granted(&calls, &grants);
    assert!(refused.is_empty(), "not granted: {refused:#?}");
}

#[test]
#[cfg_attr(not(feature = "api-server"), ignore = "needs KUBEBUILDER_ASSETS and the feature api-server")]
fn webhook_needs_no_more_than_its_roles_on_a_real_api_server() {
    let api = ApiServer::real();
    let cluster = WebhookCluster::new(api);
    let manifests = repository().join("deploy/manifests/portico.yaml");
    let manifests = manifests.to_str().expect("a path");
    let kubectl = |args: &[&str]| cluster.api.kubectl(args);
    kubectl(&["apply", "--server-side", "--force-conflicts", "-f", manifests])
        .unwrap_or_else(|why| panic!("{why}"));
    let webhook = replica(&cluster);
    scenario(&cluster, &webhook);
    let log = webhook.log();
    assert!(!log.contains("forbidden") && !log.contains("ERROR"), "{log}");
    // An upgrade keeps what the webhook has filled in.
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
    // The role permits every ConfigMap; the policy restricts it to managed ones. It takes effect after a while.
    eventually("another ConfigMap is rejected", || {
        let create = ["create", "configmap", "mine", "-n", "default", "--dry-run=server", "--as", &account];
        kubectl(&create).is_err_and(|why| why.contains("can only write its own ConfigMaps")).then_some(())
    });
    create_admitted_pod(&cluster, &webhook, "c", &[("portico.dev/inject", "configmap")]);
    wait_for_config_maps(&cluster, "default", 1);
    let root_ca = ["delete", "configmap", "-n", "default", "--dry-run=server", "--as", &account, "theirs"];
    kubectl(&["create", "configmap", "theirs", "-n", "default"]).unwrap_or_else(|why| panic!("{why}"));
    let why = kubectl(&root_ca).expect_err("it is not managed");
    assert!(why.contains("can only write its own ConfigMaps"), "{why}");
}

#[test]
fn chart_and_webhook_register_the_same() {
    let cluster = WebhookCluster::new(ApiServer::double());
    let kubeconfig = cluster.api.kubeconfig().to_str().expect("a path").to_owned();
    let _webhook = Webhook::start_ready(
        cluster.dir.path(),
        cluster.port,
        &["--kubeconfig", &kubeconfig, "--drain", "1"],
    );
    let mut own = cluster.configuration()["webhooks"].clone();
    let rendered = objects(&[]);
    let charts = &one(&rendered, WEBHOOK_CONFIGURATION, "")["webhooks"];
    for webhook in own.as_array_mut().expect("a list") {
        webhook["clientConfig"].as_object_mut().expect("fields").remove("caBundle");
    }
    assert_eq!(own, *charts);
}
