//! Whether docs/operations.md says what there is: every metric, and no value of the chart that is none.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::helm::{documents, text};

/// Where metrics are named in the sources: the first text after each of these.
const NAMED_BY: [&str; 6] = ["gauge(", "counter(", "total(", ".help(", ".histogram(", "\"histogram\","];

fn metrics(source: &str) -> BTreeSet<String> {
    let source = text(source);
    let code = source.split("#[cfg(test)]").next().expect("code");
    let after =
        NAMED_BY.iter().flat_map(|call| code.match_indices(call).map(|(at, _)| &code[at + call.len()..]));
    let names = after.filter_map(|rest| rest.trim_start().strip_prefix('"')?.split('"').next());
    let is_name = |name: &&str| name.chars().all(|c| c.is_ascii_lowercase() || c == '_');
    names.filter(is_name).map(str::to_owned).collect()
}

/// Whatever stands between backticks.
fn quoted(page: &str) -> Vec<&str> {
    page.split('`').skip(1).step_by(2).collect()
}

#[test]
fn every_metric_is_explained() {
    let page = text("docs/operations.md");
    let words: BTreeSet<&str> =
        quoted(&page).into_iter().map(|word| word.split('{').next().expect("one")).collect();
    for source in ["node-agent/src/agent/metrics.rs", "webhook/src/metrics.rs"] {
        let metrics = metrics(source);
        assert!(metrics.len() > 8, "{source}: {metrics:?}");
        let missing: Vec<&String> = metrics.iter().filter(|name| !words.contains(name.as_str())).collect();
        assert!(missing.is_empty(), "docs/operations.md does not explain {missing:?} of {source}");
    }
}

#[test]
fn every_metric_to_alert_on_is_there() {
    let page = text("docs/operations.md");
    let agent = metrics("node-agent/src/agent/metrics.rs").into_iter().map(|name| format!("portico_{name}"));
    let webhook = metrics("webhook/src/metrics.rs").into_iter().map(|name| format!("portico_webhook_{name}"));
    let there: BTreeSet<String> = agent.chain(webhook).collect();
    let words =
        quoted(&page).into_iter().flat_map(|word| word.split(|c: char| !c.is_ascii_lowercase() && c != '_'));
    let named: BTreeSet<&str> =
        words.filter(|word| word.starts_with("portico_") && word.len() > 16).collect();
    assert!(named.len() > 6, "{named:?}");
    let is_there = |name: &&&str| there.contains(name.trim_end_matches("_bucket"));
    let wrong: Vec<&&str> = named.iter().filter(|name| !is_there(name)).collect();
    assert!(wrong.is_empty(), "no metrics: {wrong:?}");
}

#[test]
fn every_value_that_is_named_is_one_of_the_chart() {
    let values = documents(&text("deploy/helm/portico/values.yaml")).remove(0);
    let pages = [text("docs/operations.md"), text("README.md")];
    let named = pages.iter().flat_map(|page| quoted(page)).filter(|word| {
        ["agent.", "webhook.", "cleanup.", "serviceMonitor.", "apiServer.", "rbac."]
            .iter()
            .any(|group| word.starts_with(group))
    });
    let named: Vec<&str> = named.map(|word| word.split('=').next().expect("one")).collect();
    assert!(named.len() > 20);
    let is_value = |path: &&str| {
        let value = path.split('.').try_fold(&values, |value: &Value, name| value.get(name));
        value.is_some()
    };
    let wrong: Vec<&&str> = named.iter().filter(|path| !is_value(path)).collect();
    assert!(wrong.is_empty(), "no values of the chart: {wrong:?}");
}
