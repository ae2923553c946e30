//! `CertificateAuthority`: an own authority, and the certificate that it has made for this server.
//!
//! All of it is text (PEM), as a Secret holds it. A new authority vouches beside the old one: whoever knows the old one
//! alone still trusts the certificate, which the old one has made, and by the time of the next certificate everybody
//! knows both. What must not go in here: where it is kept, and waiting.

use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use time::OffsetDateTime;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;

use crate::certificate::cert_resolver::{CertificateError, ServingCert, renewal_in, validity};

/// Clocks differ: what is made now is valid a little earlier, though never for most of a short life.
const CLOCK_SKEW_S_MAX: i64 = 300;

/// How long things last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CertLifetimes {
    pub(crate) leaf: Duration,
    pub(crate) ca: Duration,
}

/// An own authority and the server's certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CertificateAuthority {
    /// Who vouches: the newest first, then earlier ones.
    pub(crate) bundle: String,
    /// The key of the newest.
    pub(crate) ca_key: String,
    /// The server's certificate.
    pub(crate) certificate: String,
    /// Its key.
    pub(crate) key: String,
}

/// Why no certificate could be made.
#[derive(Debug, thiserror::Error)]
#[error("make a certificate")]
pub(crate) struct IssueError(#[from] rcgen::Error);

impl CertificateAuthority {
    /// A new authority, with a certificate for these names.
    pub(crate) fn new(names: &[String], lives: CertLifetimes, now_s: i64) -> Result<Self, IssueError> {
        let (bundle, ca_key) = self_signed(lives.ca, now_s)?;
        let (certificate, key) = signed(&bundle, &ca_key, names, lives.leaf, now_s)?;
        Ok(Self { bundle, ca_key, certificate, key })
    }

    /// The server's certificate, ready to be shown.
    pub(crate) fn serving_cert(&self) -> Result<ServingCert, CertificateError> {
        ServingCert::new(&self.certificate, &self.key)
    }

    /// How long until something in it is to be renewed; zero where it is of no use for these names.
    pub(crate) fn renewal_in(&self, names: &[String], now_s: i64) -> Duration {
        let (Some(vouching), Some(leaf)) = (self.vouching(), self.leaf(names)) else { return Duration::ZERO };
        renewal_in(vouching, now_s).min(leaf.renewal_in(now_s))
    }

    /// The same with everything renewed that is due; none: nothing is.
    pub(crate) fn renew(
        &self,
        names: &[String],
        lives: CertLifetimes,
        now_s: i64,
    ) -> Result<Option<Self>, IssueError> {
        if !self.renewal_in(names, now_s).is_zero() {
            return Ok(None);
        }
        let Some(vouching) = self.vouching().filter(|(_, ends_s)| *ends_s > now_s) else {
            return Self::new(names, lives, now_s).map(Some);
        };
        let mut renewed = self.clone();
        // By the authority that everybody knows, even if that is to be renewed now.
        if self.leaf(names).is_none_or(|leaf| leaf.renewal_in(now_s).is_zero()) {
            let left = Duration::from_secs((vouching.1 - now_s).unsigned_abs());
            let signed = signed(&self.bundle, &self.ca_key, names, lives.leaf.min(left), now_s);
            let Ok((certificate, key)) = signed else { return Self::new(names, lives, now_s).map(Some) };
            (renewed.certificate, renewed.key) = (certificate, key);
        }
        if renewal_in(vouching, now_s).is_zero() {
            let (newest, ca_key) = self_signed(lives.ca, now_s)?;
            renewed.bundle = newest + &self.living(now_s);
            renewed.ca_key = ca_key;
        }
        Ok(Some(renewed))
    }

    /// From when and until when the newest authority lasts; none: it is of no use.
    fn vouching(&self) -> Option<(i64, i64)> {
        let newest = CertificateDer::from_pem_slice(self.bundle.as_bytes()).ok()?;
        KeyPair::from_pem(&self.ca_key).ok()?;
        validity(&newest).ok()
    }

    fn leaf(&self, names: &[String]) -> Option<ServingCert> {
        self.serving_cert().ok().filter(|leaf| names.iter().all(|name| leaf.is_for(name)))
    }

    /// The certificates of the bundle that have not ended.
    fn living(&self, now_s: i64) -> String {
        const END: &str = "-----END CERTIFICATE-----\n";
        let lives = |text: &&str| {
            let certificate = CertificateDer::from_pem_slice(text.as_bytes()).ok();
            certificate.and_then(|one| validity(&one).ok()).is_some_and(|(_, ends_s)| ends_s > now_s)
        };
        self.bundle.split_inclusive(END).filter(lives).collect()
    }
}

/// The certificate and the key of a new authority.
fn self_signed(life: Duration, now_s: i64) -> Result<(String, String), rcgen::Error> {
    let mut params = params(Vec::new(), life, now_s)?;
    // Its time in its name: two authorities of one name and different keys could not be told apart.
    params.distinguished_name.push(DnType::CommonName, format!("portico-webhook authority {now_s}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    let key = KeyPair::generate()?;
    Ok((params.self_signed(&key)?.pem(), key.serialize_pem()))
}

/// A certificate for these names, and its key.
fn signed(
    bundle: &str,
    ca_key: &str,
    names: &[String],
    life: Duration,
    now_s: i64,
) -> Result<(String, String), rcgen::Error> {
    let newest = CertificateDer::from_pem_slice(bundle.as_bytes());
    let newest = newest.map_err(|_| rcgen::Error::CouldNotParseCertificate)?;
    let issuer = Issuer::from_ca_cert_der(&newest, KeyPair::from_pem(ca_key)?)?;
    let mut params = params(names.to_vec(), life, now_s)?;
    params.distinguished_name.push(DnType::CommonName, "portico-webhook");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate()?;
    Ok((params.signed_by(&key, &issuer)?.pem(), key.serialize_pem()))
}

fn params(names: Vec<String>, life: Duration, now_s: i64) -> Result<CertificateParams, rcgen::Error> {
    let life_s = i64::try_from(life.as_secs()).unwrap_or(i64::MAX);
    let at = |time_s: i64| OffsetDateTime::from_unix_timestamp(time_s).map_err(|_| rcgen::Error::Time);
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.not_before = at(now_s - CLOCK_SKEW_S_MAX.min(life_s / 10))?;
    params.not_after = at(now_s.saturating_add(life_s))?;
    Ok(params)
}

#[cfg(test)]
mod tests;
