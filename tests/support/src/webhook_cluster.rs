//! A cluster for the webhook: an API server with a service, and webhook replicas that it can call.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::apiserver::ApiServer;
use crate::eventually::eventually;
use crate::temp_dir::TempDir;
use crate::webhook::{Webhook, free_port};

pub const WEBHOOK_CONFIGURATION: &str = "MutatingWebhookConfiguration";
pub const SYSTEM: &str = "portico-system";
/// The prefix of the names of managed ConfigMaps.
pub const MANAGED_PREFIX: &str = "portico-env-";

/// An API server and a directory for logs.
pub struct WebhookCluster {
    pub api: ApiServer,
    pub dir: TempDir,
    pub port: u16,
}

impl WebhookCluster {
    pub fn new(api: ApiServer) -> Self {
        for namespace in [SYSTEM, "default", "team"] {
            api.put(json!({"kind": "Namespace", "metadata": {"name": namespace}}));
        }
        api.put(service("redis", 11, 6379));
        Self { api, dir: TempDir::new("webhook"), port: free_port() }
    }

    /// Starts a replica at this port and waits until it is ready. The API server calls `self.port`.
    pub fn replica_at(&self, port: u16, args: &[&str]) -> Webhook {
        let kubeconfig = self.api.kubeconfig().to_str().expect("a path").to_owned();
        let url = format!("https://127.0.0.1:{}/mutate", self.port);
        let mut all = vec!["--kubeconfig", &kubeconfig, "--url", &url, "--drain", "1"];
        all.extend(args);
        Webhook::start_ready(self.dir.path(), port, &all)
    }

    /// Starts a replica at the port that the API server calls.
    pub fn replica(&self, args: &[&str]) -> Webhook {
        self.replica_at(self.port, args)
    }

    /// Waits until the webhook configuration exists and has a CA bundle, and returns it.
    pub fn configuration(&self) -> Value {
        eventually("the webhook is registered", || {
            let found = self.api.get(WEBHOOK_CONFIGURATION, "", "portico-webhook")?;
            found["webhooks"][0]["clientConfig"]["caBundle"].is_string().then_some(found)
        })
    }

    /// The Secret of the certificates.
    pub fn secret(&self) -> Option<Value> {
        self.api.get("Secret", SYSTEM, "portico-webhook-tls")
    }

    /// The managed ConfigMaps of a namespace.
    pub fn config_maps(&self, namespace: &str) -> Vec<Value> {
        let path = format!("/api/v1/namespaces/{namespace}/configmaps");
        let list = self.api.send("GET", &path, "application/json", &Value::Null).object;
        let items = list["items"].as_array().cloned().unwrap_or_default();
        let is_managed = |map: &Value| {
            map["metadata"]["name"].as_str().is_some_and(|name| name.starts_with(MANAGED_PREFIX))
        };
        // Objects in a list have no kind.
        let with_kind = |mut map: Value| {
            map["kind"] = "ConfigMap".into();
            map
        };
        items.into_iter().filter(is_managed).map(with_kind).collect()
    }
}

/// A service with the address 10.0.0.x and one port.
pub fn service(name: &str, number: u8, port: u16) -> Value {
    json!({"kind": "Service", "metadata": {"name": name, "namespace": "default"}, "spec": {
        "clusterIP": format!("10.0.0.{number}"), "ports": [{"port": port, "protocol": "TCP"}]}})
}

/// Decodes an entry of the Secret.
pub fn text(secret: &Value, name: &str) -> String {
    let bytes = STANDARD.decode(secret["data"][name].as_str().expect("an entry")).expect("base64");
    String::from_utf8(bytes).expect("text")
}
