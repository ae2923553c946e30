//! A certificate from files, as cert-manager and others keep them: read again whenever they change.
//!
//! CertificateFiles that cannot be used, or do not belong together (one of two is new), leave what was shown before in force.
//! What must not go in here: making certificates.

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

/// How soon files that cannot be used are read again, if nothing tells of a change.
const RETRY: Duration = Duration::from_secs(1);

/// A certificate and its key, in files.
#[derive(Debug)]
pub(crate) struct CertificateFiles {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
    /// Who vouches for it; none: somebody else tells the API server.
    pub(crate) authority: Option<PathBuf>,
}

/// What is in them.
#[derive(Debug, PartialEq, Eq)]
struct Texts {
    certificate: String,
    key: String,
    authority: Option<String>,
}

impl CertificateFiles {
    /// Shows what is in the files, and from then on whatever comes into them; tells who vouches for it before.
    pub(crate) fn watch(self, shown: Arc<CertResolver>, tell: watch::Sender<CaBundle>) -> anyhow::Result<()> {
        let (wake, woken) = channel(1);
        let mut paths = vec![self.certificate.clone(), self.key.clone()];
        paths.extend(self.authority.clone());
        let watch = watch_paths(paths, wake).context("watch the certificate")?;
        tokio::spawn(self.run(shown, tell, woken, watch));
        Ok(())
    }

    async fn run(
        self,
        shown: Arc<CertResolver>,
        tell: watch::Sender<CaBundle>,
        mut woken: Receiver<()>,
        _watch: FileWatch,
    ) {
        let mut last = None;
        let mut is_good = true;
        loop {
            if is_good && woken.recv().await.is_none() {
                return;
            }
            // A fault may be half of a change: no need to wait for the other half to be told.
            if !is_good && timeout(RETRY, woken.recv()).await == Ok(None) {
                return;
            }
            match self.read().await {
                Ok(read) if last.as_ref() == Some(&read) => is_good = true,
                Ok(read) => match ServingCert::new(&read.certificate, &read.key) {
                    Ok(usable) => {
                        tell.send_replace(read.authority.clone().map_or(CaBundle::External, CaBundle::Pem));
                        let ends_s = usable.ends_s;
                        shown.set(usable);
                        tracing::info!(file = %self.certificate.display(), ends_s, "a certificate is in force");
                        (last, is_good) = (Some(read), true);
                    }
                    Err(error) => is_good = self.complain(is_good, &error.into()),
                },
                Err(error) => is_good = self.complain(is_good, &error),
            }
        }
    }

    /// Says so once in a row.
    fn complain(&self, is_first: bool, error: &anyhow::Error) -> bool {
        if is_first {
            let file = self.certificate.display();
            tracing::error!(%file, error = format!("{error:#}"), "the certificate cannot be used; the last one stays");
        }
        false
    }

    async fn read(&self) -> anyhow::Result<Texts> {
        let Self { certificate, key, authority } = self;
        let (certificate, key, authority) = (certificate.clone(), key.clone(), authority.clone());
        let read = move |path: PathBuf| {
            std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
        };
        let texts = move || {
            let authority = authority.map(&read).transpose()?;
            Ok(Texts { certificate: read(certificate)?, key: read(key)?, authority })
        };
        tokio::task::spawn_blocking(texts).await?
    }
}
