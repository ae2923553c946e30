//! The rules of the API server for the environment in a pod (core/validation `ValidateEnv`, `validateEnvFrom`) that a
//! patch could violate.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

const LISTS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

/// Returns all violations in a pod.
pub(super) fn violations(pod: &Value) -> Vec<String> {
    let mut found = Vec::new();
    let annotations = pod["metadata"].get("annotations").map(|value| value.as_object().expect("a map"));
    for (name, text) in annotations.into_iter().flatten() {
        if !text.is_string() || !is_qualified(name) {
            found.push(format!("annotation {name}: {text}"));
        }
    }
    if !pod["spec"].get("enableServiceLinks").is_none_or(Value::is_boolean) {
        found.push("enableServiceLinks".to_owned());
    }
    for list in LISTS {
        for container in pod["spec"].get(list).and_then(Value::as_array).into_iter().flatten() {
            let mut report = |what: String| found.push(format!("{list} {}: {what}", container["name"]));
            env(container, &mut report);
            env_from(container, &mut report);
        }
    }
    found
}

fn is_qualified(name: &str) -> bool {
    let is_part = |text: &str| !text.is_empty() && text.len() <= 253;
    name.splitn(2, '/').all(is_part)
}

fn keys(value: &Value) -> BTreeSet<&str> {
    value.as_object().map(Map::keys).into_iter().flatten().map(String::as_str).collect()
}

fn env(container: &Value, report: &mut impl FnMut(String)) {
    let Some(env) = container.get("env") else { return };
    for entry in env.as_array().expect("env is a list") {
        let name = entry["name"].as_str().unwrap_or("");
        // Relaxed names, which every supported API server accepts: printable, without `=`.
        if name.is_empty() || !name.chars().all(|c| (' '..='~').contains(&c) && c != '=') {
            report(format!("name {name:?}"));
        }
        if !keys(entry).is_subset(&BTreeSet::from(["name", "value", "valueFrom"])) {
            report(format!("unknown field in {entry}"));
        }
        let has_value = entry.get("value").is_some_and(|value| value != "");
        let sources = entry.get("valueFrom").map(|from| keys(from).len());
        if sources.is_some_and(|count| count != 1 || has_value) {
            report(format!("value and source in {entry}"));
        }
    }
}

fn env_from(container: &Value, report: &mut impl FnMut(String)) {
    let Some(sources) = container.get("envFrom") else { return };
    for source in sources.as_array().expect("envFrom is a list") {
        let references: Vec<&str> =
            keys(source).into_iter().filter(|key| *key == "configMapRef" || *key == "secretRef").collect();
        let known = keys(source).is_subset(&BTreeSet::from(["configMapRef", "secretRef", "prefix"]));
        let [reference] = references[..] else {
            report(format!("not one reference in {source}"));
            continue;
        };
        let name = source[reference]["name"].as_str().unwrap_or("");
        let is_valid = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
        if !known || name.is_empty() || name.len() > 253 || !name.chars().all(is_valid) {
            report(format!("source {source}"));
        }
    }
}

/// Returns the number of duplicate names in the `env` of all containers.
pub(super) fn duplicates(pod: &Value) -> usize {
    let containers = LISTS.iter().filter_map(|list| pod["spec"].get(*list)?.as_array()).flatten();
    let surplus = containers.map(|container| {
        let entries = container.get("env").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let names: BTreeSet<&str> = entries.iter().filter_map(|entry| entry["name"].as_str()).collect();
        entries.len() - names.len()
    });
    surplus.sum()
}
