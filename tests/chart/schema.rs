//! Whether an object is what Kubernetes' API says: read into its type and written again, nothing may be lost.
//!
//! The types leave out fields that they do not know, as an API server would; a field that is lost is a field with a
//! wrong name or at the wrong place. Two kinds are other projects' own, and of these the fields are listed here.

use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
};
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::{Namespace, Secret, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// The fields of `spec` that kinds of other projects have here: cert-manager's and the Prometheus operator's.
const FOREIGN: [(&str, &str, &[&str]); 3] = [
    ("cert-manager.io/v1", "Issuer", &["selfSigned"]),
    (
        "cert-manager.io/v1",
        "Certificate",
        &["secretName", "dnsNames", "duration", "renewBefore", "privateKey", "usages", "issuerRef"],
    ),
    ("monitoring.coreos.com/v1", "ServiceMonitor", &["selector", "namespaceSelector", "endpoints"]),
];

/// What is wrong with an object; nothing, if it is as Kubernetes wants it.
pub(crate) fn faults(object: &Value) -> Vec<String> {
    let (version, kind) = (text(object, "apiVersion"), text(object, "kind"));
    let found = match (version, kind) {
        ("v1", "Namespace") => again::<Namespace>(object),
        ("v1", "Secret") => again::<Secret>(object),
        ("v1", "Service") => again::<Service>(object),
        ("v1", "ServiceAccount") => again::<ServiceAccount>(object),
        ("apps/v1", "DaemonSet") => again::<DaemonSet>(object),
        ("apps/v1", "Deployment") => again::<Deployment>(object),
        ("networking.k8s.io/v1", "NetworkPolicy") => again::<NetworkPolicy>(object),
        ("policy/v1", "PodDisruptionBudget") => again::<PodDisruptionBudget>(object),
        ("rbac.authorization.k8s.io/v1", "ClusterRole") => again::<ClusterRole>(object),
        ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding") => again::<ClusterRoleBinding>(object),
        ("rbac.authorization.k8s.io/v1", "Role") => again::<Role>(object),
        ("rbac.authorization.k8s.io/v1", "RoleBinding") => again::<RoleBinding>(object),
        ("admissionregistration.k8s.io/v1", "MutatingWebhookConfiguration") => {
            again::<MutatingWebhookConfiguration>(object)
        }
        ("admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicy") => {
            again::<ValidatingAdmissionPolicy>(object)
        }
        ("admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicyBinding") => {
            again::<ValidatingAdmissionPolicyBinding>(object)
        }
        _ => foreign(object),
    };
    let place = format!("{kind} {}", object["metadata"]["name"]);
    found.into_iter().map(|fault| format!("{place}: {fault}")).collect()
}

fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object[field].as_str().unwrap_or_default()
}

fn again<T: DeserializeOwned + Serialize>(object: &Value) -> Vec<String> {
    match serde_json::from_value::<T>(object.clone()) {
        Err(error) => vec![error.to_string()],
        Ok(read) => {
            let mut faults = Vec::new();
            lost("", object, &serde_json::to_value(read).expect("what was JSON"), &mut faults);
            faults
        }
    }
}

/// What is in the first and not in the second. What is empty says nothing, and may be left out.
fn lost(path: &str, object: &Value, read: &Value, faults: &mut Vec<String>) {
    match (object, read) {
        (Value::Object(fields), _) if !read.is_null() => {
            for (name, value) in fields {
                lost(&format!("{path}.{name}"), value, &read[name], faults);
            }
        }
        (Value::Array(items), Value::Array(others)) if items.len() == others.len() => {
            for (index, (item, other)) in items.iter().zip(others).enumerate() {
                lost(&format!("{path}[{index}]"), item, other, faults);
            }
        }
        (object, read) if object == read => {}
        (object, read) => faults.push(format!("{path} is {object}, and Kubernetes reads {read}")),
    }
}

fn foreign(object: &Value) -> Vec<String> {
    let (version, kind) = (text(object, "apiVersion"), text(object, "kind"));
    let Some((.., known)) = FOREIGN.iter().find(|(of, name, _)| *of == version && *name == kind) else {
        return vec![format!("no kind {kind} of {version} is known to this test")];
    };
    let fields = object["spec"].as_object().into_iter().flatten().map(|(name, _)| name);
    fields
        .filter(|name| !known.contains(&name.as_str()))
        .map(|name| format!(".spec.{name} is unknown"))
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn field_with_a_wrong_name_or_type_is_found() {
        let service = |spec: Value| json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "x"}, "spec": spec});
        assert_eq!(faults(&service(json!({"ports": [{"port": 1, "targetPort": "https"}]}))), [""; 0]);
        assert_eq!(faults(&service(json!({"ports": [{"port": 1, "targetPorts": "https"}]}))).len(), 1);
        assert_eq!(faults(&service(json!({"ports": [{"port": "1"}]}))).len(), 1);
        assert_eq!(faults(&json!({"apiVersion": "v2", "kind": "Service"})).len(), 1);
    }
}
