//! From a release of 0.1.0, whose webhook wrote its registration itself, to one whose chart writes it.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use test_support::apiserver::Api;
use test_support::helm::{documents, objects, one, said, text};
use test_support::program::repository;

const REGISTRATION: &str = "MutatingWebhookConfiguration";
const NAME: &str = "portico-webhook";
const PATH: &str = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/portico-webhook";
/// What 0.1.0 rendered by default: the webhook filled it.
const RENDERED_BY_0_1_0: &str = r#"apiVersion: admissionregistration.k8s.io/v1
kind: MutatingWebhookConfiguration
metadata:
  name: {{ include "portico.name" (list . "webhook") }}
  {{- include "portico.labelled" (list . "webhook") | nindent 2 }}
"#;

/// The chart with what 0.1.0 rendered instead of the registration.
fn chart_of_0_1_0() -> PathBuf {
    let folder = std::env::temp_dir().join(format!("portico-chart-0.1.0-{}", std::process::id()));
    copy(&repository().join("deploy/helm/portico"), &folder);
    let templates = folder.join("templates/webhook");
    fs::write(templates.join("registration.yaml"), RENDERED_BY_0_1_0).expect("write");
    fs::remove_file(templates.join("registrationguard.yaml")).expect("it is there");
    folder
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("make a folder");
    for entry in fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("an entry");
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if from.is_dir() {
            copy(&from, &to);
        } else {
            fs::copy(&from, &to).expect("copy a file");
        }
    }
}

/// Fills the registration as the webhook of 0.1.0 did: both webhooks, whole, in a way of its own.
fn filled(api: &Api, namespace: &str) -> Value {
    let mut object = api.get(REGISTRATION, "", NAME).expect("the chart's");
    let mut webhooks = one(&objects(&[]), REGISTRATION, "")["webhooks"].clone();
    for webhook in webhooks.as_array_mut().expect("a list") {
        webhook["sideEffects"] = "NoneOnDryRun".into();
        webhook["clientConfig"]["service"]["namespace"] = namespace.into();
        webhook["clientConfig"]["caBundle"] = "AAAA".into();
        webhook["failurePolicy"] = "Ignore".into();
    }
    object["webhooks"] = webhooks;
    let answer = api.send("PUT", PATH, "application/json", &object);
    assert_eq!(answer.status, 200, "{}", answer.object);
    answer.object
}

/// What is registered is the chart's, with what the webhook had filled in.
fn is_charts(api: &Api, namespace: &str, policy: &str) {
    let found = api.get(REGISTRATION, "", NAME).expect("it is there");
    let mut wanted = one(&objects(&[]), REGISTRATION, "")["webhooks"].clone();
    for webhook in wanted.as_array_mut().expect("a list") {
        webhook["clientConfig"]["caBundle"] = "AAAA".into();
        webhook["clientConfig"]["service"]["namespace"] = namespace.into();
        webhook["namespaceSelector"]["matchExpressions"][0]["values"] = json!(["kube-system", namespace]);
        webhook["failurePolicy"] = policy.into();
    }
    assert_eq!(found["webhooks"], wanted);
}

/// With Helm, and with the plain manifests.
pub(crate) fn the_registration_of_0_1_0_becomes_the_charts_and_keeps_the_ca_bundle(api: &Api) {
    let kubeconfig = api.kubeconfig().to_str().expect("a path").to_owned();
    let release = |verb: &str, args: &[&str]| {
        let on = ["--namespace", "from-old", "--kubeconfig", &kubeconfig];
        said(&[&[verb, "portico"][..], args, &on].concat()).unwrap_or_else(|why| panic!("{verb}: {why}"))
    };
    let old = chart_of_0_1_0();
    release("install", &[old.to_str().expect("a path"), "--create-namespace"]);
    filled(api, "from-old");
    release("upgrade", &["deploy/helm/portico", "--set", "webhook.registration.failurePolicy=Fail"]);
    is_charts(api, "from-old", "Fail");
    release("uninstall", &[]);
    fs::remove_dir_all(old).expect("it is there");

    // Of the plain manifests this object alone: the namespace of the others may be on its way out.
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
    filled(api, "portico-system");
    kubectl(&["apply", "--server-side", "--force-conflicts"]);
    is_charts(api, "portico-system", "Ignore");
    kubectl(&["delete"]);
    fs::remove_file(&file).expect("it was written");
}
