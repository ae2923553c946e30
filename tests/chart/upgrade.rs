//! Upgrade from release 0.1.0, whose webhook wrote its registration itself, to a chart that writes it.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use test_support::apiserver::ApiServer;
use test_support::helm::{documents, objects, one, run_helm, text};
use test_support::program::repository;

const REGISTRATION: &str = "MutatingWebhookConfiguration";
const NAME: &str = "portico-webhook";
const PATH: &str = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/portico-webhook";
/// The registration that the chart of 0.1.0 rendered, which the webhook completed.
const RENDERED_BY_0_1_0: &str = r#"apiVersion: admissionregistration.k8s.io/v1
kind: MutatingWebhookConfiguration
metadata:
  name: {{ include "portico.name" (list . "webhook") }}
  {{- include "portico.labelled" (list . "webhook") | nindent 2 }}
"#;

/// The chart with the registration of 0.1.0.
fn chart_of_0_1_0() -> PathBuf {
    let dir = std::env::temp_dir().join(format!("portico-chart-0.1.0-{}", std::process::id()));
    copy(&repository().join("deploy/helm/portico"), &dir);
    let templates = dir.join("templates/webhook");
    fs::write(templates.join("registration.yaml"), RENDERED_BY_0_1_0).expect("write");
    fs::remove_file(templates.join("registrationguard.yaml")).expect("remove the file");
    dir
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("create the directory");
    for entry in fs::read_dir(from).expect("a directory") {
        let entry = entry.expect("an entry");
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if from.is_dir() {
            copy(&from, &to);
        } else {
            fs::copy(&from, &to).expect("copy a file");
        }
    }
}

/// Completes the registration as the webhook of 0.1.0 did: it replaces both webhooks.
fn complete_registration(api: &ApiServer, namespace: &str) -> Value {
    let mut object = api.get(REGISTRATION, "", NAME).expect("the registration of the chart");
    let mut webhooks = one(&objects(&[]), REGISTRATION, "")["webhooks"].clone();
    for webhook in webhooks.as_array_mut().expect("a list") {
        webhook["sideEffects"] = "NoneOnDryRun".into();
        webhook["clientConfig"]["service"]["namespace"] = namespace.into();
        webhook["clientConfig"]["caBundle"] = "AAAA".into();
        webhook["failurePolicy"] = "Ignore".into();
    }
    object["webhooks"] = webhooks;
    let response = api.send("PUT", PATH, "application/json", &object);
    assert_eq!(response.status, 200, "{}", response.object);
    response.object
}

/// Asserts that the registration is that of the chart, with the CA bundle that the webhook wrote.
fn assert_is_of_chart(api: &ApiServer, namespace: &str, policy: &str) {
    let found = api.get(REGISTRATION, "", NAME).expect("remove the file");
    let mut wanted = one(&objects(&[]), REGISTRATION, "")["webhooks"].clone();
    for webhook in wanted.as_array_mut().expect("a list") {
        webhook["clientConfig"]["caBundle"] = "AAAA".into();
        webhook["clientConfig"]["service"]["namespace"] = namespace.into();
        webhook["namespaceSelector"]["matchExpressions"][0]["values"] = json!(["kube-system", namespace]);
        webhook["failurePolicy"] = policy.into();
    }
    assert_eq!(found["webhooks"], wanted);
}

/// Upgrades with Helm, and with the plain manifests.
pub(crate) fn registration_of_0_1_0_becomes_that_of_the_chart_and_keeps_the_ca_bundle(api: &ApiServer) {
    let kubeconfig = api.kubeconfig().to_str().expect("a path").to_owned();
    let release = |verb: &str, args: &[&str]| {
        let on = ["--namespace", "from-old", "--kubeconfig", &kubeconfig];
        run_helm(&[&[verb, "portico"][..], args, &on].concat()).unwrap_or_else(|why| panic!("{verb}: {why}"))
    };
    let old = chart_of_0_1_0();
    release("install", &[old.to_str().expect("a path"), "--create-namespace"]);
    complete_registration(api, "from-old");
    release("upgrade", &["deploy/helm/portico", "--set", "webhook.registration.failurePolicy=Fail"]);
    assert_is_of_chart(api, "from-old", "Fail");
    release("uninstall", &[]);
    fs::remove_dir_all(old).expect("remove the file");

    // Only this object of the plain manifests, since the namespace of the others may still be terminating.
    let plain = documents(&text("deploy/manifests/portico.yaml"));
    let file = std::env::temp_dir().join(format!("portico-registration-{}.json", std::process::id()));
    fs::write(&file, one(&plain, REGISTRATION, "").to_string()).expect("write the object");
    let kubectl = |args: &[&str]| {
        let args = [args, &["-f", file.to_str().expect("a path")]].concat();
        api.kubectl(&args).unwrap_or_else(|why| panic!("{args:?}: {why}"))
    };
    kubectl(&["apply", "--server-side"]);
    let emptied = api.send("PATCH", PATH, "application/merge-patch+json", &json!({"webhooks": []}));
    assert_eq!(emptied.status, 200, "{}", emptied.object);
    complete_registration(api, "portico-system");
    kubectl(&["apply", "--server-side", "--force-conflicts"]);
    assert_is_of_chart(api, "portico-system", "Ignore");
    kubectl(&["delete"]);
    fs::remove_file(&file).expect("remove the file");
}
