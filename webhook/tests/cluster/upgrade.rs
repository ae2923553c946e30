//! Pods and ConfigMaps of release 0.1.0: old names, no label, and reminders if containers wait.

use serde_json::{Value, json};

use test_support::apiserver::ApiServer;
use test_support::eventually::eventually;
use test_support::review::pod;
use test_support::webhook_cluster::{WebhookCluster, service};

/// The text of the selection of all services.
const ALL: &str = "{\"forms\":\"all\"}";

/// Returns the name that release 0.1.0 gives a ConfigMap: FNV-1a of its selection.
fn old_name(text: &str) -> String {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    format!("portico-env-{:016x}", text.bytes().fold(0xcbf2_9ce4_8422_2325, step))
}

fn old_map(name: &str, text: &str, data: Value) -> Value {
    json!({"kind": "ConfigMap", "metadata": {"name": name, "namespace": "default",
        "labels": {"app.kubernetes.io/managed-by": "portico-webhook"},
        "annotations": {"portico.dev/selection": text, "portico.dev/used": "1"}}, "data": data})
}

/// Returns a pod as admitted by release 0.1.0.
fn old_pod(name: &str, map: &str) -> Value {
    let mut pod = pod(name);
    pod["metadata"]["annotations"]["portico.dev/injected"] =
        format!("configmap {map}: 7 variables of redis").into();
    pod["spec"]["enableServiceLinks"] = false.into();
    pod["spec"]["containers"][0]["envFrom"] = json!([{"configMapRef": {"name": map}}]);
    pod
}

#[test]
fn config_maps_of_release_0_1_0_are_deleted_after_their_pods() {
    let (text, cluster) = (ALL, WebhookCluster::new(ApiServer::double()));
    let name = old_name(text);
    let unused = old_name("{\"prefix\":\"GONE_\",\"forms\":\"all\"}");
    cluster.api.put(old_map(&name, text, json!({"REDIS_SERVICE_HOST": "10.0.0.1"})));
    cluster.api.put(old_map(&unused, "{\"prefix\":\"GONE_\",\"forms\":\"all\"}", json!({})));
    cluster.api.put(old_pod("a", &name));
    (0..30).for_each(|number| cluster.api.put(pod(&format!("other-{number}"))));
    let _webhook = cluster.replica(&["--config-map-grace", "1"]);
    let map = || cluster.api.get("ConfigMap", "default", &name);
    eventually("it is updated", || (map()?["data"]["REDIS_SERVICE_HOST"] == "10.0.0.11").then_some(()));
    eventually("the unused one is deleted", || {
        cluster.api.get("ConfigMap", "default", &unused).is_none().then_some(())
    });
    cluster.api.put(service("mysql", 13, 3306));
    eventually("it follows services", || map()?["data"]["MYSQL_PORT"].is_string().then_some(()));
    cluster.api.delete("ConfigMap", "default", &name);
    eventually("it is created again", || map()?["data"]["MYSQL_PORT"].is_string().then_some(()));
    cluster.api.delete("Pod", "default", "a");
    eventually("it is deleted", || map().is_none().then_some(()));
}

#[test]
fn waiting_pod_of_release_0_1_0_gets_its_config_map() {
    let cluster = WebhookCluster::new(ApiServer::double());
    let text = r#"{"forms":"all","wait_for":[{"namespace":"default","name":"mysql"}]}"#;
    let name = old_name(text);
    let reminder = format!("portico-reminder-{name}");
    cluster.api.put(old_map(&reminder, text, json!({})));
    cluster.api.put(old_pod("a", &name));
    let _webhook = cluster.replica(&[]);
    let found = |name: &str| cluster.api.get("ConfigMap", "default", name);
    assert_eq!(found(&name), None);
    cluster.api.put(service("mysql", 13, 3306));
    eventually("it is created", || (found(&name)?["data"]["MYSQL_SERVICE_PORT"] == "3306").then_some(()));
    eventually("the reminder is deleted", || found(&reminder).is_none().then_some(()));
    cluster.api.delete("Service", "default", "mysql");
    eventually("it is deleted", || found(&name).is_none().then_some(()));
    assert!(found(&reminder).is_some(), "release 0.1.0 needs the reminder after a rollback");
    cluster.api.put(service("mysql", 14, 3306));
    eventually("it is created again", || {
        (found(&name)?["data"]["MYSQL_SERVICE_HOST"] == "10.0.0.14").then_some(())
    });
}
