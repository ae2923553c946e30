//! `CertificateAuthority`: the self-managed CA, and the serving certificate that it issued.
//!
//! Everything is PEM, as in the Secret. A new CA is added to the bundle before it issues a certificate: a client that
//! knows only the old one still trusts the current certificate, and by the time of the next certificate every client
//! knows both. This file neither stores anything nor waits.

use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use time::OffsetDateTime;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;

use crate::certificate::cert_resolver::{CertificateError, ServingCert, renewal_in, validity};

/// A certificate is valid from this long before it was issued, because clocks differ; at most a tenth of its lifetime.
const CLOCK_SKEW_S_MAX: i64 = 300;

/// The lifetimes of certificates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CertLifetimes {
    pub(crate) leaf: Duration,
    pub(crate) ca: Duration,
}

/// The CA and the serving certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CertificateAuthority {
    /// The CA certificates: the newest first, then earlier ones.
    pub(crate) bundle: String,
    /// The key of the newest CA certificate.
    pub(crate) ca_key: String,
    /// The serving certificate.
    pub(crate) certificate: String,
    /// Its key.
    pub(crate) key: String,
}

/// A failure to issue a certificate.
#[derive(Debug, thiserror::Error)]
#[error("failed to issue a certificate")]
pub(crate) struct IssueError(#[from] rcgen::Error);

impl CertificateAuthority {
    /// Creates a CA, and issues a certificate for these names.
    pub(crate) fn new(names: &[String], lifetimes: CertLifetimes, now_s: i64) -> Result<Self, IssueError> {
        let (bundle, ca_key) = self_signed(lifetimes.ca, now_s)?;
        let (certificate, key) = signed(&bundle, &ca_key, names, lifetimes.leaf, now_s)?;
        Ok(Self { bundle, ca_key, certificate, key })
    }

    /// Parses the serving certificate and its key.
    pub(crate) fn serving_cert(&self) -> Result<ServingCert, CertificateError> {
        ServingCert::new(&self.certificate, &self.key)
    }

    /// Returns the time until a certificate must be renewed; zero if one is invalid, or not valid for these names.
    pub(crate) fn renewal_in(&self, names: &[String], now_s: i64) -> Duration {
        let (Some(newest), Some(leaf)) = (self.newest(), self.leaf(names)) else { return Duration::ZERO };
        renewal_in(newest, now_s).min(leaf.renewal_in(now_s))
    }

    /// Returns a copy with all certificates renewed that are due, or `None` if none is.
    pub(crate) fn renew(
        &self,
        names: &[String],
        lifetimes: CertLifetimes,
        now_s: i64,
    ) -> Result<Option<Self>, IssueError> {
        if !self.renewal_in(names, now_s).is_zero() {
            return Ok(None);
        }
        let Some(newest) = self.newest().filter(|(_, ends_s)| *ends_s > now_s) else {
            return Self::new(names, lifetimes, now_s).map(Some);
        };
        let mut renewed = self.clone();
        // Issued by the CA that every client knows, even if that is renewed now.
        if self.leaf(names).is_none_or(|leaf| leaf.renewal_in(now_s).is_zero()) {
            let left = Duration::from_secs((newest.1 - now_s).unsigned_abs());
            let signed = signed(&self.bundle, &self.ca_key, names, lifetimes.leaf.min(left), now_s);
            let Ok((certificate, key)) = signed else { return Self::new(names, lifetimes, now_s).map(Some) };
            (renewed.certificate, renewed.key) = (certificate, key);
        }
        if renewal_in(newest, now_s).is_zero() {
            let (certificate, ca_key) = self_signed(lifetimes.ca, now_s)?;
            renewed.bundle = certificate + &self.unexpired(now_s);
            renewed.ca_key = ca_key;
        }
        Ok(Some(renewed))
    }

    /// Returns the validity of the newest CA certificate, or `None` if it or its key is invalid.
    fn newest(&self) -> Option<(i64, i64)> {
        let newest = CertificateDer::from_pem_slice(self.bundle.as_bytes()).ok()?;
        KeyPair::from_pem(&self.ca_key).ok()?;
        validity(&newest).ok()
    }

    fn leaf(&self, names: &[String]) -> Option<ServingCert> {
        self.serving_cert().ok().filter(|leaf| names.iter().all(|name| leaf.is_valid_for(name)))
    }

    /// Returns the CA certificates that have not expired.
    fn unexpired(&self, now_s: i64) -> String {
        const END: &str = "-----END CERTIFICATE-----\n";
        let is_unexpired = |text: &&str| {
            let certificate = CertificateDer::from_pem_slice(text.as_bytes()).ok();
            certificate.and_then(|one| validity(&one).ok()).is_some_and(|(_, ends_s)| ends_s > now_s)
        };
        self.bundle.split_inclusive(END).filter(is_unexpired).collect()
    }
}

/// Creates a CA certificate and its key.
fn self_signed(lifetime: Duration, now_s: i64) -> Result<(String, String), rcgen::Error> {
    let mut params = params(Vec::new(), lifetime, now_s)?;
    // The name contains the time, because clients cannot distinguish two CAs with one name and different keys.
    params.distinguished_name.push(DnType::CommonName, format!("portico-webhook authority {now_s}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    let key = KeyPair::generate()?;
    Ok((params.self_signed(&key)?.pem(), key.serialize_pem()))
}

/// Issues a certificate for these names, and its key.
fn signed(
    bundle: &str,
    ca_key: &str,
    names: &[String],
    lifetime: Duration,
    now_s: i64,
) -> Result<(String, String), rcgen::Error> {
    let newest = CertificateDer::from_pem_slice(bundle.as_bytes());
    let newest = newest.map_err(|_| rcgen::Error::CouldNotParseCertificate)?;
    let issuer = Issuer::from_ca_cert_der(&newest, KeyPair::from_pem(ca_key)?)?;
    let mut params = params(names.to_vec(), lifetime, now_s)?;
    params.distinguished_name.push(DnType::CommonName, "portico-webhook");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate()?;
    Ok((params.signed_by(&key, &issuer)?.pem(), key.serialize_pem()))
}

fn params(names: Vec<String>, lifetime: Duration, now_s: i64) -> Result<CertificateParams, rcgen::Error> {
    let lifetime_s = i64::try_from(lifetime.as_secs()).unwrap_or(i64::MAX);
    let at = |time_s: i64| OffsetDateTime::from_unix_timestamp(time_s).map_err(|_| rcgen::Error::Time);
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.not_before = at(now_s - CLOCK_SKEW_S_MAX.min(lifetime_s / 10))?;
    params.not_after = at(now_s.saturating_add(lifetime_s))?;
    Ok(params)
}

#[cfg(test)]
mod tests;
