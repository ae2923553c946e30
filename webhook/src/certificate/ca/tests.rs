//! The CA over its lifetime: when certificates are renewed, and which clients trust them.

use std::sync::Arc;
use std::time::Duration;

use tokio_rustls::rustls::client::WebPkiServerVerifier;
use tokio_rustls::rustls::client::danger::ServerCertVerifier;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{RootCertStore, crypto::ring};

use super::{CertLifetimes, CertificateAuthority};

const DAY_S: i64 = 86_400;
const NOW_S: i64 = 1_790_000_000;
const LIFETIMES: CertLifetimes =
    CertLifetimes { leaf: Duration::from_secs(90 * 86_400), ca: Duration::from_secs(365 * 86_400) };

fn names() -> Vec<String> {
    vec!["portico-webhook.portico-system.svc".to_owned(), "127.0.0.1".to_owned()]
}

/// Whether a client with this CA bundle trusts the serving certificate at a time.
fn is_trusted(bundle: &str, ca: &CertificateAuthority, now_s: i64) -> bool {
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(bundle.as_bytes()) {
        roots.add(root.expect("PEM")).expect("a CA");
    }
    let provider = Arc::new(ring::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build();
    let leaf = CertificateDer::from_pem_slice(ca.certificate.as_bytes()).expect("PEM");
    let now = UnixTime::since_unix_epoch(Duration::from_secs(now_s.try_into().expect("after 1970")));
    names().iter().all(|name| {
        let name = ServerName::try_from(name.as_str()).expect("a name");
        verifier.as_ref().expect("a verifier").verify_server_cert(&leaf, &[], &name, &[], now).is_ok()
    })
}

#[test]
fn certificate_is_valid_for_its_names_and_no_other() {
    let ca = CertificateAuthority::new(&names(), LIFETIMES, NOW_S).expect("a CA");
    let cert = ca.serving_cert().expect("valid");
    assert!(names().iter().all(|name| cert.is_valid_for(name)));
    assert!(!cert.is_valid_for("portico-webhook.portico-system.svc.example"));
    assert!(!cert.is_valid_for("10.0.0.1"));
    assert!(is_trusted(&ca.bundle, &ca, NOW_S));
}

#[test]
fn nothing_is_renewed_before_two_thirds_of_its_lifetime() {
    let ca = CertificateAuthority::new(&names(), LIFETIMES, NOW_S).expect("a CA");
    assert_eq!(ca.renew(&names(), LIFETIMES, NOW_S + 59 * DAY_S).expect("no error"), None);
    assert!(ca.renew(&names(), LIFETIMES, NOW_S + 61 * DAY_S).expect("no error").is_some());
}

#[test]
fn clients_with_the_previous_or_the_next_bundle_trust_each_certificate_of_ten_years() {
    let mut ca = CertificateAuthority::new(&names(), LIFETIMES, NOW_S).expect("a CA");
    let (mut leaves, mut bundles) = (0, 0);
    for day in 0..3_650 {
        let now_s = NOW_S + day * DAY_S;
        if let Some(renewed) = ca.renew(&names(), LIFETIMES, now_s).expect("no error") {
            // A replica may be behind the registration, and the registration behind a replica.
            assert!(is_trusted(&renewed.bundle, &ca, now_s), "day {day}");
            assert!(is_trusted(&ca.bundle, &renewed, now_s), "day {day}");
            leaves += i32::from(renewed.certificate != ca.certificate);
            bundles += i32::from(renewed.bundle != ca.bundle);
            assert!(renewed.bundle.matches("BEGIN").count() <= 3);
            ca = renewed;
        }
    }
    assert!((55..=65).contains(&leaves), "{leaves}");
    assert!((13..=16).contains(&bundles), "{bundles}");
}

#[test]
fn unusable_parts_are_replaced() {
    let good = CertificateAuthority::new(&names(), LIFETIMES, NOW_S).expect("a CA");
    let others = [
        CertificateAuthority { bundle: String::new(), ..good.clone() },
        CertificateAuthority { bundle: "garbage".to_owned(), ..good.clone() },
        CertificateAuthority { ca_key: String::new(), ..good.clone() },
        CertificateAuthority { certificate: "garbage".to_owned(), ..good.clone() },
        CertificateAuthority {
            key: CertificateAuthority::new(&names(), LIFETIMES, NOW_S).expect("a CA").key,
            ..good
        },
        CertificateAuthority::new(&["other.name".to_owned()], LIFETIMES, NOW_S).expect("a CA"),
    ];
    for other in others {
        let renewed = other.renew(&names(), LIFETIMES, NOW_S).expect("no error").expect("something is due");
        assert!(is_trusted(&renewed.bundle, &renewed, NOW_S));
    }
}
