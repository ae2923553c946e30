//! The page of all figures: handwritten text, and marked sections that each run replaces.
//!
//! A section starts with `<!-- figures: BENCH/TABLE -->`, `<!-- chart: BENCH/TABLE -->` or `<!-- machine -->`, and ends
//! with `<!-- end -->`. Figures without a section, and a section without figures, are errors; otherwise a table could
//! be out of date unnoticed.

use std::collections::{BTreeMap, BTreeSet};

use thiserror::Error;

use crate::chart::chart;
use crate::record::Record;
use crate::table::table;

const MACHINE: &str = "<!-- machine -->";
const FIGURES: &str = "<!-- figures: ";
const CHART: &str = "<!-- chart: ";
const CLOSE: &str = " -->";
const END: &str = "<!-- end -->";

/// Why a page cannot be filled.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum PageError {
    /// A section without an end.
    #[error("line {line}: the section \"{section}\" has no {END}")]
    Unterminated {
        /// The line of its mark.
        line: usize,
        /// Its mark.
        section: String,
    },
    /// The sections do not match the tables.
    #[error("figures without a section: {unused:?}; sections without figures: {empty:?}")]
    Mismatch {
        /// BENCH/TABLE of the figures.
        unused: Vec<String>,
        /// The marks of the sections.
        empty: Vec<String>,
    },
}

/// The page and its charts.
#[derive(Debug, Default, PartialEq)]
pub struct RenderedPage {
    /// The text.
    pub page: String,
    /// The charts by file name, in the directory `charts` next to the page.
    pub charts: BTreeMap<String, String>,
}

/// Replaces the sections of the page by these figures.
///
/// # Errors
///
/// If a section has no end, or sections and figures do not match.
pub fn fill(page: &str, machine: &str, records: &[Record]) -> Result<RenderedPage, PageError> {
    let mut tables: BTreeMap<String, Vec<&Record>> = BTreeMap::new();
    for record in records {
        tables.entry(format!("{}/{}", record.bench, record.table)).or_default().push(record);
    }
    let (mut filled, mut empty, mut shown) = (RenderedPage::default(), Vec::new(), BTreeSet::new());
    let mut lines = page.lines().enumerate();
    while let Some((index, line)) = lines.next() {
        filled.page.push_str(line);
        filled.page.push('\n');
        let named = |mark| line.strip_prefix(mark).and_then(|rest: &str| rest.strip_suffix(CLOSE));
        let content = if line == MACHINE {
            Some(machine.to_owned())
        } else if let Some(name) = named(FIGURES) {
            shown.insert(name);
            tables.get(name).map(|records| table(records))
        } else if let Some(name) = named(CHART) {
            tables.get(name).and_then(|records| filled.draw(name, records))
        } else {
            continue;
        };
        if content.is_none() {
            empty.push(line.to_owned());
        }
        if !lines.any(|(_, line)| line == END) {
            return Err(PageError::Unterminated { line: index + 1, section: line.to_owned() });
        }
        filled.page.push_str(&format!("{}\n{END}\n", content.unwrap_or_default()));
    }
    let unused: Vec<String> = tables.keys().filter(|name| !shown.contains(name.as_str())).cloned().collect();
    if unused.is_empty() && empty.is_empty() {
        Ok(filled)
    } else {
        Err(PageError::Mismatch { unused, empty })
    }
}

impl RenderedPage {
    /// Draws the chart of a table, and returns the Markdown that shows it.
    fn draw(&mut self, name: &str, records: &[&Record]) -> Option<String> {
        let file = format!("{}.svg", name.replace('/', "-"));
        let shown = format!("![{}](charts/{file})", records.first()?.title);
        self.charts.insert(file, chart(records)?);
        Some(shown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::tests::record;

    const PAGE: &str = "# Figures\n<!-- machine -->\nan old one\n<!-- end -->\nwhy\n\n<!-- figures: bench/table -->\n\
                        | old |\n<!-- end -->\nafter\n";

    #[test]
    fn sections_are_replaced_and_the_rest_stays() {
        let filled = fill(PAGE, "a machine", &[record("ours", None, vec![2.0])]).unwrap().page;
        let expected = "# Figures\n<!-- machine -->\na machine\n<!-- end -->\nwhy\n\n<!-- figures: bench/table -->\n\
                        | a title, ms | median | lowest | p99 | highest | samples |\n|---|---|---|---|---|---|\n\
                        | ours | **2** |  |  |  | 1 |\n<!-- end -->\nafter\n";
        assert_eq!(filled, expected);
        assert_eq!(fill(&filled, "a machine", &[record("ours", None, vec![2.0])]).unwrap().page, filled);
    }

    #[test]
    fn chart_is_next_to_the_page_that_shows_it() {
        let page = "<!-- chart: bench/table -->\n<!-- end -->\n<!-- figures: bench/table -->\n<!-- end -->\n";
        let records = [100, 1_000].map(|count| record("ours", Some(count), vec![2.0]));
        let RenderedPage { page, charts } = fill(page, "", &records).unwrap();
        assert!(page.contains("\n![a title](charts/bench-table.svg)\n"), "{page}");
        assert_eq!(charts.keys().collect::<Vec<_>>(), ["bench-table.svg"]);
    }

    #[test]
    fn figures_and_sections_must_match() {
        let empty = fill(PAGE, "", &[]).unwrap_err();
        let section = "<!-- figures: bench/table -->".to_owned();
        assert_eq!(empty, PageError::Mismatch { unused: vec![], empty: vec![section] });
        let unused = fill("", "", &[record("ours", None, vec![2.0])]).unwrap_err();
        assert_eq!(unused, PageError::Mismatch { unused: vec!["bench/table".to_owned()], empty: vec![] });
        let unterminated = fill("\n<!-- machine -->\n", "", &[]).unwrap_err();
        assert_eq!(unterminated, PageError::Unterminated { line: 2, section: MACHINE.to_owned() });
    }
}
