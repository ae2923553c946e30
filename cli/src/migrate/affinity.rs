//! The node affinity by which the pods of kube-proxy's DaemonSet avoid nodes that Portico serves. Pure.
//!
//! The terms of a required node affinity are alternatives, so each of them gets the expression; all else is kept. A node
//! without the label matches `NotIn`.

use proxy_core::annotation;
use proxy_core::node::ServiceProxy;
use serde_json::{Value, json};

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";

/// Whether pods with this affinity avoid nodes with the label `portico`.
pub(super) fn avoids_portico(affinity: &Value) -> bool {
    let terms = affinity["nodeAffinity"][REQUIRED]["nodeSelectorTerms"].as_array();
    terms.is_some_and(|terms| !terms.is_empty() && terms.iter().all(has_expression))
}

/// Returns the affinity with which pods avoid nodes with the label `portico`.
pub(super) fn avoiding_portico(affinity: &Value) -> Value {
    let mut changed = if affinity.is_object() { affinity.clone() } else { json!({}) };
    let required = &mut changed["nodeAffinity"][REQUIRED];
    if required["nodeSelectorTerms"].as_array().is_none_or(Vec::is_empty) {
        required["nodeSelectorTerms"] = json!([{}]);
    }
    for term in required["nodeSelectorTerms"].as_array_mut().into_iter().flatten() {
        if has_expression(term) {
            continue;
        }
        let expression = json!({"key": annotation::SERVICE_PROXY.key, "operator": "NotIn",
            "values": [ServiceProxy::Portico.name()]});
        match term["matchExpressions"].as_array_mut() {
            Some(expressions) => expressions.push(expression),
            None => term["matchExpressions"] = json!([expression]),
        }
    }
    changed
}

fn has_expression(term: &Value) -> bool {
    let is_avoidance = |expression: &Value| {
        expression["key"] == annotation::SERVICE_PROXY.key
            && expression["operator"] == "NotIn"
            && expression["values"]
                .as_array()
                .is_some_and(|values| values.iter().any(|value| value == ServiceProxy::Portico.name()))
    };
    term["matchExpressions"].as_array().is_some_and(|expressions| expressions.iter().any(is_avoidance))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_alternative_avoids_portico_and_all_else_is_kept() {
        let linux =
            json!({"matchExpressions": [{"key": "kubernetes.io/os", "operator": "In", "values": ["linux"]}]});
        let by_name = json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]});
        let affinity = json!({"podAntiAffinity": {"x": 1}, "nodeAffinity": {REQUIRED: {"nodeSelectorTerms": [linux, by_name]}}});
        assert!(!avoids_portico(&affinity));
        let changed = avoiding_portico(&affinity);
        assert!(avoids_portico(&changed));
        assert_eq!(avoiding_portico(&changed), changed);
        assert_eq!(changed["podAntiAffinity"], affinity["podAntiAffinity"]);
        let terms = &changed["nodeAffinity"][REQUIRED]["nodeSelectorTerms"];
        assert_eq!(terms[0]["matchExpressions"][0], linux["matchExpressions"][0]);
        assert_eq!(terms[0]["matchExpressions"][1]["operator"], "NotIn");
        assert_eq!(terms[1]["matchFields"], by_name["matchFields"]);
        assert_eq!(terms[1]["matchExpressions"][0]["values"], json!(["portico"]));
    }

    #[test]
    fn absent_affinity_gets_one_term() {
        for absent in [Value::Null, json!({}), json!({"nodeAffinity": {REQUIRED: {"nodeSelectorTerms": []}}})]
        {
            let changed = avoiding_portico(&absent);
            assert!(!avoids_portico(&absent) && avoids_portico(&changed), "{changed}");
            let terms = changed["nodeAffinity"][REQUIRED]["nodeSelectorTerms"].as_array().expect("terms");
            assert_eq!(terms.len(), 1);
        }
    }
}
