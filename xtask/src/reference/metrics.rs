//! A metrics page of Prometheus's text format as a table: names, types, labels, what they say.
//!
//! What must not go in here: values, or metrics that are not on the page.

use std::collections::BTreeSet;

use crate::reference::{code, sentence, table};

/// The table of a page; a metric whose labels are to be told has a sample there.
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
    table(&["metric", "type", "labels", "what it says"], &rows)
}

/// Whatever stands before `=` between the braces of this metric's samples. A histogram's `le` goes without saying.
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
    fn a_metric_has_its_type_its_labels_and_its_help() {
        let page = "# HELP a_total how many\n# TYPE a_total counter\na_total{kind=\"x\"} 1\n";
        let line = "| `a_total` | counter | `kind` | How many. |";
        assert!(metrics(page).lines().any(|found| found == line), "{}", metrics(page));
    }
}
