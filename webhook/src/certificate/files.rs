//! A certificate from files, as cert-manager writes them, read again after each change.
//!
//! If the files are invalid, or do not match because only one of them is new, the previous certificate stays.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use kube_source::{FileWatch, watch_paths};
use tokio::sync::mpsc::{Receiver, channel};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::certificate::CertResolver;
use crate::certificate::cert_resolver::ServingCert;
use crate::registration::CaBundle;

/// The interval at which invalid files are read again without an event.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// A certificate and its key, in files.
#[derive(Debug)]
pub(crate) struct CertificateFiles {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
    /// The CA bundle; none if another component writes it into the registration.
    pub(crate) ca: Option<PathBuf>,
}

/// The contents of the files.
#[derive(Debug, PartialEq, Eq)]
struct Contents {
    certificate: String,
    key: String,
    ca: Option<String>,
}

impl CertificateFiles {
    /// Starts to serve the certificate in the files, and each new one. It sends the CA bundle before a certificate is
    /// used.
    pub(crate) fn watch(
        self,
        resolver: Arc<CertResolver>,
        ca_bundle: watch::Sender<CaBundle>,
    ) -> anyhow::Result<()> {
        let (wake, wakes) = channel(1);
        let mut paths = vec![self.certificate.clone(), self.key.clone()];
        paths.extend(self.ca.clone());
        let watch = watch_paths(paths, wake).context("failed to watch the certificate")?;
        tokio::spawn(self.run(resolver, ca_bundle, wakes, watch));
        Ok(())
    }

    async fn run(
        self,
        resolver: Arc<CertResolver>,
        ca_bundle: watch::Sender<CaBundle>,
        mut wakes: Receiver<()>,
        _watch: FileWatch,
    ) {
        let mut last = None;
        let mut is_valid = true;
        loop {
            if is_valid && wakes.recv().await.is_none() {
                return;
            }
            // Invalid files may be half of a change, so the next attempt does not wait for an event.
            if !is_valid && timeout(RETRY_INTERVAL, wakes.recv()).await == Ok(None) {
                return;
            }
            match self.read().await {
                Ok(read) if last.as_ref() == Some(&read) => is_valid = true,
                Ok(read) => match ServingCert::new(&read.certificate, &read.key) {
                    Ok(cert) => {
                        ca_bundle.send_replace(read.ca.clone().map_or(CaBundle::External, CaBundle::Pem));
                        let ends_s = cert.ends_s;
                        resolver.set(cert);
                        tracing::info!(file = %self.certificate.display(), ends_s, "certificate loaded");
                        (last, is_valid) = (Some(read), true);
                    }
                    Err(error) => is_valid = self.log_error(is_valid, &error.into()),
                },
                Err(error) => is_valid = self.log_error(is_valid, &error),
            }
        }
    }

    /// Logs the first of consecutive errors.
    fn log_error(&self, is_first: bool, error: &anyhow::Error) -> bool {
        if is_first {
            let file = self.certificate.display();
            tracing::error!(%file, error = format!("{error:#}"), "invalid certificate; keeping the previous one");
        }
        false
    }

    async fn read(&self) -> anyhow::Result<Contents> {
        let Self { certificate, key, ca } = self;
        let (certificate, key, ca) = (certificate.clone(), key.clone(), ca.clone());
        let read = move |path: PathBuf| {
            std::fs::read_to_string(&path).with_context(|| format!("failed to read {}", path.display()))
        };
        let texts = move || {
            let ca = ca.map(&read).transpose()?;
            Ok(Contents { certificate: read(certificate)?, key: read(key)?, ca })
        };
        tokio::task::spawn_blocking(texts).await?
    }
}
