//! `CertResolver`: the certificate in force, for whoever connects now.
//!
//! A connection that asks for a name which the certificate does not have is refused: it was meant for somebody else.
//! What must not go in here: where certificates come from.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio_rustls::rustls::client::verify_server_name;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert};
use tokio_rustls::rustls::sign::CertifiedKey;
use x509_parser::parse_x509_certificate;

/// Why a certificate cannot be shown.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CertificateError {
    /// It is no PEM.
    #[error("read {what} as PEM")]
    Pem {
        /// The certificate, or the key.
        what: &'static str,
        #[source]
        source: pem::Error,
    },
    /// There is none.
    #[error("find a certificate in what was given")]
    Empty,
    /// It is no certificate.
    #[error("read the certificate: it is no X.509 certificate")]
    Garbage,
    /// Certificate and key are of no use together.
    #[error("use the certificate with its key")]
    Unusable(#[source] tokio_rustls::rustls::Error),
}

/// A certificate with its key, and when it ends.
#[derive(Debug, Clone)]
pub(crate) struct ServingCert {
    key: Arc<CertifiedKey>,
    /// From when on, and until when, in seconds since 1970.
    pub(crate) begins_s: i64,
    pub(crate) ends_s: i64,
}

impl ServingCert {
    /// From PEM.
    pub(crate) fn new(chain: &str, key: &str) -> Result<Self, CertificateError> {
        let refused = |what| move |source| CertificateError::Pem { what, source };
        let chain = CertificateDer::pem_slice_iter(chain.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .map_err(refused("the certificate"))?;
        let (begins_s, ends_s) = validity(chain.first().ok_or(CertificateError::Empty)?)?;
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(refused("the key"))?;
        let key = CertifiedKey::from_der(chain, key, &ring::default_provider());
        let key = key.map_err(CertificateError::Unusable)?;
        Ok(Self { key: Arc::new(key), begins_s, ends_s })
    }

    /// Whether it is for this name or address.
    pub(crate) fn is_for(&self, name: &str) -> bool {
        let parsed = self.key.end_entity_cert().and_then(ParsedCertificate::try_from);
        let (Ok(parsed), Ok(name)) = (parsed, ServerName::try_from(name)) else { return false };
        verify_server_name(&parsed, &name).is_ok()
    }

    /// How long until two thirds of its life are over.
    pub(crate) fn renewal_in(&self, now_s: i64) -> Duration {
        renewal_in((self.begins_s, self.ends_s), now_s)
    }
}

/// How long until two thirds of a life are over.
pub(crate) fn renewal_in((begins_s, ends_s): (i64, i64), now_s: i64) -> Duration {
    let due = begins_s + (ends_s - begins_s) / 3 * 2;
    Duration::from_secs(u64::try_from(due - now_s).unwrap_or(0))
}

/// From when and until when a certificate lasts.
pub(crate) fn validity(certificate: &[u8]) -> Result<(i64, i64), CertificateError> {
    let (_, parsed) = parse_x509_certificate(certificate).map_err(|_| CertificateError::Garbage)?;
    let validity = parsed.validity();
    Ok((validity.not_before.timestamp(), validity.not_after.timestamp()))
}

/// The certificate in force; none at first.
#[derive(Debug, Default)]
pub(crate) struct CertResolver(RwLock<Option<ServingCert>>);

impl CertResolver {
    /// Shows this one from now on.
    pub(crate) fn set(&self, usable: ServingCert) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(usable);
    }

    /// When the one in force ends, in seconds since 1970; none: there is none.
    pub(crate) fn ends_s(&self) -> Option<i64> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).as_ref().map(|usable| usable.ends_s)
    }
}

impl ResolvesServerCert for CertResolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let shown = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let usable = shown.as_ref()?;
        // Whoever comes by an address names nothing.
        let is_meant = hello.server_name().is_none_or(|name| usable.is_for(name));
        is_meant.then(|| Arc::clone(&usable.key))
    }
}
