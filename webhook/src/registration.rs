//! The MutatingWebhookConfiguration of this webhook, and its reconciliation.
//!
//! With the chart the webhook writes only `caBundle`, and its role and a policy permit no more. Without the chart it
//! manages the whole object. All replicas reconcile it: they write the same contents, with the resource version that
//! they read as the precondition.

use std::collections::BTreeSet;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use support::with_causes;
use tokio::sync::watch;

use crate::api::{Api, ApiError};
use crate::object_watch::ObjectWatch;

const COLLECTION: &str = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations";
/// The time that the API server waits for a response, in seconds.
pub(crate) const TIMEOUT_S: u64 = 3;
/// The label of Portico's own pods, which are excluded: the webhook's pods would wait for the webhook.
const PART_OF: (&str, &str) = ("app.kubernetes.io/part-of", "portico");
/// The delay after a failure.
const RETRY_DELAY: Duration = Duration::from_secs(2);

const NO_MIRROR: &str = "!has(object.metadata.annotations) || \
     !('kubernetes.io/config.mirror' in object.metadata.annotations)";
const NOT_REFUSED: &str = "!has(object.metadata.annotations) || \
     !('portico.dev/inject' in object.metadata.annotations) || \
     object.metadata.annotations['portico.dev/inject'] != 'false'";
/// A refused pod still gets `portico.dev/portals` from its namespace, unless it has its own or no portals.
const WITHOUT_PORTALS: &str = "(!('portico.dev/portals' in object.metadata.annotations) && \
     (!has(object.spec.hostNetwork) || !object.spec.hostNetwork))";
const NEW_EPHEMERAL: &str = "has(object.spec.ephemeralContainers) && \
     (!has(oldObject.spec.ephemeralContainers) || \
     size(object.spec.ephemeralContainers) > size(oldObject.spec.ephemeralContainers))";

/// The address at which the API server calls the webhook.
#[derive(Debug, Clone)]
pub(crate) enum Address {
    Service { namespace: String, name: String },
    Url(String),
}

/// The CA bundle of the serving certificate.
#[derive(Debug, Clone)]
pub(crate) enum CaBundle {
    /// There is no certificate yet.
    Unknown,
    /// CA certificates, PEM.
    Pem(String),
    /// Another component writes `caBundle`.
    External,
}

/// The desired MutatingWebhookConfiguration.
#[derive(Debug, Clone)]
pub(crate) struct Registration {
    pub(crate) name: String,
    /// The namespaces whose pods are never mutated.
    pub(crate) excepted: BTreeSet<String>,
    pub(crate) address: Address,
    /// Whether the webhook manages the whole object, and not only `caBundle`.
    pub(crate) is_managed: bool,
}

impl Registration {
    /// Reconciles the object whenever it or the CA bundle changes.
    pub(crate) async fn run(self, api: Api, mut ca_bundle: watch::Receiver<CaBundle>) {
        let mut object = ObjectWatch::start(&api, COLLECTION, &self.name);
        loop {
            let current = ca_bundle.borrow_and_update().clone();
            let step = async {
                match current {
                    CaBundle::Unknown => std::future::pending().await,
                    ca_bundle => self.reconcile(&api, &ca_bundle).await?,
                }
                object.changed().await;
                Ok::<_, ApiError>(())
            };
            let result = tokio::select! {
                result = step => result,
                changed = ca_bundle.changed() => match changed {
                    Ok(()) => continue,
                    Err(_) => return,
                },
            };
            match result {
                Err(error) if error.is_conflict() => {}
                Err(error) => {
                    tracing::error!(
                        error = with_causes(&error),
                        "failed to reconcile webhook configuration; will retry"
                    );
                    tokio::time::sleep(RETRY_DELAY).await;
                }
                Ok(()) => {}
            }
        }
    }

    /// Creates or corrects the object.
    async fn reconcile(&self, api: &Api, ca_bundle: &CaBundle) -> Result<(), ApiError> {
        let found = api.find(COLLECTION, &self.name).await?;
        let Some(mut object) = found else {
            if !self.is_managed {
                tracing::warn!(name = self.name, "the MutatingWebhookConfiguration does not exist");
                return Ok(());
            }
            api.create(COLLECTION, &self.object(ca_bundle)).await?;
            tracing::info!(name = self.name, "webhook configuration created");
            return Ok(());
        };
        let webhooks = if self.is_managed {
            self.webhooks(ca_bundle, &object["webhooks"])
        } else {
            with_ca_bundle(ca_bundle, object["webhooks"].clone())
        };
        if object["webhooks"] != webhooks {
            object["webhooks"] = webhooks;
            api.replace(&format!("{COLLECTION}/{}", self.name), &object).await?;
            tracing::info!(name = self.name, whole = self.is_managed, "webhook configuration corrected");
        }
        Ok(())
    }

    /// Returns the whole object.
    fn object(&self, ca_bundle: &CaBundle) -> Value {
        let labels = json!({"app.kubernetes.io/managed-by": "portico-webhook", PART_OF.0: PART_OF.1});
        json!({
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "MutatingWebhookConfiguration",
            "metadata": {"name": self.name, "labels": labels},
            "webhooks": self.webhooks(ca_bundle, &Value::Null),
        })
    }

    /// Returns two webhooks, so that each fails separately. Every field is set, so that the API server's defaults are
    /// not a difference.
    fn webhooks(&self, ca_bundle: &CaBundle, found: &Value) -> Value {
        let conditions = |refused: &str, more: &[(&str, &str)]| {
            let conditions = [("no-mirror", NO_MIRROR), ("not-refused", refused)];
            let conditions = conditions.iter().chain(more);
            conditions.map(|(name, expression)| json!({"name": name, "expression": expression})).collect()
        };
        let reviewed = format!("{NOT_REFUSED} || {WITHOUT_PORTALS}");
        let entries: [(&str, &str, &str, Vec<Value>); 2] = [
            ("pods.portico.dev", "CREATE", "pods", conditions(&reviewed, &[])),
            (
                "ephemeralcontainers.portico.dev",
                "UPDATE",
                "pods/ephemeralcontainers",
                conditions(NOT_REFUSED, &[("new-ephemeral", NEW_EPHEMERAL)]),
            ),
        ];
        let entries = entries.into_iter().enumerate().map(|(index, (name, operation, resource, conditions))| {
            json!({
                "name": name,
                "clientConfig": self.client_config(ca_bundle, &found[index]["clientConfig"]["caBundle"]),
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

    fn client_config(&self, ca_bundle: &CaBundle, found: &Value) -> Value {
        let mut config = match &self.address {
            Address::Service { namespace, name } => {
                json!({"service": {"namespace": namespace, "name": name, "path": "/mutate", "port": 443}})
            }
            Address::Url(url) => json!({"url": url}),
        };
        let bundle = match ca_bundle {
            CaBundle::Pem(bundle) => STANDARD.encode(bundle).into(),
            CaBundle::External | CaBundle::Unknown => found.clone(),
        };
        if !bundle.is_null() {
            config["caBundle"] = bundle;
        }
        config
    }
}

/// Sets `caBundle` in the webhooks that the chart registered.
fn with_ca_bundle(ca_bundle: &CaBundle, mut webhooks: Value) -> Value {
    if let CaBundle::Pem(bundle) = ca_bundle {
        for webhook in webhooks.as_array_mut().into_iter().flatten() {
            webhook["clientConfig"]["caBundle"] = STANDARD.encode(bundle).into();
        }
    }
    webhooks
}
