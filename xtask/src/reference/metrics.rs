//! Renders a page in the text format of Prometheus as a table: names, types, labels, descriptions.

use std::collections::BTreeSet;

use crate::reference::{code, sentence, table};

/// Renders the table of a page. The labels of a metric are those of its samples there.
#[must_use]
pub fn metrics(page: &str) -> String {
    let rows: Vec<Vec<String>> = page
        .lines()
        .filter_map(|line| line.strip_prefix("# HELP ")?.split_once(' '))
        .map(|(name, help)| {
            let kind = page.lines().find_map(|line| line.strip_prefix(&format!("# TYPE {name} ")));
            vec![code(name), kind.unwrap_or_default().to_owned(), labels(page, name), sentence(help)]
        })
        .collect();
    table(&["metric", "type", "labels", "description"], &rows)
}

/// Returns the names of the labels in the samples of a metric. Samples of a histogram have other names, so `le` is absent.
fn labels(page: &str, name: &str) -> String {
    let samples = page.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('{')?.split_once('}'));
    let pairs = samples.flat_map(|(labels, _)| labels.split(','));
    let names: BTreeSet<String> = pairs.filter_map(|pair| Some(code(pair.split_once('=')?.0))).collect();
    names.into_iter().collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metric_has_its_type_labels_and_help() {
        let page = "# HELP a_total how many\n# TYPE a_total counter\na_total{kind=\"x\"} 1\n";
        let line = "| `a_total` | counter | `kind` | How many. |";
        assert!(metrics(page).lines().any(|found| found == line), "{}", metrics(page));
    }
}
