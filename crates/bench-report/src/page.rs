//! The page that shows all figures: text by hand, and marked places that are filled anew by each run.
//!
//! A place is all between `<!-- figures: BENCH/TABLE -->`, or `<!-- chart: BENCH/TABLE -->`, and `<!-- end -->`; one more
//! holds the machine. Figures without a place, or a place without figures, are errors: else a table would go stale in
//! silence.

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
    /// A place that never ends.
    #[error("line {line}: the place \"{place}\" has no {END}")]
    Endless {
        /// Where it begins.
        line: usize,
        /// What it says.
        place: String,
    },
    /// Tables that nobody shows, and places that nobody fills.
    #[error("figures without a place: {homeless:?}; places without figures: {empty:?}")]
    Unequal {
        /// BENCH/TABLE of figures.
        homeless: Vec<String>,
        /// BENCH/TABLE of places.
        empty: Vec<String>,
    },
}

/// A page and its charts.
#[derive(Debug, Default, PartialEq)]
pub struct Filled {
    /// The text.
    pub page: String,
    /// The charts by the names of their files, which are in the folder `charts` beside the page.
    pub charts: BTreeMap<String, String>,
}

/// The page with these figures.
///
/// # Errors
///
/// If a place never ends, or figures and places are not the same ones.
pub fn fill(page: &str, machine: &str, records: &[Record]) -> Result<Filled, PageError> {
    let mut tables: BTreeMap<String, Vec<&Record>> = BTreeMap::new();
    for record in records {
        tables.entry(format!("{}/{}", record.bench, record.table)).or_default().push(record);
    }
    let (mut filled, mut empty, mut shown) = (Filled::default(), Vec::new(), BTreeSet::new());
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
            return Err(PageError::Endless { line: index + 1, place: line.to_owned() });
        }
        filled.page.push_str(&format!("{}\n{END}\n", content.unwrap_or_default()));
    }
    let homeless: Vec<String> =
        tables.keys().filter(|name| !shown.contains(name.as_str())).cloned().collect();
    if homeless.is_empty() && empty.is_empty() {
        Ok(filled)
    } else {
        Err(PageError::Unequal { homeless, empty })
    }
}

impl Filled {
    /// Draws a chart of a table, and gives what shows it in the page.
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
    fn places_are_filled_anew_and_all_else_stays() {
        let filled = fill(PAGE, "a machine", &[record("ours", None, vec![2.0])]).unwrap().page;
        let expected = "# Figures\n<!-- machine -->\na machine\n<!-- end -->\nwhy\n\n<!-- figures: bench/table -->\n\
                        | a title, ms | median | lowest | p99 | highest | samples |\n|---|---|---|---|---|---|\n\
                        | ours | **2** |  |  |  | 1 |\n<!-- end -->\nafter\n";
        assert_eq!(filled, expected);
        assert_eq!(fill(&filled, "a machine", &[record("ours", None, vec![2.0])]).unwrap().page, filled);
    }

    #[test]
    fn a_chart_lies_beside_the_page_that_shows_it() {
        let page = "<!-- chart: bench/table -->\n<!-- end -->\n<!-- figures: bench/table -->\n<!-- end -->\n";
        let records = [100, 1_000].map(|count| record("ours", Some(count), vec![2.0]));
        let Filled { page, charts } = fill(page, "", &records).unwrap();
        assert!(page.contains("\n![a title](charts/bench-table.svg)\n"), "{page}");
        assert_eq!(charts.keys().collect::<Vec<_>>(), ["bench-table.svg"]);
    }

    #[test]
    fn neither_figures_nor_places_go_missing() {
        let empty = fill(PAGE, "", &[]).unwrap_err();
        let place = "<!-- figures: bench/table -->".to_owned();
        assert_eq!(empty, PageError::Unequal { homeless: vec![], empty: vec![place] });
        let homeless = fill("", "", &[record("ours", None, vec![2.0])]).unwrap_err();
        assert_eq!(homeless, PageError::Unequal { homeless: vec!["bench/table".to_owned()], empty: vec![] });
        let endless = fill("\n<!-- machine -->\n", "", &[]).unwrap_err();
        assert_eq!(endless, PageError::Endless { line: 2, place: MACHINE.to_owned() });
    }
}
