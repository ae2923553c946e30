//! The injector's claims, one by one; those about the patch are in `patching`, the random ones in `random`.

mod kubelet;
mod patching;
mod random;
mod valid;
mod wishes;
mod world;

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::*;
use crate::sample::{snapshot, svc};
use crate::service::{Export, Service};

fn with_mode(mode: InjectMode) -> InjectOptions {
    InjectOptions { mode, bytes_max: None }
}

/// A pod in a namespace without annotations.
fn asking<'a>(namespace: &'a str, pod: &'a Value) -> Admission<'a> {
    static NONE: BTreeMap<String, String> = BTreeMap::new();
    Admission { namespace, namespace_annotations: &NONE, pod, old_pod: None }
}

/// The pod after the patch, by an implementation of patches that is not ours.
fn applied(pod: &Value, injection: &Injection) -> Value {
    let mut patched = pod.clone();
    let patch: json_patch::Patch = serde_json::from_value(json!(injection.patch)).unwrap();
    json_patch::patch(&mut patched, &patch).unwrap();
    patched
}

/// A service with one port and the kubelet's seven variables.
fn redis() -> Service {
    svc("redis").ip("10.0.0.11").tcp("", 6379)
}

/// Another team's service.
fn postgres() -> Service {
    svc("postgres").namespace("team-b").ip("10.0.0.12").tcp("", 5432).export(Export::Everywhere)
}

fn of(services: impl IntoIterator<Item = Service>) -> Snapshot {
    snapshot(services.into_iter().map(Into::into))
}

/// A pod of one container with this environment, without a controller.
fn pod(annotations: &[(&str, &str)], env: Value, env_from: Value) -> Value {
    let annotations: BTreeMap<_, _> =
        annotations.iter().map(|(name, text)| (format!("portico.dev/{name}"), text)).collect();
    json!({
        "metadata": { "name": "p", "annotations": annotations },
        "spec": { "containers": [{ "name": "app", "env": env, "envFrom": env_from }] },
    })
}

/// A pod of one container that has nothing of its own.
fn plain(annotations: &[(&str, &str)]) -> Value {
    pod(annotations, Value::Null, Value::Null)
}

fn controlled(mut pod: Value) -> Value {
    pod["metadata"]["ownerReferences"] = json!([{ "kind": "ReplicaSet", "name": "r", "controller": true }]);
    pod
}

/// What is done to a pod in namespace `default`.
fn done(services: impl IntoIterator<Item = Service>, pod: &Value) -> Injection {
    injection(&of(services), &InjectOptions::default(), &asking("default", pod))
}

/// The ConfigMaps of a pod after its patch, as a controller makes them by what the pod says.
fn made(services: &Snapshot, namespace: &str, patched: &Value) -> Vec<WantedConfigMap> {
    let metadata = &patched["metadata"];
    let annotation = |key: &str| metadata["annotations"][key].as_str();
    let record = Record::read(metadata["labels"]["portico.dev/variables"].as_str(), annotation);
    let Some(Record { text, base, parts }) = record.expect("what admission writes") else {
        return Vec::new();
    };
    let maps = config_maps(services, namespace, &base, &text);
    assert_eq!(maps.len(), parts);
    maps
}

/// The names that the first container's `env` has after the patch.
fn names(pod: &Value, injection: &Injection) -> Vec<String> {
    let patched = applied(pod, injection);
    let env = patched["spec"]["containers"][0]["env"].as_array().cloned().unwrap_or_default();
    env.iter().map(|entry| entry["name"].as_str().unwrap().to_owned()).collect()
}
