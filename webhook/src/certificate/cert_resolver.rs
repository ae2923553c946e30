//! `CertResolver`: selects the current certificate for new connections.
//!
//! A connection that asks for a name that the certificate does not contain is rejected: its client looks for another
//! server.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio_rustls::rustls::client::verify_server_name;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert};
use tokio_rustls::rustls::sign::CertifiedKey;
use x509_parser::parse_x509_certificate;

/// An unusable certificate.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CertificateError {
    /// Not PEM.
    #[error("invalid PEM in {what}")]
    Pem {
        /// The certificate, or the key.
        what: &'static str,
        #[source]
        source: pem::Error,
    },
    /// No certificate.
    #[error("no certificate found")]
    Empty,
    /// Not an X.509 certificate.
    #[error("not an X.509 certificate")]
    Malformed,
    /// The key is invalid, or belongs to another certificate.
    #[error("certificate and key do not match")]
    Mismatch(#[source] tokio_rustls::rustls::Error),
}

/// A certificate chain with its key, and its validity.
#[derive(Debug, Clone)]
pub(crate) struct ServingCert {
    key: Arc<CertifiedKey>,
    /// The validity, in seconds since 1970.
    pub(crate) begins_s: i64,
    pub(crate) ends_s: i64,
}

impl ServingCert {
    /// Parses PEM.
    pub(crate) fn new(chain: &str, key: &str) -> Result<Self, CertificateError> {
        let refused = |what| move |source| CertificateError::Pem { what, source };
        let chain = CertificateDer::pem_slice_iter(chain.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .map_err(refused("certificate"))?;
        let (begins_s, ends_s) = validity(chain.first().ok_or(CertificateError::Empty)?)?;
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(refused("key"))?;
        let key = CertifiedKey::from_der(chain, key, &ring::default_provider());
        let key = key.map_err(CertificateError::Mismatch)?;
        Ok(Self { key: Arc::new(key), begins_s, ends_s })
    }

    /// Whether it is valid for this name or address.
    pub(crate) fn is_valid_for(&self, name: &str) -> bool {
        let parsed = self.key.end_entity_cert().and_then(ParsedCertificate::try_from);
        let (Ok(parsed), Ok(name)) = (parsed, ServerName::try_from(name)) else { return false };
        verify_server_name(&parsed, &name).is_ok()
    }

    /// Returns the time until two thirds of its lifetime have passed.
    pub(crate) fn renewal_in(&self, now_s: i64) -> Duration {
        renewal_in((self.begins_s, self.ends_s), now_s)
    }
}

/// Returns the time until two thirds of a lifetime have passed.
pub(crate) fn renewal_in((begins_s, ends_s): (i64, i64), now_s: i64) -> Duration {
    let due = begins_s + (ends_s - begins_s) / 3 * 2;
    Duration::from_secs(u64::try_from(due - now_s).unwrap_or(0))
}

/// Returns the validity of a certificate, in seconds since 1970.
pub(crate) fn validity(certificate: &[u8]) -> Result<(i64, i64), CertificateError> {
    let (_, parsed) = parse_x509_certificate(certificate).map_err(|_| CertificateError::Malformed)?;
    let validity = parsed.validity();
    Ok((validity.not_before.timestamp(), validity.not_after.timestamp()))
}

/// The current certificate; none at first.
#[derive(Debug, Default)]
pub(crate) struct CertResolver(RwLock<Option<ServingCert>>);

impl CertResolver {
    /// Replaces the certificate for new connections.
    pub(crate) fn set(&self, cert: ServingCert) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(cert);
    }

    /// Returns the time at which the current certificate expires, in seconds since 1970.
    pub(crate) fn ends_s(&self) -> Option<i64> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).as_ref().map(|cert| cert.ends_s)
    }
}

impl ResolvesServerCert for CertResolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let current = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let cert = current.as_ref()?;
        // A client that connects to an address sends no name.
        let is_valid = hello.server_name().is_none_or(|name| cert.is_valid_for(name));
        is_valid.then(|| Arc::clone(&cert.key))
    }
}
