//! On the double: registration, the shared Secret and managed ConfigMaps, with everything that may come between.

use serde_json::json;

use test_support::apiserver::{Api, Fault};
use test_support::caller::Caller;
use test_support::helm::{objects, one};
use test_support::replica::{CONFIGURATION, Cluster, SYSTEM, service, text};
use test_support::review::{annotated, patched, pod, review};
use test_support::webhook::{Webhook, until};

fn cluster() -> Cluster {
    Cluster::new(Api::double())
}

/// A pod as it is after admission, put into the cluster.
pub(crate) fn admitted(
    cluster: &Cluster,
    webhook: &Webhook,
    name: &str,
    annotations: &[(&str, &str)],
) -> serde_json::Value {
    admitted_pod(cluster, webhook, annotated(pod(name), annotations))
}

/// The same of any pod.
pub(crate) fn admitted_pod(
    cluster: &Cluster,
    webhook: &Webhook,
    pod: serde_json::Value,
) -> serde_json::Value {
    let pod = reviewed(webhook, &pod);
    cluster.api.put(pod.clone());
    pod
}

/// A pod as it is after admission.
pub(crate) fn reviewed(webhook: &Webhook, pod: &serde_json::Value) -> serde_json::Value {
    let mut caller = Caller::local(webhook.address).expect("connect");
    patched(pod, &caller.review(&review("u", pod)).expect("an answer"))
}

/// The managed ConfigMaps once there are so many.
pub(crate) fn maps_of(cluster: &Cluster, namespace: &str, count: usize) -> Vec<serde_json::Value> {
    until("there are as many ConfigMaps", || {
        let maps = cluster.config_maps(namespace);
        (maps.len() == count).then_some(maps)
    })
}

#[test]
fn what_is_registered_is_what_must_be_and_is_repaired() {
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
    let repaired = until("it is repaired", || {
        let found = cluster.configuration();
        (found["webhooks"] == first["webhooks"]).then_some(found)
    });
    assert_eq!(repaired["metadata"]["labels"]["mine"], "stays");
    cluster.api.delete(CONFIGURATION, "", "portico-webhook");
    assert_eq!(cluster.configuration()["webhooks"], first["webhooks"]);
}

#[test]
fn who_leaves_registration_to_the_installer_registers_nothing() {
    let cluster = cluster();
    let webhook = cluster.replica(&["--register", "none"]);
    assert!(cluster.secret().is_some());
    assert_eq!(cluster.api.get(CONFIGURATION, "", "portico-webhook"), None);
    drop(webhook);
    // One that somebody else has registered is not touched.
    cluster.api.put(json!({"kind": CONFIGURATION, "metadata": {"name": "portico-webhook"}, "webhooks": []}));
    let _webhook = cluster.replica(&["--register", "none"]);
    let found = cluster.api.get(CONFIGURATION, "", "portico-webhook").expect("it is there");
    assert_eq!(found["webhooks"], json!([]));
}

#[test]
fn of_a_registration_that_the_chart_has_made_only_the_ca_bundle_is_written() {
    let cluster = cluster();
    let objects =
        objects(&["webhook.registration.failurePolicy=Fail", "webhook.registration.exceptNamespaces={a}"]);
    let charts = one(&objects, CONFIGURATION, "").clone();
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
    // One that the installer makes again is filled again; none is made in its place.
    cluster.api.delete(CONFIGURATION, "", "portico-webhook");
    cluster.api.put(charts.clone());
    is_charts(&cluster.configuration());
}

#[test]
fn a_replica_that_comes_second_takes_what_the_first_has_made() {
    let (winner, loser) = (cluster(), cluster());
    let _first = winner.replica(&[]);
    let made = winner.secret().expect("a Secret");
    // Between this replica's look and its write somebody else makes the Secret.
    loser.api.fault(Fault::Race("secrets", made.clone()));
    let _second = loser.replica(&[]);
    let found = loser.secret().expect("a Secret");
    assert_eq!(found["data"], made["data"]);
    let bundle = &loser.configuration()["webhooks"][0]["clientConfig"]["caBundle"];
    assert_eq!(*bundle, made["data"]["ca.crt"]);
}

#[test]
fn a_secret_that_is_of_no_use_is_made_anew_and_one_that_is_deleted_is_put_back() {
    let cluster = cluster();
    let metadata = json!({"name": "portico-webhook-tls", "namespace": SYSTEM, "labels": {"mine": "stays"}});
    cluster
        .api
        .put(json!({"kind": "Secret", "metadata": metadata, "data": {"tls.crt": "AAAA", "other": "AAAA"}}));
    let webhook = cluster.replica(&[]);
    let made = cluster.secret().expect("a Secret");
    assert!(text(&made, "tls.crt").contains("BEGIN CERTIFICATE"));
    assert_eq!(
        (&made["metadata"]["labels"]["mine"], &made["data"]["other"]),
        (&"stays".into(), &"AAAA".into())
    );
    cluster.api.delete("Secret", SYSTEM, "portico-webhook-tls");
    let again = until("it is put back", || cluster.secret());
    assert_eq!(text(&again, "tls.crt"), text(&made, "tls.crt"));
    assert_eq!(webhook.readyz().0, 200);
}

#[test]
fn a_config_map_is_made_as_soon_as_a_pod_refers_to_it_and_kept_fresh() {
    let cluster = cluster();
    let webhook = cluster.replica(&[]);
    let pod = admitted(&cluster, &webhook, "a", &[("portico.dev/inject", "configmap")]);
    let maps = maps_of(&cluster, "default", 1);
    let reference = &pod["spec"]["containers"][0]["envFrom"][0]["configMapRef"];
    assert_eq!(reference["name"], maps[0]["metadata"]["name"]);
    assert_eq!(maps[0]["data"]["REDIS_SERVICE_HOST"], "10.0.0.11");
    cluster.api.put(service("redis", 12, 6379));
    cluster.api.put(service("mysql", 13, 3306));
    until("it is fresh", || {
        let map = cluster.config_maps("default").pop()?;
        let is_fresh =
            map["data"]["REDIS_SERVICE_HOST"] == "10.0.0.12" && map["data"]["MYSQL_PORT"].is_string();
        is_fresh.then_some(())
    });
    // Whoever alters or deletes it does so for a moment.
    let mut altered = cluster.config_maps("default").remove(0);
    altered["data"] = json!({"REDIS_SERVICE_HOST": "6.6.6.6"});
    cluster.api.put(altered);
    let name = maps[0]["metadata"]["name"].as_str().expect("a name");
    let is_good =
        || Some(cluster.api.get("ConfigMap", "default", name)?["data"]["REDIS_SERVICE_HOST"] == "10.0.0.12");
    until("it is repaired", || is_good()?.then_some(()));
    cluster.api.delete("ConfigMap", "default", name);
    until("it is made again", || is_good()?.then_some(()));
}

#[test]
fn a_pod_keeps_its_labels_beside_the_one_by_which_the_controller_finds_it() {
    let cluster = cluster();
    let webhook = cluster.replica(&[]);
    let mut labelled = annotated(pod("a"), &[("portico.dev/inject", "configmap")]);
    labelled["metadata"]["labels"] = json!({"app": "web", "a/b": "c"});
    let labels = &reviewed(&webhook, &labelled)["metadata"]["labels"];
    assert_eq!(*labels, json!({"app": "web", "a/b": "c", "portico.dev/variables": "configmap"}));
}

#[test]
fn a_config_map_is_kept_while_a_pod_refers_to_it_and_collected_after() {
    let cluster = cluster();
    let webhook = cluster.replica(&["--config-map-grace", "1"]);
    admitted(&cluster, &webhook, "stays", &[("portico.dev/inject", "configmap")]);
    let forms = [("portico.dev/inject", "configmap"), ("portico.dev/forms", "host-port")];
    admitted(&cluster, &webhook, "goes", &forms);
    let foreign = json!({"kind": "ConfigMap", "metadata": {"name": "portico-env-0", "namespace": "default"}});
    cluster.api.put(foreign);
    maps_of(&cluster, "default", 3);
    cluster.api.delete("Pod", "default", "goes");
    let left = until("one is collected", || {
        let maps = cluster.config_maps("default");
        (maps.len() == 2).then_some(maps)
    });
    // The pod that stays has all forms; what is not managed by us is nobody's to collect.
    assert!(left.iter().any(|map| map["data"]["REDIS_PORT"].is_string()));
    assert!(left.iter().any(|map| map["metadata"]["name"] == "portico-env-0"));
    assert_eq!(webhook.metric("config_maps_total{what=\"collected\"}"), 1.0);
}

#[test]
fn a_config_map_of_somebody_else_is_never_touched() {
    let cluster = cluster();
    let webhook = cluster.replica(&[]);
    let pod = admitted(&cluster, &webhook, "a", &[("portico.dev/inject", "configmap")]);
    let name = pod["spec"]["containers"][0]["envFrom"][0]["configMapRef"]["name"].as_str().expect("a name");
    maps_of(&cluster, "default", 1);
    drop(webhook);
    let foreign =
        json!({"kind": "ConfigMap", "metadata": {"name": name, "namespace": "default"}, "data": {"a": "b"}});
    cluster.api.put(foreign);
    let webhook = cluster.replica(&[]);
    admitted(&cluster, &webhook, "b", &[("portico.dev/inject", "configmap")]);
    webhook.until("it says so", |webhook| {
        webhook.metric("config_maps_refused_total{reason=\"foreign\"}") >= 1.0
    });
    assert_eq!(
        cluster.api.get("ConfigMap", "default", name).expect("it is there")["data"],
        json!({"a": "b"})
    );
}

#[test]
fn a_container_that_waits_gets_its_config_map_once_the_service_is_there() {
    let cluster = cluster();
    let webhook = cluster.replica(&[]);
    let wish = [("portico.dev/require", "mysql"), ("portico.dev/on-missing", "wait")];
    let pod = admitted(&cluster, &webhook, "a", &wish);
    let name = pod["spec"]["containers"][0]["envFrom"][0]["configMapRef"]["name"].as_str().expect("a name");
    assert_eq!(cluster.api.get("ConfigMap", "default", name), None);
    // Another replica knows of it, too.
    drop(webhook);
    let _webhook = cluster.replica(&[]);
    assert_eq!(cluster.api.get("ConfigMap", "default", name), None);
    cluster.api.put(service("mysql", 13, 3306));
    let map = until("it is made", || cluster.api.get("ConfigMap", "default", name));
    assert_eq!(map["data"]["MYSQL_SERVICE_PORT"], "3306");
}

#[test]
fn a_container_waits_again_once_the_service_is_gone_again() {
    let cluster = cluster();
    let webhook = cluster.replica(&[]);
    cluster.api.put(service("mysql", 13, 3306));
    let wish = [("portico.dev/require", "mysql"), ("portico.dev/on-missing", "wait")];
    let pod = admitted(&cluster, &webhook, "a", &wish);
    maps_of(&cluster, "default", 1);
    let name = pod["spec"]["containers"][0]["envFrom"][0]["configMapRef"]["name"].as_str().expect("a name");
    let map = || cluster.api.get("ConfigMap", "default", name);
    cluster.api.delete("Service", "default", "mysql");
    until("it is gone", || map().is_none().then_some(()));
    // Another replica knows of it, too, and leaves it so.
    drop(webhook);
    let _webhook = cluster.replica(&[]);
    assert_eq!(map(), None);
    cluster.api.put(service("mysql", 14, 3306));
    let found = until("it is made again", map);
    assert_eq!(found["data"]["MYSQL_SERVICE_HOST"], "10.0.0.14");
}

#[test]
fn a_namespace_says_what_its_pods_do_not() {
    let cluster = cluster();
    let annotations = json!({"portico.dev/inject": "configmap"});
    cluster
        .api
        .put(json!({"kind": "Namespace", "metadata": {"name": "default", "annotations": annotations}}));
    let webhook = cluster.replica(&[]);
    let by_map = admitted(&cluster, &webhook, "a", &[]);
    assert!(by_map["spec"]["containers"][0]["envFrom"].is_array(), "{by_map}");
    let inline = admitted(&cluster, &webhook, "b", &[("portico.dev/inject", "inline")]);
    assert!(inline["spec"]["containers"][0]["env"].is_array(), "{inline}");
}

#[test]
fn a_change_of_a_namespace_causes_no_list_and_no_request() {
    let cluster = cluster();
    let namespace = |inject: &str| {
        let annotations = json!({"portico.dev/inject": inject});
        json!({"kind": "Namespace", "metadata": {"name": "default", "annotations": annotations}})
    };
    cluster.api.put(namespace("inline"));
    let webhook = cluster.replica(&[]);
    let is_inline = |name: &str| {
        let pod = admitted(&cluster, &webhook, name, &[]);
        pod["spec"]["containers"][0]["env"].is_array()
    };
    until("the namespace is known", || is_inline("a").then_some(()));
    cluster.api.requests();
    cluster.api.put(namespace("false"));
    for number in 0..50 {
        cluster.api.put(json!({"kind": "Namespace", "metadata": {"name": format!("new-{number}")}}));
    }
    until("the change is known", || (!is_inline("b")).then_some(()));
    let requests = cluster.api.requests();
    let of_namespaces = requests.iter().filter(|request| request.starts_with("/api/v1/namespaces?"));
    assert_eq!(of_namespaces.count(), 0, "{requests:?}");
}

#[test]
fn a_service_that_cannot_be_used_is_a_metric_of_its_own_and_no_outage() {
    let cluster = cluster();
    let webhook = cluster.replica(&[]);
    let mut broken = service("broken", 12, 80);
    broken["spec"]["ports"] =
        (1..=5000).map(|port| json!({"name": format!("p{port}"), "port": port})).collect();
    cluster.api.put(broken);
    webhook.until("it is counted", |webhook| webhook.metric("objects_refused") == 1.0);
    assert_eq!(webhook.metric("source_trouble"), 0.0);
    assert_eq!(webhook.log().matches("Service default/broken").count(), 1, "{}", webhook.log());
    cluster.api.delete("Service", "default", "broken");
    webhook.until("it is no longer counted", |webhook| webhook.metric("objects_refused") == 0.0);
}

#[test]
fn who_vouches_for_files_is_told_by_a_file_or_by_somebody_else() {
    let (maker, cluster) = (cluster(), cluster());
    let _maker = maker.replica(&[]);
    let made = maker.secret().expect("a Secret");
    let write =
        |entry: &str| cluster.folder.write(entry, &text(&made, entry)).to_str().expect("a path").to_owned();
    let (certificate, key, authority) = (write("tls.crt"), write("tls.key"), write("ca.crt"));
    let files = ["--tls-cert", &certificate, "--tls-key", &key];
    let first = cluster.replica(&[&files[..], &["--tls-ca", &authority]].concat());
    let bundle = |found: &serde_json::Value| found["webhooks"][0]["clientConfig"]["caBundle"].clone();
    assert_eq!(bundle(&cluster.configuration()), made["data"]["ca.crt"]);
    cluster.folder.write("ca.crt", "renewed");
    until("the change is registered", || (bundle(&cluster.configuration()) == "cmVuZXdlZA==").then_some(()));
    drop(first);
    // Without a file what is registered stays, however it is repaired otherwise.
    let _second = cluster.replica(&files);
    let mut altered = cluster.configuration();
    altered["webhooks"][0]["timeoutSeconds"] = 30.into();
    cluster.api.put(altered);
    let repaired = until("it is repaired", || {
        let found = cluster.configuration();
        (found["webhooks"][0]["timeoutSeconds"] == 3).then_some(found)
    });
    assert_eq!(bundle(&repaired), "cmVuZXdlZA==");
    assert_eq!(cluster.secret(), None);
}
