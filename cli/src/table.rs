//! `Table`: text in aligned columns, and the colours of healthy and unhealthy states.
//!
//! A table always contains colours. The output stream (`anstream`) strips them unless it is a terminal that supports
//! them.

use std::fmt::{self, Display, Formatter};

use anstyle::{AnsiColor, Effects, Style};

pub(crate) const HEALTHY: Style = AnsiColor::Green.on_default();
pub(crate) const UNHEALTHY: Style = AnsiColor::Red.on_default();

/// The text of a cell and its style.
#[derive(Debug, Clone)]
pub(crate) struct Cell {
    pub(crate) text: String,
    pub(crate) style: Style,
}

impl Cell {
    /// A cell without a style.
    pub(crate) fn plain(text: impl AsRef<str>) -> Self {
        Self { text: text.as_ref().to_owned(), style: Style::new() }
    }
}

/// Rows of `N` columns below a heading.
#[derive(Debug)]
pub(crate) struct Table<const N: usize> {
    rows: Vec<[Cell; N]>,
}

impl<const N: usize> Table<N> {
    /// Creates a table without rows.
    pub(crate) fn new(heading: [String; N]) -> Self {
        let style = Style::new().effects(Effects::BOLD);
        Self { rows: vec![heading.map(|text| Cell { text, style })] }
    }

    pub(crate) fn push(&mut self, row: [Cell; N]) {
        self.rows.push(row);
    }
}

impl<const N: usize> Display for Table<N> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let width = |column: usize| self.rows.iter().map(|row| row[column].text.chars().count()).max();
        let widths: Vec<usize> =
            (0..N).map(|column| width(column).expect("a table has at least its heading")).collect();
        for row in &self.rows {
            for (column, Cell { text, style }) in row.iter().enumerate() {
                write!(f, "{style}{text}{style:#}")?;
                if column + 1 < N {
                    let gap = widths[column] - text.chars().count() + 2;
                    write!(f, "{:gap$}", "")?;
                }
            }
            writeln!(f)?;
        }
        Ok(())
    }
}
