//! Checks of the injector: each input gets a response, and its patch applies and is idempotent.
//!
//! The services are fixed; the pod and its annotations vary.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use admission_review::{Review, parse_review, response, response_len};
use arbitrary::Arbitrary;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use kube_source::{ReadOptions, read_str};
use proxy_core::admission::{Admission, InjectMode, InjectOptions, Injection, Record, config_maps, inject};
use proxy_core::annotation::VARIABLES;
use proxy_core::snapshot::Snapshot;
use serde_json::{Value, json};

const SERVICES: &str = "
{apiVersion: v1, kind: Service, metadata: {name: kubernetes}, spec: {clusterIP: 10.96.0.1, ports: [{port: 443}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: kubernetes, namespace: b}, spec: {clusterIP: 10.96.0.2, ports: [{port: 443}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: a, annotations: {portico.dev/export: b}}, spec: {clusterIP: 10.96.0.3, ports: [{port: 80}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: a-service}, spec: {clusterIP: 'fd00::4', ports: [{port: 80}]}}
";
const MODES: [InjectMode; 3] = [InjectMode::Auto, InjectMode::Inline, InjectMode::ConfigMap];
const KEYS: [&str; 7] = ["inject", "services", "prefix", "forms", "require", "on-missing", "max-bytes"];

static SNAPSHOT: LazyLock<Snapshot> =
    LazyLock::new(|| read_str("services.yaml", SERVICES, &ReadOptions::default()).0.into_snapshot());

/// The annotations of a pod and of its namespace.
#[derive(Debug, Arbitrary)]
pub struct Annotations {
    of_pod: [Option<String>; 7],
    of_namespace: [Option<String>; 7],
    is_other_namespace: bool,
    has_controller: bool,
}

/// Checks that any body gets a valid response.
pub fn check_review(body: &[u8]) {
    let pod = match parse_review(body) {
        Err(bad) => {
            let _: Value = serde_json::from_slice(&bad.response()).expect("a response is JSON");
            assert!(!bad.reason.is_empty(), "the reason is reported");
            return;
        }
        Ok(Review::Other { .. }) => return,
        Ok(Review::TooLarge { reason, .. }) => {
            assert!(!reason.is_empty(), "the reason is reported");
            return;
        }
        Ok(Review::Pod(pod)) => pod,
    };
    let none = BTreeMap::new();
    let done = check(&pod.admission(&none), InjectMode::Auto);
    let body = response(&pod.uid, &done);
    assert_eq!(response_len(&pod.uid, &done), body.len(), "the length is known in advance");
    let sent: Value = serde_json::from_slice(&body).expect("a response is JSON");
    assert_eq!(
        sent["response"]["uid"],
        Value::String(pod.uid.clone()),
        "the response has the uid of the request"
    );
}

/// Checks that any annotations yield a valid pod.
pub fn check_annotations(annotations: &Annotations) {
    let entries = |texts: &[Option<String>; 7]| -> BTreeMap<String, String> {
        let pairs = KEYS.iter().zip(texts).filter_map(|(key, text)| Some((*key, text.as_ref()?)));
        pairs.map(|(key, text)| (format!("portico.dev/{key}"), text.clone())).collect()
    };
    let mut metadata = json!({ "annotations": entries(&annotations.of_pod) });
    if annotations.has_controller {
        metadata["ownerReferences"] = json!([{ "controller": true }]);
    }
    let env = json!([{ "name": "X", "value": "$(A_PORT)" }, { "name": "A_PORT", "value": "1" }]);
    let containers = json!([{ "name": "a", "env": env }, { "name": "b", "envFrom": [{}] }, { "name": "c" }]);
    let pod = json!({ "metadata": metadata, "spec": { "containers": containers } });
    let namespace_annotations = entries(&annotations.of_namespace);
    let namespace = if annotations.is_other_namespace { "b" } else { "default" };
    for mode in MODES {
        let admission =
            Admission { namespace, namespace_annotations: &namespace_annotations, pod: &pod, old_pod: None };
        check(&admission, mode);
    }
}

fn check<'a>(admission: &Admission<'a>, mode: InjectMode) -> Injection<'a> {
    let options = InjectOptions { mode, ..InjectOptions::default() };
    let done = inject(&SNAPSHOT, &options, admission);
    let lengths: Vec<usize> = done.warnings.iter().map(|warning| warning.chars().count()).collect();
    assert!(lengths.iter().all(|length| *length <= 256), "a warning is too long");
    assert!(lengths.iter().sum::<usize>() <= 4_096, "too many warnings");
    assert!(!done.warnings.concat().contains(char::is_control), "a warning is one line");
    assert!(done.denied.is_none() || done.patch.is_empty(), "a denied pod has no patch");
    let mut patched = admission.pod.clone();
    if let Some(sent) = response_patch(&done) {
        assert_eq!(sent, json!(done.patch), "the response contains the patch");
        let patch: json_patch::Patch = serde_json::from_value(sent).expect("it is a patch");
        json_patch::patch(&mut patched, &patch).expect("a patch applies");
    }
    let record = patched["metadata"]["labels"][VARIABLES.key].as_str();
    let record = Record::read(record, |key| patched["metadata"]["annotations"][key].as_str());
    if let (Ok(Some(Record { text, base, .. })), None) = (record, admission.old_pod) {
        for map in config_maps(&SNAPSHOT, admission.namespace, &base, &text) {
            assert!(map.data.keys().all(|name| is_name(name)), "a key of a ConfigMap");
        }
    }
    let added = done.containers.iter().flat_map(|report| report.added.iter());
    assert!(added.map(|variable| &variable.name).all(|name| is_name(name)), "a name of a variable");
    if admission.old_pod.is_none() {
        let again = inject(&SNAPSHOT, &options, &Admission { pod: &patched, ..*admission });
        assert_eq!(again.patch, [], "a pod that is admitted again is not changed");
    }
    done
}

/// Returns the patch in a response.
fn response_patch(done: &Injection<'_>) -> Option<Value> {
    let body: Value = serde_json::from_slice(&response("u", done)).expect("a response is JSON");
    let patch = body["response"]["patch"].as_str()?;
    let patch = STANDARD.decode(patch).expect("a patch is base64");
    Some(serde_json::from_slice(&patch).expect("a patch is JSON"))
}

fn is_name(name: &str) -> bool {
    let is_valid = |character: char| character.is_ascii_alphanumeric() || character == '_';
    !name.is_empty() && name.len() <= 253 && name.chars().all(is_valid)
}
