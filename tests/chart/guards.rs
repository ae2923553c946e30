//! The admission policies of the chart, which limit the writes of the webhook's service account.
//!
//! The webhook's tests check on a real API server that the policies deny such writes. The tests here need no API server.

use std::collections::BTreeSet;

use serde_json::Value;

use test_support::helm::{objects, one};

const POLICY: &str = "ValidatingAdmissionPolicy";
const REGISTRATION: &str = "MutatingWebhookConfiguration";

/// All expressions of a policy.
fn expressions(policy: &Value) -> String {
    let of = |list: &Value| -> Vec<String> {
        let entries = list.as_array().into_iter().flatten();
        entries.filter_map(|entry| Some(entry["expression"].as_str()?.to_owned())).collect()
    };
    let spec = &policy["spec"];
    [of(&spec["matchConditions"]), of(&spec["variables"]), of(&spec["validations"])].concat().join("\n")
}

#[test]
fn policy_compares_every_registered_field_except_the_ca_bundle() {
    let objects = objects(&["commonAnnotations.note=x"]);
    let policy = one(&objects, POLICY, "-registration");
    let text = expressions(policy);
    let registered = one(&objects, REGISTRATION, "");
    let mut fields = BTreeSet::new();
    for webhook in registered["webhooks"].as_array().expect("a list") {
        let webhook = webhook.as_object().expect("fields");
        fields.extend(webhook.keys().filter(|key| *key != "name" && *key != "clientConfig").cloned());
        let config = webhook["clientConfig"].as_object().expect("fields");
        fields.extend(config.keys().map(|key| format!("clientConfig.{key}")));
    }
    assert!(fields.len() >= 10 && !fields.contains("clientConfig.caBundle"), "{fields:?}");
    for field in fields {
        assert!(text.contains(&format!("after.{field} == before.{field}")), "{field} is not in {text}");
    }
    for field in registered["metadata"].as_object().expect("fields").keys() {
        assert!(text.contains(&format!("object.metadata.{field} == oldObject.metadata.{field}")), "{field}");
    }
    assert_eq!(policy["spec"]["failurePolicy"], "Fail");
}

#[test]
fn every_policy_is_bound_and_denies() {
    let objects = objects(&[]);
    let policies: Vec<&Value> = objects.iter().filter(|object| object["kind"] == POLICY).collect();
    assert!(policies.len() >= 3, "{policies:?}");
    for policy in policies {
        let bound = objects.iter().find(|object| {
            object["kind"] == "ValidatingAdmissionPolicyBinding"
                && object["spec"]["policyName"] == policy["metadata"]["name"]
        });
        assert_eq!(bound.expect("a binding")["spec"]["validationActions"], serde_json::json!(["Deny"]));
    }
}

#[test]
fn webhook_that_does_not_register_itself_has_no_right_to() {
    for values in [
        &["webhook.tls.mode=cert-manager"][..],
        &[
            "webhook.tls.mode=secret",
            "webhook.tls.secretName=x",
            "webhook.tls.caBundle=-----BEGIN CERTIFICATE-----\nAAAA",
        ],
    ] {
        let text = serde_json::to_string(&objects(values)).expect("JSON");
        assert!(text.contains("--register=none"), "{values:?}");
        assert!(!text.contains("\"mutatingwebhookconfigurations\""), "{values:?}");
    }
    let text = serde_json::to_string(&objects(&[])).expect("JSON");
    assert!(text.contains("--register=ca-bundle") && !text.contains("\"create\",\"mutating"));
}
