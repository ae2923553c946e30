//! Pods, AdmissionReviews for them as an API server sends them, and the result of a response.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

/// The service `redis`, in YAML.
pub const REDIS: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: redis, namespace: default}\n\
    spec: {clusterIP: 10.0.0.11, ports: [{port: 6379}]}\n";

/// A pod with one container.
pub fn pod(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default"},
        "spec": {"containers": [{"name": "main", "image": "x"}]}})
}

/// Adds annotations to a pod.
pub fn with_annotations(mut pod: Value, annotations: &[(&str, &str)]) -> Value {
    for (name, value) in annotations {
        pod["metadata"]["annotations"][*name] = (*value).into();
    }
    pod
}

/// The review of a new pod, with the uid first as by an API server.
pub fn review(uid: &str, pod: &Value) -> Vec<u8> {
    let rest = json!({"kind": {"group": "", "version": "v1", "kind": "Pod"}, "operation": "CREATE",
        "namespace": "default", "object": pod});
    let rest = rest.to_string();
    let rest = rest.strip_prefix('{').expect("an object");
    let review = "{\"apiVersion\":\"admission.k8s.io/v1\",\"kind\":\"AdmissionReview\"";
    format!("{review},\"request\":{{\"uid\":\"{uid}\",{rest}}}").into_bytes()
}

/// Applies the patch of a response to a pod.
pub fn apply_patch(pod: &Value, response: &Value) -> Value {
    let mut pod = pod.clone();
    let Some(patch) = response["response"]["patch"].as_str() else { return pod };
    let patch = STANDARD.decode(patch).expect("base64");
    let patch: json_patch::Patch = serde_json::from_slice(&patch).expect("a JSON patch");
    json_patch::patch(&mut pod, &patch).expect("a patch that applies");
    pod
}

/// The names in the `env` of a container.
pub fn names(pod: &Value, container: usize) -> Vec<String> {
    let env = pod["spec"]["containers"][container]["env"].as_array().cloned().unwrap_or_default();
    env.iter().map(|entry| entry["name"].as_str().expect("a name").to_owned()).collect()
}
