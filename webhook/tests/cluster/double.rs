//! On the double: registration, the shared Secret and managed ConfigMaps, with conflicts and outages.

use serde_json::json;

use test_support::apiserver::{ApiServer, Fault};
use test_support::caller::Caller;
use test_support::eventually::eventually;
use test_support::helm::{objects, one};
use test_support::review::{apply_patch, pod, review, with_annotations};
use test_support::webhook::Webhook;
use test_support::webhook_cluster::{SYSTEM, WEBHOOK_CONFIGURATION, WebhookCluster, service, text};

fn cluster() -> WebhookCluster {
    WebhookCluster::new(ApiServer::double())
}

/// Admits a pod, and creates it in the cluster.
pub(crate) fn create_admitted_pod(
    cluster: &WebhookCluster,
    webhook: &Webhook,
    name: &str,
    annotations: &[(&str, &str)],
) -> serde_json::Value {
    create_pod(cluster, webhook, with_annotations(pod(name), annotations))
}

/// Admits any pod, and creates it in the cluster.
pub(crate) fn create_pod(
    cluster: &WebhookCluster,
    webhook: &Webhook,
    pod: serde_json::Value,
) -> serde_json::Value {
    let pod = review_pod(webhook, &pod);
    cluster.api.put(pod.clone());
    pod
}

/// Returns a pod as changed by admission.
pub(crate) fn review_pod(webhook: &Webhook, pod: &serde_json::Value) -> serde_json::Value {
    let mut caller = Caller::local(webhook.address).expect("connect");
    apply_patch(pod, &caller.review(&review("u", pod)).expect("a response"))
}

/// Waits for this number of managed ConfigMaps, and returns them.
pub(crate) fn wait_for_config_maps(
    cluster: &WebhookCluster,
    namespace: &str,
    count: usize,
) -> Vec<serde_json::Value> {
    eventually("the number of ConfigMaps is right", || {
        let maps = cluster.config_maps(namespace);
        (maps.len() == count).then_some(maps)
    })
}

#[test]
fn registration_is_complete_and_restored_after_changes() {
    let cluster = cluster();
    let _webhook = cluster.replica(&[]);
    let first = cluster.configuration();
    let webhooks = first["webhooks"].as_array().expect("a list");
    assert_eq!(webhooks.len(), 2);
    for (webhook, resource) in webhooks.iter().zip(["pods", "pods/ephemeralcontainers"]) {
        assert_eq!(webhook["failurePolicy"], "Ignore");
        assert_eq!(webhook["timeoutSeconds"], 3);
        assert_eq!(webhook["reinvocationPolicy"], "IfNeeded");
        assert_eq!(webhook["sideEffects"], "None");
        assert_eq!(webhook["rules"][0]["resources"], json!([resource]));
        let spared = &webhook["namespaceSelector"]["matchExpressions"][0]["values"];
        assert_eq!(*spared, json!(["kube-system", SYSTEM]));
    }
    let mut altered = first.clone();
    altered["webhooks"][0]["failurePolicy"] = "Fail".into();
    altered["metadata"]["labels"]["mine"] = "stays".into();
    cluster.api.put(altered);
    let repaired = eventually("it is restored", || {
        let found = cluster.configuration();
        (found["webhooks"] == first["webhooks"]).then_some(found)
    });
    assert_eq!(repaired["metadata"]["labels"]["mine"], "stays");
    cluster.api.delete(WEBHOOK_CONFIGURATION, "", "portico-webhook");
    assert_eq!(cluster.configuration()["webhooks"], first["webhooks"]);
}

#[test]
fn register_none_registers_nothing() {
    let cluster = cluster();
    let webhook = cluster.replica(&["--register", "none"]);
    assert!(cluster.secret().is_some());
    assert_eq!(cluster.api.get(WEBHOOK_CONFIGURATION, "", "portico-webhook"), None);
    drop(webhook);
    // One that another component registered is not changed.
    cluster
        .api
        .put(json!({"kind": WEBHOOK_CONFIGURATION, "metadata": {"name": "portico-webhook"}, "webhooks": []}));
    let _webhook = cluster.replica(&["--register", "none"]);
    let found = cluster.api.get(WEBHOOK_CONFIGURATION, "", "portico-webhook").expect("it exists");
    assert_eq!(found["webhooks"], json!([]));
}

#[test]
fn register_ca_bundle_writes_only_the_ca_bundle() {
    let cluster = cluster();
    let objects =
        objects(&["webhook.registration.failurePolicy=Fail", "webhook.registration.exceptNamespaces={a}"]);
    let charts = one(&objects, WEBHOOK_CONFIGURATION, "").clone();
    cluster.api.put(charts.clone());
    let _webhook = cluster.replica(&["--register", "ca-bundle"]);
    let is_charts = |found: &serde_json::Value| {
        let mut found = found.clone();
        for webhook in found["webhooks"].as_array_mut().expect("a list") {
            let bundle = webhook["clientConfig"].as_object_mut().expect("fields").remove("caBundle");
            assert_eq!(bundle, Some(cluster.secret().expect("a Secret")["data"]["ca.crt"].clone()));
        }
        assert_eq!(found["webhooks"], charts["webhooks"]);
        assert_eq!(found["metadata"]["labels"], charts["metadata"]["labels"]);
    };
    is_charts(&cluster.configuration());
    // If the installer creates it again, it is filled in again; the webhook does not create it.
    cluster.api.delete(WEBHOOK_CONFIGURATION, "", "portico-webhook");
    cluster.api.put(charts.clone());
    is_charts(&cluster.configuration());
}

#[test]
fn second_replica_uses_the_secret_of_the_first() {
    let (winner, loser) = (cluster(), cluster());
    let _first = winner.replica(&[]);
    let created = winner.secret().expect("a Secret");
    // Between the read and the write of this replica, another one creates the Secret.
    loser.api.fault(Fault::Race("secrets", created.clone()));
    let _second = loser.replica(&[]);
    let found = loser.secret().expect("a Secret");
    assert_eq!(found["data"], created["data"]);
    let bundle = &loser.configuration()["webhooks"][0]["clientConfig"]["caBundle"];
    assert_eq!(*bundle, created["data"]["ca.crt"]);
}

#[test]
fn unusable_secret_is_replaced_and_a_deleted_one_is_restored() {
    let cluster = cluster();
    let metadata = json!({"name": "portico-webhook-tls", "namespace": SYSTEM, "labels": {"mine": "stays"}});
    cluster
        .api
        .put(json!({"kind": "Secret", "metadata": metadata, "data": {"tls.crt": "AAAA", "other": "AAAA"}}));
    let webhook = cluster.replica(&[]);
    let created = cluster.secret().expect("a Secret");
    assert!(text(&created, "tls.crt").contains("BEGIN CERTIFICATE"));
    assert_eq!(
        (&created["metadata"]["labels"]["mine"], &created["data"]["other"]),
        (&"stays".into(), &"AAAA".into())
    );
    cluster.api.delete("Secret", SYSTEM, "portico-webhook-tls");
    let again = eventually("it is restored", || cluster.secret());
    assert_eq!(text(&again, "tls.crt"), text(&created, "tls.crt"));
    assert_eq!(webhook.readyz().0, 200);
}

#[test]
fn config_map_is_created_for_a_pod_and_follows_its_services() {
    let cluster = cluster();
    let webhook = cluster.replica(&[]);
    let pod = create_admitted_pod(&cluster, &webhook, "a", &[("portico.dev/inject", "configmap")]);
    let maps = wait_for_config_maps(&cluster, "default", 1);
    let reference = &pod["spec"]["containers"][0]["envFrom"][0]["configMapRef"];
    assert_eq!(reference["name"], maps[0]["metadata"]["name"]);
    assert_eq!(maps[0]["data"]["REDIS_SERVICE_HOST"], "10.0.0.11");
    cluster.api.put(service("redis", 12, 6379));
    cluster.api.put(service("mysql", 13, 3306));
    eventually("it is updated", || {
        let map = cluster.config_maps("default").pop()?;
        let is_updated =
            map["data"]["REDIS_SERVICE_HOST"] == "10.0.0.12" && map["data"]["MYSQL_PORT"].is_string();
        is_updated.then_some(())
    });
    // Changes and deletions by other clients are reverted.
    let mut altered = cluster.config_maps("default").remove(0);
    altered["data"] = json!({"REDIS_SERVICE_HOST": "6.6.6.6"});
    cluster.api.put(altered);
    let name = maps[0]["metadata"]["name"].as_str().expect("a name");
    let is_good =
        || Some(cluster.api.get("ConfigMap", "default", name)?["data"]["REDIS_SERVICE_HOST"] == "10.0.0.12");
    eventually("it is restored", || is_good()?.then_some(()));
    cluster.api.delete("ConfigMap", "default", name);
    eventually("it is created again", || is_good()?.then_some(()));
}

#[test]
fn pod_keeps_its_labels_next_to_the_label_for_the_controller() {
    let cluster = cluster();
    let webhook = cluster.replica(&[]);
    let mut labelled = with_annotations(pod("a"), &[("portico.dev/inject", "configmap")]);
    labelled["metadata"]["labels"] = json!({"app": "web", "a/b": "c"});
    let labels = &review_pod(&webhook, &labelled)["metadata"]["labels"];
    assert_eq!(*labels, json!({"app": "web", "a/b": "c", "portico.dev/variables": "configmap"}));
}

#[test]
fn config_map_exists_as_long_as_a_pod_refers_to_it() {
    let cluster = cluster();
    let webhook = cluster.replica(&["--config-map-grace", "1"]);
    create_admitted_pod(&cluster, &webhook, "stays", &[("portico.dev/inject", "configmap")]);
    let forms = [("portico.dev/inject", "configmap"), ("portico.dev/forms", "host-port")];
    create_admitted_pod(&cluster, &webhook, "goes", &forms);
    let foreign = json!({"kind": "ConfigMap", "metadata": {"name": "portico-env-0", "namespace": "default"}});
    cluster.api.put(foreign);
    wait_for_config_maps(&cluster, "default", 3);
    cluster.api.delete("Pod", "default", "goes");
    let left = eventually("one is deleted", || {
        let maps = cluster.config_maps("default");
        (maps.len() == 2).then_some(maps)
    });
    // The remaining pod has all forms; the webhook never deletes an unmanaged ConfigMap.
    assert!(left.iter().any(|map| map["data"]["REDIS_PORT"].is_string()));
    assert!(left.iter().any(|map| map["metadata"]["name"] == "portico-env-0"));
    assert_eq!(webhook.metric("config_map_operations_total{operation=\"collected\"}"), 1.0);
}

#[test]
fn unmanaged_config_map_is_never_changed() {
    let cluster = cluster();
    let webhook = cluster.replica(&[]);
    let pod = create_admitted_pod(&cluster, &webhook, "a", &[("portico.dev/inject", "configmap")]);
    let name = pod["spec"]["containers"][0]["envFrom"][0]["configMapRef"]["name"].as_str().expect("a name");
    wait_for_config_maps(&cluster, "default", 1);
    drop(webhook);
    let foreign =
        json!({"kind": "ConfigMap", "metadata": {"name": name, "namespace": "default"}, "data": {"a": "b"}});
    cluster.api.put(foreign);
    let webhook = cluster.replica(&[]);
    create_admitted_pod(&cluster, &webhook, "b", &[("portico.dev/inject", "configmap")]);
    webhook.wait_until("it is counted", |webhook| {
        webhook.metric("config_maps_refused_total{reason=\"foreign\"}") >= 1.0
    });
    assert_eq!(cluster.api.get("ConfigMap", "default", name).expect("it exists")["data"], json!({"a": "b"}));
}

#[test]
fn waiting_container_gets_its_config_map_once_the_service_exists() {
    let cluster = cluster();
    let webhook = cluster.replica(&[]);
    let annotations = [("portico.dev/require", "mysql"), ("portico.dev/on-missing", "wait")];
    let pod = create_admitted_pod(&cluster, &webhook, "a", &annotations);
    let name = pod["spec"]["containers"][0]["envFrom"][0]["configMapRef"]["name"].as_str().expect("a name");
    assert_eq!(cluster.api.get("ConfigMap", "default", name), None);
    // Another replica knows the pod, too.
    drop(webhook);
    let _webhook = cluster.replica(&[]);
    assert_eq!(cluster.api.get("ConfigMap", "default", name), None);
    cluster.api.put(service("mysql", 13, 3306));
    let map = eventually("it is created", || cluster.api.get("ConfigMap", "default", name));
    assert_eq!(map["data"]["MYSQL_SERVICE_PORT"], "3306");
}

#[test]
fn container_waits_again_after_the_service_is_deleted() {
    let cluster = cluster();
    let webhook = cluster.replica(&[]);
    cluster.api.put(service("mysql", 13, 3306));
    let annotations = [("portico.dev/require", "mysql"), ("portico.dev/on-missing", "wait")];
    let pod = create_admitted_pod(&cluster, &webhook, "a", &annotations);
    wait_for_config_maps(&cluster, "default", 1);
    let name = pod["spec"]["containers"][0]["envFrom"][0]["configMapRef"]["name"].as_str().expect("a name");
    let map = || cluster.api.get("ConfigMap", "default", name);
    cluster.api.delete("Service", "default", "mysql");
    eventually("it is deleted", || map().is_none().then_some(()));
    // Another replica knows the pod, too, and does not create it.
    drop(webhook);
    let _webhook = cluster.replica(&[]);
    assert_eq!(map(), None);
    cluster.api.put(service("mysql", 14, 3306));
    let found = eventually("it is created again", map);
    assert_eq!(found["data"]["MYSQL_SERVICE_HOST"], "10.0.0.14");
}

#[test]
fn namespace_annotations_are_the_defaults_of_pods() {
    let cluster = cluster();
    let annotations = json!({"portico.dev/inject": "configmap"});
    cluster
        .api
        .put(json!({"kind": "Namespace", "metadata": {"name": "default", "annotations": annotations}}));
    let webhook = cluster.replica(&[]);
    let by_map = create_admitted_pod(&cluster, &webhook, "a", &[]);
    assert!(by_map["spec"]["containers"][0]["envFrom"].is_array(), "{by_map}");
    let inline = create_admitted_pod(&cluster, &webhook, "b", &[("portico.dev/inject", "inline")]);
    assert!(inline["spec"]["containers"][0]["env"].is_array(), "{inline}");
}

#[test]
fn changed_namespace_causes_no_list() {
    let cluster = cluster();
    let namespace = |inject: &str| {
        let annotations = json!({"portico.dev/inject": inject});
        json!({"kind": "Namespace", "metadata": {"name": "default", "annotations": annotations}})
    };
    cluster.api.put(namespace("inline"));
    let webhook = cluster.replica(&[]);
    let is_inline = |name: &str| {
        let pod = create_admitted_pod(&cluster, &webhook, name, &[]);
        pod["spec"]["containers"][0]["env"].is_array()
    };
    eventually("the namespace is known", || is_inline("a").then_some(()));
    cluster.api.requests();
    cluster.api.put(namespace("false"));
    for number in 0..50 {
        cluster.api.put(json!({"kind": "Namespace", "metadata": {"name": format!("new-{number}")}}));
    }
    eventually("the change is known", || (!is_inline("b")).then_some(()));
    let requests = cluster.api.requests();
    let of_namespaces = requests.iter().filter(|request| request.starts_with("/api/v1/namespaces?"));
    assert_eq!(of_namespaces.count(), 0, "{requests:?}");
}

#[test]
fn rejected_service_is_a_metric_and_not_an_outage() {
    let cluster = cluster();
    let webhook = cluster.replica(&[]);
    let mut broken = service("broken", 12, 80);
    broken["spec"]["ports"] =
        (1..=5000).map(|port| json!({"name": format!("p{port}"), "port": port})).collect();
    cluster.api.put(broken);
    webhook.wait_until("it is counted", |webhook| webhook.metric("objects_rejected") == 1.0);
    assert_eq!(webhook.metric("source_outage"), 0.0);
    assert_eq!(webhook.log().matches("Service default/broken").count(), 1, "{}", webhook.log());
    cluster.api.delete("Service", "default", "broken");
    webhook.wait_until("it is no longer counted", |webhook| webhook.metric("objects_rejected") == 0.0);
}

#[test]
fn ca_bundle_of_certificate_files_comes_from_a_file_or_stays() {
    let (maker, cluster) = (cluster(), cluster());
    let _maker = maker.replica(&[]);
    let created = maker.secret().expect("a Secret");
    let write =
        |entry: &str| cluster.dir.write(entry, text(&created, entry)).to_str().expect("a path").to_owned();
    let (certificate, key, authority) = (write("tls.crt"), write("tls.key"), write("ca.crt"));
    let files = ["--tls-cert", &certificate, "--tls-key", &key];
    let first = cluster.replica(&[&files[..], &["--tls-ca", &authority]].concat());
    let bundle = |found: &serde_json::Value| found["webhooks"][0]["clientConfig"]["caBundle"].clone();
    assert_eq!(bundle(&cluster.configuration()), created["data"]["ca.crt"]);
    cluster.dir.write("ca.crt", "renewed");
    eventually("the change is registered", || {
        (bundle(&cluster.configuration()) == "cmVuZXdlZA==").then_some(())
    });
    drop(first);
    // Without a file what is registered stays, however it is repaired otherwise.
    let _second = cluster.replica(&files);
    let mut altered = cluster.configuration();
    altered["webhooks"][0]["timeoutSeconds"] = 30.into();
    cluster.api.put(altered);
    let repaired = eventually("it is restored", || {
        let found = cluster.configuration();
        (found["webhooks"][0]["timeoutSeconds"] == 3).then_some(found)
    });
    assert_eq!(bundle(&repaired), "cmVuZXdlZA==");
    assert_eq!(cluster.secret(), None);
}
