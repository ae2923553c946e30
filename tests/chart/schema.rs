//! Validates objects against the Kubernetes API: an object that is deserialized and serialized again must lose nothing.
//!
//! The types drop unknown fields, so a lost field has a wrong name or a wrong position. The fields of kinds of other
//! projects are listed here.

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

/// The fields of `spec` of kinds of other projects: cert-manager and the Prometheus operator.
const FOREIGN: [(&str, &str, &[&str]); 3] = [
    ("cert-manager.io/v1", "Issuer", &["selfSigned"]),
    (
        "cert-manager.io/v1",
        "Certificate",
        &["secretName", "dnsNames", "duration", "renewBefore", "privateKey", "usages", "issuerRef"],
    ),
    ("monitoring.coreos.com/v1", "ServiceMonitor", &["selector", "namespaceSelector", "endpoints"]),
];

/// Returns the errors of an object.
pub(crate) fn schema_errors(object: &Value) -> Vec<String> {
    let (version, kind) = (text(object, "apiVersion"), text(object, "kind"));
    let found = match (version, kind) {
        ("v1", "Namespace") => round_trip::<Namespace>(object),
        ("v1", "Secret") => round_trip::<Secret>(object),
        ("v1", "Service") => round_trip::<Service>(object),
        ("v1", "ServiceAccount") => round_trip::<ServiceAccount>(object),
        ("apps/v1", "DaemonSet") => round_trip::<DaemonSet>(object),
        ("apps/v1", "Deployment") => round_trip::<Deployment>(object),
        ("networking.k8s.io/v1", "NetworkPolicy") => round_trip::<NetworkPolicy>(object),
        ("policy/v1", "PodDisruptionBudget") => round_trip::<PodDisruptionBudget>(object),
        ("rbac.authorization.k8s.io/v1", "ClusterRole") => round_trip::<ClusterRole>(object),
        ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding") => round_trip::<ClusterRoleBinding>(object),
        ("rbac.authorization.k8s.io/v1", "Role") => round_trip::<Role>(object),
        ("rbac.authorization.k8s.io/v1", "RoleBinding") => round_trip::<RoleBinding>(object),
        ("admissionregistration.k8s.io/v1", "MutatingWebhookConfiguration") => {
            round_trip::<MutatingWebhookConfiguration>(object)
        }
        ("admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicy") => {
            round_trip::<ValidatingAdmissionPolicy>(object)
        }
        ("admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicyBinding") => {
            round_trip::<ValidatingAdmissionPolicyBinding>(object)
        }
        _ => unknown_fields(object),
    };
    let name = format!("{kind} {}", object["metadata"]["name"]);
    found.into_iter().map(|fault| format!("{name}: {fault}")).collect()
}

fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object[field].as_str().unwrap_or_default()
}

fn round_trip<T: DeserializeOwned + Serialize>(object: &Value) -> Vec<String> {
    match serde_json::from_value::<T>(object.clone()) {
        Err(error) => vec![error.to_string()],
        Ok(read) => {
            let mut errors = Vec::new();
            find_lost("", object, &serde_json::to_value(read).expect("the object is JSON"), &mut errors);
            errors
        }
    }
}

/// Collects the fields that are in the first value and not in the second. Empty fields may be lost.
fn find_lost(path: &str, object: &Value, read: &Value, errors: &mut Vec<String>) {
    match (object, read) {
        (Value::Object(fields), _) if !read.is_null() => {
            for (name, value) in fields {
                find_lost(&format!("{path}.{name}"), value, &read[name], errors);
            }
        }
        (Value::Array(items), Value::Array(others)) if items.len() == others.len() => {
            for (index, (item, other)) in items.iter().zip(others).enumerate() {
                find_lost(&format!("{path}[{index}]"), item, other, errors);
            }
        }
        (object, read) if object == read => {}
        (object, read) => errors.push(format!("{path} is {object}, but Kubernetes reads {read}")),
    }
}

fn unknown_fields(object: &Value) -> Vec<String> {
    let (version, kind) = (text(object, "apiVersion"), text(object, "kind"));
    let Some((.., known)) = FOREIGN.iter().find(|(of, name, _)| *of == version && *name == kind) else {
        return vec![format!("kind {kind} of {version} is unknown to this test")];
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
        assert_eq!(schema_errors(&service(json!({"ports": [{"port": 1, "targetPort": "https"}]}))), [""; 0]);
        assert_eq!(schema_errors(&service(json!({"ports": [{"port": 1, "targetPorts": "https"}]}))).len(), 1);
        assert_eq!(schema_errors(&service(json!({"ports": [{"port": "1"}]}))).len(), 1);
        assert_eq!(schema_errors(&json!({"apiVersion": "v2", "kind": "Service"})).len(), 1);
    }
}
