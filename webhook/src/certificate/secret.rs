//! The self-managed CA in a Secret, which all replicas share.
//!
//! A replica that finds a certificate due renews it and replaces the Secret, with the resource version that it read as
//! the precondition; a replica that comes second reads the result of the first. So there is no leader.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use support::with_causes;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::api::{Api, ApiError};
use crate::certificate::{CertLifetimes, CertResolver, CertificateAuthority};
use crate::clock::now_s;
use crate::object_watch::ObjectWatch;
use crate::registration::CaBundle;

/// The delay after a failure.
const RETRY_DELAY: Duration = Duration::from_secs(2);
/// The minimum interval between renewals, however short a lifetime is.
const RENEWAL_MIN: Duration = Duration::from_millis(500);
/// The number of consecutive conflicts with other replicas after which an attempt fails.
const CONFLICTS_MAX: usize = 5;

/// The Secret of the CA.
pub(crate) struct CaSecret {
    pub(crate) api: Api,
    pub(crate) namespace: String,
    pub(crate) name: String,
    /// The names of the serving certificate.
    pub(crate) names: Vec<String>,
    pub(crate) lifetimes: CertLifetimes,
}

/// A failure to reconcile the Secret.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SecretError {
    /// The Secret could not be read or written.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// A certificate could not be issued.
    #[error(transparent)]
    Issue(#[from] crate::certificate::ca::IssueError),
    /// The certificate is unusable.
    #[error(transparent)]
    Certificate(#[from] crate::certificate::cert_resolver::CertificateError),
}

impl CaSecret {
    /// Reconciles the Secret, serves its certificate, and sends its CA bundle.
    pub(crate) async fn run(self, resolver: Arc<CertResolver>, ca_bundle: watch::Sender<CaBundle>) {
        let mut secret = ObjectWatch::start(&self.api, &self.collection(), &self.name);
        let mut last = None;
        loop {
            let ca = match self.reconcile(last.as_ref()).await {
                Ok(current) => current,
                Err(error) => {
                    tracing::error!(
                        error = with_causes(&error),
                        "certificate renewal failed; keeping the previous one"
                    );
                    tokio::time::sleep(RETRY_DELAY).await;
                    continue;
                }
            };
            if last.as_ref() != Some(&ca) {
                // The registration must know the CA before a client sees the certificate.
                ca_bundle.send_replace(CaBundle::Pem(ca.bundle.clone()));
                match ca.serving_cert() {
                    Ok(cert) => {
                        tracing::info!(secret = self.name, ends_s = cert.ends_s, "certificate loaded");
                        resolver.set(cert);
                    }
                    Err(error) => tracing::error!(error = with_causes(&error), "failed to load certificate"),
                }
                last = Some(ca.clone());
            }
            let due = ca.renewal_in(&self.names, now_s()).max(RENEWAL_MIN);
            let _ = timeout(due, secret.changed()).await;
        }
    }

    /// Reconciles the Secret until there is no conflict, and returns the CA.
    async fn reconcile(
        &self,
        last: Option<&CertificateAuthority>,
    ) -> Result<CertificateAuthority, SecretError> {
        let mut conflicts = 0;
        loop {
            match self.try_reconcile(last).await {
                Err(SecretError::Api(error)) if error.is_conflict() && conflicts < CONFLICTS_MAX => {
                    conflicts += 1;
                }
                result => return result,
            }
        }
    }

    async fn try_reconcile(
        &self,
        last: Option<&CertificateAuthority>,
    ) -> Result<CertificateAuthority, SecretError> {
        let found = self.api.find(&self.collection(), &self.name).await?;
        let Some(found) = found else {
            // If the Secret was deleted, restore the CA that clients trust.
            let ca = match last {
                Some(last) => last.clone(),
                None => CertificateAuthority::new(&self.names, self.lifetimes, now_s())?,
            };
            self.api.create(&self.collection(), &self.object(&ca, None)).await?;
            tracing::info!(secret = self.name, is_new = last.is_none(), "created CA secret");
            return Ok(ca);
        };
        let ca = parse(&found);
        let Some(renewed) = ca.renew(&self.names, self.lifetimes, now_s())? else {
            return Ok(ca);
        };
        let path = format!("{}/{}", self.collection(), self.name);
        self.api.replace(&path, &self.object(&renewed, Some(&found))).await?;
        tracing::info!(
            secret = self.name,
            ca = renewed.bundle != ca.bundle,
            certificate = renewed.certificate != ca.certificate,
            "renewed certificates"
        );
        Ok(renewed)
    }

    fn collection(&self) -> String {
        format!("/api/v1/namespaces/{}/secrets", self.namespace)
    }

    /// Returns the Secret of a CA, based on the earlier object.
    fn object(&self, ca: &CertificateAuthority, earlier: Option<&Value>) -> Value {
        let CertificateAuthority { bundle, ca_key, certificate, key } = ca;
        let mut object = earlier.cloned().unwrap_or_else(|| {
            let labels = json!({"app.kubernetes.io/managed-by": "portico-webhook"});
            let metadata = json!({"name": self.name, "namespace": self.namespace, "labels": labels});
            json!({"apiVersion": "v1", "kind": "Secret", "type": "Opaque", "metadata": metadata})
        });
        let entries = [("ca.crt", bundle), ("ca.key", ca_key), ("tls.crt", certificate), ("tls.key", key)];
        for (name, text) in entries {
            object["data"][name] = STANDARD.encode(text).into();
        }
        object
    }
}

/// Returns the CA in a Secret; unreadable entries are empty, and so are replaced.
fn parse(secret: &Value) -> CertificateAuthority {
    let text = |name: &str| {
        let bytes = secret["data"][name].as_str().and_then(|text| STANDARD.decode(text).ok());
        bytes.and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_default()
    };
    CertificateAuthority {
        bundle: text("ca.crt"),
        ca_key: text("ca.key"),
        certificate: text("tls.crt"),
        key: text("tls.key"),
    }
}
