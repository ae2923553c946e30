//! Tests of the injector and their helpers.

mod annotations;
mod generator;
mod kubelet;
mod patching;
mod portals;
mod random;
mod valid;

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::*;
use crate::model::service::{Export, Service};
use crate::sample::{snapshot, svc};

fn with_mode(mode: InjectMode) -> InjectOptions {
    InjectOptions { mode, bytes_max: None }
}

/// A pod in a namespace without annotations.
fn admission_of<'a>(namespace: &'a str, pod: &'a Value) -> Admission<'a> {
    static NONE: BTreeMap<String, String> = BTreeMap::new();
    Admission { namespace, namespace_annotations: &NONE, pod, old_pod: None }
}

/// Returns the patched pod, by an independent implementation of JSON patches.
fn patched_pod(pod: &Value, injection: &Injection<'_>) -> Value {
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

fn snapshot_of(services: impl IntoIterator<Item = Service>) -> Snapshot {
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
fn pod_with(annotations: &[(&str, &str)]) -> Value {
    pod(annotations, Value::Null, Value::Null)
}

fn with_controller(mut pod: Value) -> Value {
    pod["metadata"]["ownerReferences"] = json!([{ "kind": "ReplicaSet", "name": "r", "controller": true }]);
    pod
}

/// Injects into a pod in namespace `default`.
fn inject_into(services: impl IntoIterator<Item = Service>, pod: &Value) -> Injection<'_> {
    inject(&snapshot_of(services), &InjectOptions::default(), &admission_of("default", pod))
}

/// Returns the ConfigMaps of a patched pod, as a controller creates them from its record.
fn created_config_maps(services: &Snapshot, namespace: &str, patched: &Value) -> Vec<WantedConfigMap> {
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

/// Returns the names in the first container's `env` after the patch.
fn env_names(pod: &Value, injection: &Injection<'_>) -> Vec<String> {
    let patched = patched_pod(pod, injection);
    let env = patched["spec"]["containers"][0]["env"].as_array().cloned().unwrap_or_default();
    env.iter().map(|entry| entry["name"].as_str().unwrap().to_owned()).collect()
}
