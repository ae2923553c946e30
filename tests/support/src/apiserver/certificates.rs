//! Certificates of a server on the loopback address, signed by a CA for the test.

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

/// A certificate, its key, and the CA certificate, all as PEM.
pub struct Certificates {
    pub ca_certificate: String,
    pub certificate: String,
    pub key: String,
    pub public_key: String,
}

impl Certificates {
    pub fn new() -> Self {
        let mut params = CertificateParams::new([]).expect("parameters of a CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let ca_certificate = params.self_signed(&key).expect("a CA certificate").pem();
        let issuer = Issuer::new(params, key);
        let names = ["127.0.0.1".to_owned(), "localhost".to_owned()];
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(names).expect("the names of a server");
        let certificate = params.signed_by(&key, &issuer).expect("a certificate").pem();
        Self { ca_certificate, certificate, key: key.serialize_pem(), public_key: key.public_key_pem() }
    }
}
