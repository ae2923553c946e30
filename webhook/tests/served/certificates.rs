//! Certificates from files, and those of clients.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};

use test_support::caller::{Caller, Signed};
use test_support::review::{REDIS, pod, review};
use test_support::temp_dir::TempDir;
use test_support::webhook::{Webhook, until};

/// A certificate for this machine that ends in this year, and the authority that has made it.
fn signed(year: i32) -> (String, Signed) {
    let mut params = CertificateParams::new([]).expect("an authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().expect("a key");
    let authority = params.self_signed(&key).expect("an authority").pem();
    let issuer = Issuer::new(params, key);
    let mut params = CertificateParams::new(["127.0.0.1".to_owned()]).expect("a name");
    params.not_after = date_time_ymd(year, 1, 1);
    let key = KeyPair::generate().expect("a key");
    let certificate = params.signed_by(&key, &issuer).expect("a certificate").pem();
    (authority, Signed { certificate, key: key.serialize_pem() })
}

/// Puts files into place as the kubelet does: a folder beside, then one link to it replaced.
fn mount(folder: &Path, name: &str, certificate: &str, key: &str) {
    let beside = folder.join(name);
    fs::create_dir(&beside).expect("make a folder");
    fs::write(beside.join("tls.crt"), certificate).expect("write");
    fs::write(beside.join("tls.key"), key).expect("write");
    symlink(&beside, folder.join("..new")).expect("make a link");
    fs::rename(folder.join("..new"), folder.join("..data")).expect("replace the link");
}

#[test]
fn files_that_change_are_shown_to_whoever_connects_then_and_cut_off_nobody() {
    let folder = TempDir::new("webhook");
    let (_, first) = signed(4000);
    let (_, second) = signed(4000);
    mount(folder.path(), "one", &first.certificate, &first.key);
    let manifests = folder.write("services.yaml", REDIS);
    for name in ["tls.crt", "tls.key"] {
        symlink(Path::new("..data").join(name), folder.join(name)).expect("make a link");
    }
    let text = |name: &str| folder.join(name).to_str().expect("a path").to_owned();
    let (certificate, key) = (text("tls.crt"), text("tls.key"));
    let manifests = manifests.to_str().expect("a path");
    let args = ["--manifests", manifests, "--tls-cert", &certificate, "--tls-key", &key];
    let webhook = Webhook::ready(folder.path(), 0, &args);
    let mut early = Caller::local(webhook.address).expect("connect");
    mount(folder.path(), "two", &second.certificate, &second.key);
    let now = || Caller::local(webhook.address).expect("connect").shown();
    until("the second is shown", || (now() != early.shown()).then_some(()));
    early.review(&review("u", &pod("a"))).expect("it goes on");
    // A key without its certificate, and garbage: what was shown stays.
    let shown = now();
    mount(folder.path(), "three", &first.certificate, &second.key);
    webhook.until("it says so", |webhook| webhook.log().contains("invalid certificate; keeping the previous one"));
    assert_eq!(now(), shown);
    mount(folder.path(), "four", &first.certificate, &first.key);
    until("the first is shown again", || (now() == early.shown()).then_some(()));
}

#[test]
fn who_must_have_a_certificate_and_has_none_or_one_that_has_ended_is_closed_and_counted() {
    let folder = TempDir::new("webhook");
    let (authority, good) = signed(4000);
    let (other_authority, ended) = signed(2020);
    let bundle = folder.write("clients.pem", &[authority, other_authority].concat());
    let bundle = bundle.to_str().expect("a path");
    let webhook = Webhook::on_manifests(&folder, REDIS, &["--client-ca", bundle]);
    let ask = |own: Option<&Signed>| {
        let mut caller = Caller::known(webhook.address, "127.0.0.1", own)?;
        caller.review(&review("u", &pod("a")))
    };
    ask(Some(&good)).expect("an answer");
    ask(None).expect_err("no certificate");
    ask(Some(&ended)).expect_err("one that has ended");
    webhook.until("both are counted", |webhook| {
        webhook.metric("closed_total{reason=\"client_certificate\"}") == 2.0
    });
}
