//! An authority over its life: what is renewed when, and who is trusted meanwhile.

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
const LIVES: CertLifetimes =
    CertLifetimes { leaf: Duration::from_secs(90 * 86_400), ca: Duration::from_secs(365 * 86_400) };

fn names() -> Vec<String> {
    vec!["portico-webhook.portico-system.svc".to_owned(), "127.0.0.1".to_owned()]
}

/// Whether a client that knows this bundle trusts the server's certificate at a time.
fn is_trusted(bundle: &str, authority: &CertificateAuthority, now_s: i64) -> bool {
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(bundle.as_bytes()) {
        roots.add(root.expect("PEM")).expect("an authority");
    }
    let provider = Arc::new(ring::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build();
    let leaf = CertificateDer::from_pem_slice(authority.certificate.as_bytes()).expect("PEM");
    let now = UnixTime::since_unix_epoch(Duration::from_secs(now_s.try_into().expect("after 1970")));
    names().iter().all(|name| {
        let name = ServerName::try_from(name.as_str()).expect("a name");
        verifier.as_ref().expect("a verifier").verify_server_cert(&leaf, &[], &name, &[], now).is_ok()
    })
}

#[test]
fn a_certificate_is_for_its_names_and_no_other() {
    let authority = CertificateAuthority::new(&names(), LIVES, NOW_S).expect("an authority");
    let usable = authority.serving_cert().expect("usable");
    assert!(names().iter().all(|name| usable.is_for(name)));
    assert!(!usable.is_for("portico-webhook.portico-system.svc.example"));
    assert!(!usable.is_for("10.0.0.1"));
    assert!(is_trusted(&authority.bundle, &authority, NOW_S));
}

#[test]
fn nothing_is_renewed_before_two_thirds_of_its_life() {
    let authority = CertificateAuthority::new(&names(), LIVES, NOW_S).expect("an authority");
    assert_eq!(authority.renew(&names(), LIVES, NOW_S + 59 * DAY_S).expect("no fault"), None);
    assert!(authority.renew(&names(), LIVES, NOW_S + 61 * DAY_S).expect("no fault").is_some());
}

#[test]
fn over_ten_years_whoever_knows_the_last_or_the_next_authorities_trusts_each_certificate() {
    let mut authority = CertificateAuthority::new(&names(), LIVES, NOW_S).expect("an authority");
    let (mut leaves, mut authorities) = (0, 0);
    for day in 0..3_650 {
        let now_s = NOW_S + day * DAY_S;
        if let Some(renewed) = authority.renew(&names(), LIVES, now_s).expect("no fault") {
            // A replica that is behind, a registration that is behind: either way round.
            assert!(is_trusted(&renewed.bundle, &authority, now_s), "day {day}");
            assert!(is_trusted(&authority.bundle, &renewed, now_s), "day {day}");
            leaves += i32::from(renewed.certificate != authority.certificate);
            authorities += i32::from(renewed.bundle != authority.bundle);
            assert!(renewed.bundle.matches("BEGIN").count() <= 3);
            authority = renewed;
        }
    }
    assert!((55..=65).contains(&leaves), "{leaves}");
    assert!((13..=16).contains(&authorities), "{authorities}");
}

#[test]
fn what_is_of_no_use_is_made_anew() {
    let good = CertificateAuthority::new(&names(), LIVES, NOW_S).expect("an authority");
    let others = [
        CertificateAuthority { bundle: String::new(), ..good.clone() },
        CertificateAuthority { bundle: "garbage".to_owned(), ..good.clone() },
        CertificateAuthority { ca_key: String::new(), ..good.clone() },
        CertificateAuthority { certificate: "garbage".to_owned(), ..good.clone() },
        CertificateAuthority {
            key: CertificateAuthority::new(&names(), LIVES, NOW_S).expect("an authority").key,
            ..good
        },
        CertificateAuthority::new(&["other.name".to_owned()], LIVES, NOW_S).expect("an authority"),
    ];
    for other in others {
        let renewed = other.renew(&names(), LIVES, NOW_S).expect("no fault").expect("something is due");
        assert!(is_trusted(&renewed.bundle, &renewed, NOW_S));
    }
}
