//! The MutatingWebhookConfiguration: what it must say, and keeping it so.
//!
//! With the chart the webhook writes its caBundle alone, and no role or policy gives it more; without an installer it makes
//! all of it. All replicas keep it; each writes the same, and only if it is still as it was read. What must not go in here: what is
//! done with a pod.

use std::collections::BTreeSet;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::api::{Api, ApiError, named};
use crate::log::chain;

const COLLECTION: &str = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations";
/// How long the API server waits for an answer.
pub(crate) const TIMEOUT_S: u64 = 3;
/// Pods of Portico itself have this label; a CNI plugin that waited for a webhook would wait for itself.
const PART_OF: (&str, &str) = ("app.kubernetes.io/part-of", "portico");
/// The pause after a failure.
const RETRY: Duration = Duration::from_secs(2);

const NO_MIRROR: &str = "!has(object.metadata.annotations) || \
     !('kubernetes.io/config.mirror' in object.metadata.annotations)";
const NOT_REFUSED: &str = "!has(object.metadata.annotations) || \
     !('portico.dev/inject' in object.metadata.annotations) || \
     object.metadata.annotations['portico.dev/inject'] != 'false'";
const NEW_EPHEMERAL: &str = "has(object.spec.ephemeralContainers) && \
     (!has(oldObject.spec.ephemeralContainers) || \
     size(object.spec.ephemeralContainers) > size(oldObject.spec.ephemeralContainers))";

/// By which address the API server reaches us.
#[derive(Debug, Clone)]
pub(crate) enum Address {
    Service { namespace: String, name: String },
    Url(String),
}

/// Who vouches for our certificate.
#[derive(Debug, Clone)]
pub(crate) enum CaBundle {
    /// Nothing is known yet.
    Unknown,
    /// These certificates, PEM.
    Pem(String),
    /// Somebody else writes it into the configuration.
    External,
}

/// What is registered.
#[derive(Debug, Clone)]
pub(crate) struct Registration {
    pub(crate) name: String,
    /// The namespaces whose pods are left alone.
    pub(crate) excepted: BTreeSet<String>,
    pub(crate) address: Address,
    /// All of it is made and kept; otherwise who vouches is written into what is there.
    pub(crate) is_managed: bool,
}

impl Registration {
    /// Creates the configuration, and repairs it whenever it is not as it must be.
    pub(crate) async fn run(self, api: Api, mut vouching: watch::Receiver<CaBundle>) {
        loop {
            let known = vouching.borrow_and_update().clone();
            let step = async {
                let version = match known {
                    CaBundle::Unknown => std::future::pending().await,
                    known => self.settle(&api, &known).await?,
                };
                api.changed(COLLECTION, &named(&self.name), &version).await
            };
            let settled = tokio::select! {
                settled = step => settled,
                changed = vouching.changed() => match changed {
                    Ok(()) => continue,
                    Err(_) => return,
                },
            };
            match settled {
                Err(error) if error.is_conflict() => {}
                Err(error) => {
                    tracing::error!(error = chain(error), "keep the webhook registered");
                    tokio::time::sleep(RETRY).await;
                }
                Ok(()) => {}
            }
        }
    }

    /// Makes it what it must be; the answer is as of when it is so.
    async fn settle(&self, api: &Api, vouching: &CaBundle) -> Result<String, ApiError> {
        let (found, version) = api.find(COLLECTION, &self.name).await?;
        let Some(mut object) = found else {
            if !self.is_managed {
                tracing::warn!(name = self.name, "the MutatingWebhookConfiguration is not there");
                return Ok(version);
            }
            api.create(COLLECTION, &self.object(vouching)).await?;
            tracing::info!(name = self.name, "registered");
            return Ok(version);
        };
        let webhooks = if self.is_managed {
            self.webhooks(vouching, &object["webhooks"])
        } else {
            vouched(vouching, object["webhooks"].clone())
        };
        if object["webhooks"] != webhooks {
            object["webhooks"] = webhooks;
            api.replace(&format!("{COLLECTION}/{}", self.name), &object).await?;
            tracing::info!(
                name = self.name,
                whole = self.is_managed,
                "updated the MutatingWebhookConfiguration"
            );
        }
        Ok(version)
    }

    /// The whole configuration.
    fn object(&self, vouching: &CaBundle) -> Value {
        let labels = json!({"app.kubernetes.io/managed-by": "portico-webhook", PART_OF.0: PART_OF.1});
        json!({
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "MutatingWebhookConfiguration",
            "metadata": {"name": self.name, "labels": labels},
            "webhooks": self.webhooks(vouching, &Value::Null),
        })
    }

    /// Two entries, so that each fails for itself. Every field is said, or the API server's own word would differ.
    fn webhooks(&self, vouching: &CaBundle, found: &Value) -> Value {
        let conditions = |last: (&str, &str)| {
            let all = [("no-mirror", NO_MIRROR), ("not-refused", NOT_REFUSED), last];
            let conditions = all.into_iter().filter(|(name, _)| !name.is_empty());
            conditions.map(|(name, expression)| json!({"name": name, "expression": expression})).collect()
        };
        let entries: [(&str, &str, &str, Vec<Value>); 2] = [
            ("pods.portico.dev", "CREATE", "pods", conditions(("", ""))),
            (
                "ephemeralcontainers.portico.dev",
                "UPDATE",
                "pods/ephemeralcontainers",
                conditions(("new-ephemeral", NEW_EPHEMERAL)),
            ),
        ];
        let entries = entries.into_iter().enumerate().map(|(index, (name, operation, resource, conditions))| {
            json!({
                "name": name,
                "clientConfig": self.client_config(vouching, &found[index]["clientConfig"]["caBundle"]),
                "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": [operation],
                    "resources": [resource], "scope": "Namespaced"}],
                "failurePolicy": "Ignore",
                "matchPolicy": "Equivalent",
                "namespaceSelector": {"matchExpressions": [{"key": "kubernetes.io/metadata.name",
                    "operator": "NotIn", "values": self.excepted}]},
                "objectSelector": {"matchExpressions": [{"key": PART_OF.0, "operator": "NotIn", "values": [PART_OF.1]}]},
                "sideEffects": "None",
                "timeoutSeconds": TIMEOUT_S,
                "admissionReviewVersions": ["v1"],
                "reinvocationPolicy": "IfNeeded",
                "matchConditions": conditions,
            })
        });
        entries.collect()
    }

    fn client_config(&self, vouching: &CaBundle, found: &Value) -> Value {
        let mut config = match &self.address {
            Address::Service { namespace, name } => {
                json!({"service": {"namespace": namespace, "name": name, "path": "/mutate", "port": 443}})
            }
            Address::Url(url) => json!({"url": url}),
        };
        let bundle = match vouching {
            CaBundle::Pem(bundle) => STANDARD.encode(bundle).into(),
            CaBundle::External | CaBundle::Unknown => found.clone(),
        };
        if !bundle.is_null() {
            config["caBundle"] = bundle;
        }
        config
    }
}

/// Webhooks that somebody else has registered, with who vouches for our certificate.
fn vouched(vouching: &CaBundle, mut webhooks: Value) -> Value {
    if let CaBundle::Pem(bundle) = vouching {
        for webhook in webhooks.as_array_mut().into_iter().flatten() {
            webhook["clientConfig"]["caBundle"] = STANDARD.encode(bundle).into();
        }
    }
    webhooks
}
