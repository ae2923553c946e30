//! The own authority in a Secret, which all replicas share.
//!
//! Whoever finds something due renews it and replaces the Secret, if it is still as it was; whoever comes second reads
//! what the first has made. So there is no leader. What must not go in here: what is due.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::api::{Api, ApiError, named};
use crate::certificate::{CertLifetimes, CertResolver, CertificateAuthority};
use crate::clock::now_s;
use crate::log::chain;
use crate::registration::CaBundle;

/// The pause after a failure.
const RETRY: Duration = Duration::from_secs(2);
/// Renewals are at least so far apart, however short a life is.
const RENEWAL_MIN: Duration = Duration::from_millis(500);
/// How often in a row somebody else may be faster.
const CONFLICTS_MAX: usize = 5;

/// The Secret of an authority.
pub(crate) struct CaSecret {
    pub(crate) api: Api,
    pub(crate) namespace: String,
    pub(crate) name: String,
    /// What the certificate is for.
    pub(crate) names: Vec<String>,
    pub(crate) lives: CertLifetimes,
}

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SecretError {
    /// The Secret cannot be read or written.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// Nothing could be made.
    #[error(transparent)]
    Issue(#[from] crate::certificate::ca::IssueError),
    /// What was made is of no use.
    #[error(transparent)]
    Certificate(#[from] crate::certificate::cert_resolver::CertificateError),
}

impl CaSecret {
    /// Keeps the Secret, shows its certificate, and tells who vouches for it.
    pub(crate) async fn run(self, shown: Arc<CertResolver>, bundle: watch::Sender<CaBundle>) {
        let mut last = None;
        loop {
            let (authority, version) = match self.settled(last.as_ref()).await {
                Ok(settled) => settled,
                Err(error) => {
                    tracing::error!(error = chain(error), "keep the certificate; the last one stays");
                    tokio::time::sleep(RETRY).await;
                    continue;
                }
            };
            if last.as_ref() != Some(&authority) {
                // Who vouches for it is to be known before it is seen.
                bundle.send_replace(CaBundle::Pem(authority.bundle.clone()));
                match authority.serving_cert() {
                    Ok(usable) => {
                        tracing::info!(
                            secret = self.name,
                            ends_s = usable.ends_s,
                            "a certificate is in force"
                        );
                        shown.set(usable);
                    }
                    Err(error) => tracing::error!(error = chain(error), "use the certificate"),
                }
                last = Some(authority.clone());
            }
            let due = authority.renewal_in(&self.names, now_s()).max(RENEWAL_MIN);
            let selector = named(&self.name);
            let collection = self.collection();
            let changed = self.api.changed(&collection, &selector, &version);
            if let Ok(Err(_)) = timeout(due, changed).await {
                tokio::time::sleep(RETRY).await;
            }
        }
    }

    /// What is in the Secret once nothing in it is due, and the Secret's version.
    async fn settled(
        &self,
        last: Option<&CertificateAuthority>,
    ) -> Result<(CertificateAuthority, String), SecretError> {
        let mut conflicts = 0;
        loop {
            match self.settle(last).await {
                Err(SecretError::Api(error)) if error.is_conflict() && conflicts < CONFLICTS_MAX => {
                    conflicts += 1;
                }
                settled => return settled,
            }
        }
    }

    async fn settle(
        &self,
        last: Option<&CertificateAuthority>,
    ) -> Result<(CertificateAuthority, String), SecretError> {
        let (found, version) = self.api.find(&self.collection(), &self.name).await?;
        let Some(found) = found else {
            // Where somebody has deleted it, what everybody trusts is put back.
            let authority = match last {
                Some(last) => last.clone(),
                None => CertificateAuthority::new(&self.names, self.lives, now_s())?,
            };
            self.api.create(&self.collection(), &self.object(&authority, None)).await?;
            tracing::info!(secret = self.name, is_new = last.is_none(), "made the Secret of an authority");
            return Ok((authority, version));
        };
        let authority = authority(&found);
        let Some(renewed) = authority.renew(&self.names, self.lives, now_s())? else {
            return Ok((authority, version));
        };
        let path = format!("{}/{}", self.collection(), self.name);
        self.api.replace(&path, &self.object(&renewed, Some(&found))).await?;
        tracing::info!(
            secret = self.name,
            authority = renewed.bundle != authority.bundle,
            certificate = renewed.certificate != authority.certificate,
            "renewed"
        );
        Ok((renewed, version))
    }

    fn collection(&self) -> String {
        format!("/api/v1/namespaces/{}/secrets", self.namespace)
    }

    /// The Secret that holds an authority, in the place of another one.
    fn object(&self, authority: &CertificateAuthority, earlier: Option<&Value>) -> Value {
        let CertificateAuthority { bundle, ca_key, certificate, key } = authority;
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

/// The authority that a Secret holds; what cannot be read is empty, and so of no use.
fn authority(secret: &Value) -> CertificateAuthority {
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
