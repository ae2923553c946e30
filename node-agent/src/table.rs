//! `Table`: aligned columns; whether colour reaches the reader is decided by the stream it is written to.

use std::fmt::{self, Display, Formatter};

use anstyle::{Effects, Style};

/// One field of a table.
#[derive(Debug, Clone)]
pub(crate) struct Cell {
    /// What it says.
    pub(crate) text: String,
    /// How it looks.
    pub(crate) style: Style,
}

impl Cell {
    /// A field without colour.
    pub(crate) fn plain(text: impl AsRef<str>) -> Self {
        Self { text: text.as_ref().to_owned(), style: Style::new() }
    }
}

/// Rows of `N` aligned columns below a heading.
#[derive(Debug)]
pub(crate) struct Table<const N: usize> {
    rows: Vec<[Cell; N]>,
}

impl<const N: usize> Table<N> {
    /// A table with this heading.
    pub(crate) fn new(heading: [String; N]) -> Self {
        let style = Style::new().effects(Effects::BOLD);
        Self { rows: vec![heading.map(|text| Cell { text, style })] }
    }

    /// Adds a row.
    pub(crate) fn push(&mut self, row: [Cell; N]) {
        self.rows.push(row);
    }
}

impl<const N: usize> Display for Table<N> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let width = |column: usize| self.rows.iter().map(|row| row[column].text.chars().count()).max();
        let widths: Vec<usize> = (0..N).map(|column| width(column).unwrap_or(0)).collect();
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
