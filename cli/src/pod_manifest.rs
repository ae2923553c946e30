//! `PodManifest`: a pod from its manifest, or from the pod template of a workload.

use std::fs;
use std::path::Path;

use anyhow::{Context, anyhow, bail};
use kube_source::{Objects, parse_manifest};
use proxy_core::admission::{Admission, InjectOptions, inject};
use proxy_core::annotation::PORTALS;
use proxy_core::portals_request::PortalsRequest;
use serde_json::{Value, json};

/// A pod, as its creator or its controller would send it to the API server.
#[derive(Debug)]
pub(crate) struct PodManifest {
    pub(crate) namespace: String,
    pub(crate) pod: Value,
}

impl PodManifest {
    /// Reads the pod in this file. Without a namespace in the manifest, it is in `namespace`.
    pub(crate) fn read(file: &Path, namespace: &str) -> anyhow::Result<Self> {
        let context = || format!("failed to read pod from {}", file.display());
        let text = fs::read_to_string(file).with_context(context)?;
        let object = parse_manifest(&text).map_err(|error| anyhow!(error)).with_context(context)?;
        let own = object.pointer("/metadata/namespace").and_then(Value::as_str);
        let namespace = own.unwrap_or(namespace).to_owned();
        Ok(Self { namespace, pod: pod_of(object).with_context(context)? })
    }

    /// Returns the portals of the pod, by its annotation, or by that of its namespace if the objects contain it.
    pub(crate) fn portals(&self, objects: &Objects) -> anyhow::Result<PortalsRequest> {
        let Self { namespace, pod } = self;
        let namespace_annotations = objects.namespaces.get(namespace.as_str()).cloned().unwrap_or_default();
        let admission =
            Admission { namespace, namespace_annotations: &namespace_annotations, pod, old_pod: None };
        let injection = inject(&objects.clone().into_snapshot(), &InjectOptions::default(), &admission);
        let own = pod.pointer("/metadata/annotations").and_then(|all| all.get(PORTALS.key)?.as_str());
        let Some(text) = own.or(injection.portals.as_deref()) else { return Ok(PortalsRequest::default()) };
        match PortalsRequest::parse(text, Some(namespace)) {
            Ok(request) => Ok(request),
            Err(reason) => bail!("the pod does not start: {reason}"),
        }
    }

    /// Whether the pod has the network namespace of its node.
    pub(crate) fn is_on_host_network(&self) -> bool {
        self.pod.pointer("/spec/hostNetwork").and_then(Value::as_bool) == Some(true)
    }
}

/// Returns the object itself if it is a pod, otherwise the pod that a controller would create from its template.
fn pod_of(object: Value) -> anyhow::Result<Value> {
    if object.get("kind").and_then(Value::as_str) == Some("Pod") {
        return Ok(object);
    }
    let templates = ["/spec/template", "/spec/jobTemplate/spec/template"];
    let template = templates.into_iter().find_map(|path| object.pointer(path));
    let mut pod =
        template.cloned().ok_or_else(|| anyhow!("neither a Pod nor an object with a pod template"))?;
    if let Some(template) = pod.as_object_mut() {
        let metadata = template.entry("metadata").or_insert_with(|| json!({}));
        if let Some(metadata) = metadata.as_object_mut() {
            metadata.insert("ownerReferences".to_owned(), json!([{ "controller": true }]));
        }
    }
    Ok(pod)
}
