//! Certificates from files, and those of clients.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};

use test_support::caller::{Caller, CertificateAndKey};
use test_support::eventually::eventually;
use test_support::review::{REDIS, pod, review};
use test_support::temp_dir::TempDir;
use test_support::webhook::Webhook;

/// Returns a CA certificate, and a certificate for this machine that it issued and that expires in this year.
fn certificate_until(year: i32) -> (String, CertificateAndKey) {
    let mut params = CertificateParams::new([]).expect("a CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().expect("a key");
    let ca = params.self_signed(&key).expect("a CA").pem();
    let issuer = Issuer::new(params, key);
    let mut params = CertificateParams::new(["127.0.0.1".to_owned()]).expect("a name");
    params.not_after = date_time_ymd(year, 1, 1);
    let key = KeyPair::generate().expect("a key");
    let certificate = params.signed_by(&key, &issuer).expect("a certificate").pem();
    (ca, CertificateAndKey { certificate, key: key.serialize_pem() })
}

/// Updates files as the kubelet does: a new directory, then the link to it is replaced.
fn mount(dir: &Path, name: &str, certificate: &str, key: &str) {
    let new = dir.join(name);
    fs::create_dir(&new).expect("create the directory");
    fs::write(new.join("tls.crt"), certificate).expect("write");
    fs::write(new.join("tls.key"), key).expect("write");
    symlink(&new, dir.join("..new")).expect("make a link");
    fs::rename(dir.join("..new"), dir.join("..data")).expect("replace the link");
}

#[test]
fn changed_certificate_files_apply_to_new_connections_only() {
    let dir = TempDir::new("webhook");
    let (_, first) = certificate_until(4000);
    let (_, second) = certificate_until(4000);
    mount(dir.path(), "one", &first.certificate, &first.key);
    let manifests = dir.write("services.yaml", REDIS);
    for name in ["tls.crt", "tls.key"] {
        symlink(Path::new("..data").join(name), dir.join(name)).expect("make a link");
    }
    let text = |name: &str| dir.join(name).to_str().expect("a path").to_owned();
    let (certificate, key) = (text("tls.crt"), text("tls.key"));
    let manifests = manifests.to_str().expect("a path");
    let args = ["--manifests", manifests, "--tls-cert", &certificate, "--tls-key", &key];
    let webhook = Webhook::start_ready(dir.path(), 0, &args);
    let mut early = Caller::local(webhook.address).expect("connect");
    mount(dir.path(), "two", &second.certificate, &second.key);
    let now = || Caller::local(webhook.address).expect("connect").server_certificate();
    eventually("the second certificate is used", || (now() != early.server_certificate()).then_some(()));
    early.review(&review("u", &pod("a"))).expect("the old connection works");
    // A key of another certificate: the last valid one stays.
    let shown = now();
    mount(dir.path(), "three", &first.certificate, &second.key);
    webhook.wait_until("it says so", |webhook| {
        webhook.log().contains("invalid certificate; keeping the previous one")
    });
    assert_eq!(now(), shown);
    mount(dir.path(), "four", &first.certificate, &first.key);
    eventually("the first certificate is used again", || (now() == early.server_certificate()).then_some(()));
}

#[test]
fn clients_without_a_valid_certificate_are_closed_and_counted() {
    let dir = TempDir::new("webhook");
    let (ca, good) = certificate_until(4000);
    let (other_ca, expired) = certificate_until(2020);
    let bundle = dir.write("clients.pem", [ca, other_ca].concat());
    let bundle = bundle.to_str().expect("a path");
    let webhook = Webhook::on_manifests(&dir, REDIS, &["--client-ca", bundle]);
    let ask = |own: Option<&CertificateAndKey>| {
        let mut caller = Caller::with_certificate(webhook.address, "127.0.0.1", own)?;
        caller.review(&review("u", &pod("a")))
    };
    ask(Some(&good)).expect("a response");
    ask(None).expect_err("no certificate");
    ask(Some(&expired)).expect_err("an expired certificate");
    webhook.wait_until("both are counted", |webhook| {
        webhook.metric("connections_closed_total{reason=\"client_certificate\"}") == 2.0
    });
}
