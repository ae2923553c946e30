//! References in docs/operations.md: every metric and every value of the chart that the page names exists.

use std::collections::BTreeSet;

use serde_json::Value;

use test_support::helm::{documents, text};

/// The texts in backticks.
fn quoted(page: &str) -> Vec<&str> {
    page.split('`').skip(1).step_by(2).collect()
}

#[test]
fn every_metric_of_an_alert_exists() {
    let page = text("docs/operations.md");
    // Both pages are generated from the code, see tests/unprivileged/reference.rs.
    let pages = ["agent", "webhook"].map(|program| text(&format!("docs/reference/{program}-metrics.md")));
    let there: BTreeSet<&str> = pages.iter().flat_map(|page| quoted(page)).collect();
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
fn every_value_in_the_page_exists_in_the_chart() {
    let values = documents(&text("deploy/helm/portico/values.yaml")).remove(0);
    let pages = ["operations", "security"].map(|page| text(&format!("docs/{page}.md")));
    let pages = pages.into_iter().chain([text("README.md")]).collect::<Vec<_>>();
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
