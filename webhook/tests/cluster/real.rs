//! A real API server, which calls the webhook itself when pods are created.
//!
//! All tests share one server, since its start takes long. Each test has exclusive access to it, starts its own webhook and
//! uses its own names of pods. Behaviour that the double supports as well is tested with the double.

use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use std::{io, thread};

use serde_json::{Value, json};

use test_support::apiserver::ApiServer;
use test_support::apiserver::request::{ApiResponse, Sender};
use test_support::eventually::eventually;
use test_support::review::{names, pod, with_annotations};
use test_support::webhook::{Webhook, free_port};
use test_support::webhook_cluster::{SYSTEM, WebhookCluster, text};

const JSON: &str = "application/json";
const PODS: &str = "/api/v1/namespaces/default/pods";

/// Creates a pod; the request must succeed.
fn create_pod_in_cluster(cluster: &WebhookCluster, pod: &Value) -> ApiResponse {
    let response = cluster.api.create("", pod);
    assert_eq!(response.status, 201, "{}", response.object);
    response
}

fn has_redis(pod: &Value) -> bool {
    names(pod, 0).contains(&"REDIS_SERVICE_HOST".to_owned())
}

/// Waits until the API server calls the webhook.
fn wait_for_calls(cluster: &WebhookCluster) {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    cluster.configuration();
    eventually("the API server calls", || {
        let name = format!("probe-{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        has_redis(&create_pod_in_cluster(cluster, &pod(&name)).object).then_some(())
    });
}

/// Returns the shared cluster, for exclusive use.
fn shared_cluster() -> MutexGuard<'static, WebhookCluster> {
    static CLUSTER: LazyLock<Mutex<WebhookCluster>> =
        LazyLock::new(|| Mutex::new(WebhookCluster::new(ApiServer::real())));
    // A failed test leaves the server intact.
    CLUSTER.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs `body` with the shared cluster and a webhook that the API server calls.
pub(crate) fn with_webhook(body: impl FnOnce(&WebhookCluster, &Webhook)) {
    let cluster = shared_cluster();
    let webhook = cluster.replica(&[]);
    wait_for_calls(&cluster);
    body(&cluster, &webhook);
}

#[test]
#[cfg_attr(not(feature = "api-server"), ignore = "needs KUBEBUILDER_ASSETS and the feature api-server")]
fn each_mode_injects_variables_at_its_place() {
    with_webhook(|cluster, _| {
        let made = create_pod_in_cluster(cluster, &pod("inline")).object;
        assert_eq!(names(&made, 0).len(), 7, "{made}");
        assert_eq!(made["spec"]["enableServiceLinks"], false);
        assert!(made["metadata"]["annotations"]["portico.dev/injected"].is_string());
        let made = create_pod_in_cluster(
            cluster,
            &with_annotations(pod("by-map"), &[("portico.dev/inject", "configmap")]),
        )
        .object;
        let name =
            made["spec"]["containers"][0]["envFrom"][0]["configMapRef"]["name"].as_str().expect("a name");
        let map = eventually("it is created", || cluster.api.get("ConfigMap", "default", name));
        assert_eq!(map["data"]["REDIS_PORT"], "tcp://10.0.0.11:6379");
        // Inline would not be exact here, and the pod has a controller.
        let mut owned = pod("auto");
        owned["spec"]["containers"][0]["envFrom"] = json!([{"secretRef": {"name": "x"}}]);
        owned["metadata"]["ownerReferences"] = json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web",
        "uid": "5a0c9c3e-0000-4000-8000-000000000001", "controller": true}]);
        let made = create_pod_in_cluster(cluster, &owned).object;
        assert_eq!(made["spec"]["containers"][0]["envFrom"][0]["configMapRef"]["name"], name);
        assert_eq!(made["spec"]["containers"][0]["envFrom"][1]["secretRef"]["name"], "x");
    });
}

#[test]
#[cfg_attr(not(feature = "api-server"), ignore = "needs KUBEBUILDER_ASSETS and the feature api-server")]
fn warnings_reach_the_creator_of_the_pod() {
    with_webhook(|cluster, _| {
        let response = create_pod_in_cluster(
            cluster,
            &with_annotations(pod("warned"), &[("portico.dev/max-bytes", "lots")]),
        );
        assert!(
            response.warnings.iter().any(|text| text.contains("portico.dev/max-bytes")),
            "{:?}",
            response.warnings
        );
    });
}

#[test]
#[cfg_attr(not(feature = "api-server"), ignore = "needs KUBEBUILDER_ASSETS and the feature api-server")]
fn pod_is_denied_with_a_reason() {
    with_webhook(|cluster, _| {
        let annotations = [("portico.dev/require", "nowhere"), ("portico.dev/on-missing", "deny")];
        let response = cluster.api.create("", &with_annotations(pod("denied"), &annotations));
        assert_eq!(response.status, 403);
        assert!(response.object["message"].as_str().is_some_and(|why| why.contains("service nowhere")));
    });
}

#[test]
#[cfg_attr(not(feature = "api-server"), ignore = "needs KUBEBUILDER_ASSETS and the feature api-server")]
fn dry_run_shows_all_and_creates_nothing() {
    with_webhook(|cluster, _| {
        let before = cluster.config_maps("default").len();
        let annotations = [("portico.dev/inject", "configmap"), ("portico.dev/prefix", "DRY_")];
        let response = cluster.api.create("?dryRun=All", &with_annotations(pod("dry"), &annotations));
        assert_eq!(response.status, 201);
        assert!(response.object["spec"]["containers"][0]["envFrom"][0]["configMapRef"].is_object());
        assert_eq!(cluster.config_maps("default").len(), before);
        assert_eq!(cluster.api.get("Pod", "default", "dry"), None);
    });
}

#[test]
#[cfg_attr(not(feature = "api-server"), ignore = "needs KUBEBUILDER_ASSETS and the feature api-server")]
fn only_new_ephemeral_containers_are_changed() {
    with_webhook(|cluster, _| {
        create_pod_in_cluster(cluster, &pod("debugged"));
        let path = format!("{PODS}/debugged/ephemeralcontainers");
        for count in 1..=2 {
            let mut pod = cluster.api.get("Pod", "default", "debugged").expect("it exists");
            let mut containers = pod["spec"]["ephemeralContainers"].as_array().cloned().unwrap_or_default();
            containers.push(
                json!({"name": format!("debug-{count}"), "image": "x", "terminationMessagePolicy": "File"}),
            );
            pod["spec"]["ephemeralContainers"] = containers.into();
            let response = cluster.api.send("PUT", &path, JSON, &pod);
            assert_eq!(response.status, 200, "{}", response.object);
            let containers =
                response.object["spec"]["ephemeralContainers"].as_array().expect("a list").clone();
            assert_eq!(containers.len(), count);
            for container in containers {
                assert_eq!(container["env"].as_array().map(Vec::len), Some(7), "{container}");
            }
        }
    });
}

#[test]
#[cfg_attr(not(feature = "api-server"), ignore = "needs KUBEBUILDER_ASSETS and the feature api-server")]
fn pods_that_need_no_change_cause_no_review() {
    with_webhook(|cluster, webhook| {
        let asked = || webhook.metric("request_duration_seconds_count");
        let before = asked();
        let annotations = [("portico.dev/inject", "false"), ("portico.dev/portals", "all")];
        let refused = create_pod_in_cluster(cluster, &with_annotations(pod("refused"), &annotations)).object;
        assert!(!has_redis(&refused) && refused["spec"]["enableServiceLinks"] == true);
        let mut mirror = with_annotations(pod("mirror"), &[("kubernetes.io/config.mirror", "x")]);
        mirror["spec"]["nodeName"] = "n1".into();
        assert!(!has_redis(&create_pod_in_cluster(cluster, &mirror).object));
        let mut own = pod("agent");
        own["metadata"]["labels"] = json!({"app.kubernetes.io/part-of": "portico"});
        assert!(!has_redis(&create_pod_in_cluster(cluster, &own).object));
        cluster.api.put(json!({"kind": "Namespace", "metadata": {"name": "kube-system"}}));
        let mut system = pod("system");
        system["metadata"]["namespace"] = "kube-system".into();
        assert!(!has_redis(&create_pod_in_cluster(cluster, &system).object));
        assert_eq!(asked(), before);
    });
}

#[test]
#[cfg_attr(not(feature = "api-server"), ignore = "needs KUBEBUILDER_ASSETS and the feature api-server")]
fn pods_are_created_while_the_webhook_is_down() {
    let cluster = shared_cluster();
    let webhook = cluster.replica(&[]);
    wait_for_calls(&cluster);
    drop(webhook);
    let made = create_pod_in_cluster(&cluster, &pod("webhook-down")).object;
    assert!(!has_redis(&made));
    // The kubelet provides the variables.
    assert_eq!(made["spec"]["enableServiceLinks"], true);
}

/// Creates pods until it is stopped, and counts them and those without variables.
struct Load {
    stop: Arc<AtomicBool>,
    thread: thread::JoinHandle<(u32, Vec<String>)>,
}

impl Load {
    fn start(cluster: &WebhookCluster, prefix: &'static str) -> Self {
        let sender = Sender::new(cluster.api.kubeconfig());
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let (mut count, mut missed) = (0, Vec::new());
            while !stopped.load(Ordering::Relaxed) {
                let name = format!("{prefix}-{count}");
                let response = sender.send("POST", PODS, JSON, &pod(&name));
                assert_eq!(response.status, 201, "{}", response.object);
                if !has_redis(&response.object) {
                    missed.push(name);
                }
                count += 1;
            }
            (count, missed)
        });
        Self { stop, thread }
    }

    fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        let (count, missed) = self.thread.join().expect("no pod is refused");
        assert!(count > 20, "{count} pods");
        assert_eq!(missed, Vec::<String>::new(), "of {count} pods");
    }
}

#[test]
#[cfg_attr(not(feature = "api-server"), ignore = "needs KUBEBUILDER_ASSETS and the feature api-server")]
fn certificates_are_renewed_under_load_without_missing_a_pod() {
    let cluster = shared_cluster();
    // A valid certificate would not be renewed for a shorter lifetime.
    cluster.api.delete("Secret", SYSTEM, "portico-webhook-tls");
    let _webhook = cluster.replica(&["--leaf-life", "6", "--ca-life", "12"]);
    wait_for_calls(&cluster);
    let load = Load::start(&cluster, "renewal");
    let (mut leaves, mut bundles) = (Vec::new(), Vec::new());
    eventually("certificate and CA were renewed", || {
        let secret = cluster.secret()?;
        for (seen, name) in [(&mut leaves, "tls.crt"), (&mut bundles, "ca.crt")] {
            let text = text(&secret, name);
            if !seen.contains(&text) {
                seen.push(text);
            }
        }
        (leaves.len() >= 4 && bundles.len() >= 3).then_some(())
    });
    load.end();
}

/// Distributes connections to one port among several replicas, like a service.
struct Balancer {
    port: u16,
    replicas: Arc<Mutex<Vec<u16>>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Balancer {
    fn start(port: u16, replicas: Vec<u16>) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).expect("listen");
        let replicas = Arc::new(Mutex::new(replicas));
        let turns = Arc::clone(&replicas);
        let thread = thread::spawn(move || {
            for (turn, client) in listener.incoming().enumerate() {
                let replicas = turns.lock().expect("no thread panics with it").clone();
                if replicas.is_empty() {
                    return;
                }
                let port = replicas[turn % replicas.len()];
                if let (Ok(client), Ok(replica)) = (client, TcpStream::connect(("127.0.0.1", port))) {
                    copy(&client, &replica);
                    copy(&replica, &client);
                }
            }
        });
        Self { port, replicas, thread: Some(thread) }
    }

    fn set(&self, replicas: Vec<u16>) {
        *self.replicas.lock().expect("no thread panics with it") = replicas;
    }
}

impl Drop for Balancer {
    /// Closes the listener.
    fn drop(&mut self) {
        self.set(Vec::new());
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        self.thread.take().expect("only once").join().expect("the thread does not panic");
    }
}

/// Copies what one connection sends to the other.
fn copy(from: &TcpStream, to: &TcpStream) {
    let (mut from, mut to) = (from.try_clone().expect("a handle"), to.try_clone().expect("a handle"));
    thread::spawn(move || {
        let _ = io::copy(&mut from, &mut to);
        let _ = to.shutdown(std::net::Shutdown::Write);
    });
}

#[test]
#[cfg_attr(not(feature = "api-server"), ignore = "needs KUBEBUILDER_ASSETS and the feature api-server")]
fn restart_of_one_of_two_replicas_misses_no_pod() {
    let cluster = shared_cluster();
    let ports = [free_port(), free_port()];
    let mut replicas = ports.map(|port| Some(cluster.replica_at(port, &[])));
    let balancer = Balancer::start(cluster.port, ports.to_vec());
    wait_for_calls(&cluster);
    let load = Load::start(&cluster, "restart");
    let start = Instant::now();
    for turn in 0..4 {
        let (down, up) = (ports[turn % 2], ports[(turn + 1) % 2]);
        let replica = replicas[turn % 2].take().expect("it runs");
        replica.terminate();
        eventually("it is not ready", || (replica.readyz().0 == 503).then_some(()));
        balancer.set(vec![up]);
        assert!(replica.wait().success());
        replicas[turn % 2] = Some(cluster.replica_at(down, &[]));
        balancer.set(ports.to_vec());
    }
    assert!(start.elapsed() > Duration::from_secs(3));
    load.end();
}
