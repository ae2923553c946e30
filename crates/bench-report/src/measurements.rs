//! `Sheet`: collects the figures of a benchmark.
//!
//! Each figure is printed at once, and appended to the file in `PORTICO_BENCH_FIGURES`, if that is set.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::PathBuf;

use crate::number::short;
use crate::record::{Record, Size, Verdict};
use crate::spread::Spread;

const FIGURES: &str = "PORTICO_BENCH_FIGURES";

/// Whether a benchmark must use small sizes and few rounds, only to check that it runs.
#[must_use]
pub fn is_quick() -> bool {
    std::env::var_os("PORTICO_BENCH_QUICK").is_some()
}

/// The figures of one benchmark.
pub struct Sheet {
    bench: &'static str,
    file: Option<File>,
}

impl Sheet {
    /// Opens the sheet of a benchmark.
    ///
    /// # Panics
    ///
    /// If the file for the figures cannot be opened: a long run without results would be useless.
    #[must_use]
    pub fn open(bench: &'static str) -> Self {
        let open = |path: PathBuf| {
            let file = OpenOptions::new().create(true).append(true).open(&path);
            file.unwrap_or_else(|why| panic!("failed to open {}, from {FIGURES}: {why}", path.display()))
        };
        Self { bench, file: std::env::var_os(FIGURES).map(|path| open(path.into())) }
    }

    /// Starts a table of several programs in one environment.
    pub fn rows(&self, table: &'static str, title: &str, unit: &'static str) -> Rows<'_> {
        heading(title, unit);
        Rows { sheet: self, table, title: title.to_owned(), unit }
    }

    /// Starts a table of programs in environments of several sizes.
    pub fn scale(&self, table: &'static str, title: &str, unit: &'static str, of: &'static str) -> Scale<'_> {
        heading(title, unit);
        Scale { rows: Rows { sheet: self, table, title: title.to_owned(), unit }, of }
    }
}

#[allow(clippy::print_stdout)] // A benchmark prints its report.
fn heading(title: &str, unit: &str) {
    println!("\n{title}, {unit}");
}

/// A table without sizes, from `Sheet::rows`.
pub struct Rows<'a> {
    sheet: &'a Sheet,
    table: &'static str,
    title: String,
    unit: &'static str,
}

impl Rows<'_> {
    /// Adds a figure and its targets.
    pub fn put(&self, row: &str, spread: &Spread, verdicts: &[Verdict]) {
        self.write(row, None, spread, verdicts);
    }

    #[allow(clippy::print_stdout)] // A benchmark prints its report.
    fn write(&self, row: &str, size: Option<Size>, spread: &Spread, verdicts: &[Verdict]) {
        // Targets apply to the full sizes.
        let verdicts = if is_quick() { Vec::new() } else { verdicts.to_vec() };
        let name =
            size.as_ref().map_or_else(|| row.to_owned(), |size| format!("{row}, {} {}", size.count, size.of));
        let Spread { median, lowest, p99, highest, samples } = *spread;
        let [median, lowest, p99, highest] = [median, lowest, p99, highest].map(short);
        print!("{name:<60} median {median:>9}");
        if samples > 1 {
            print!("  lowest {lowest:>9}  p99 {p99:>9}  highest {highest:>9}");
        }
        println!();
        verdicts.iter().for_each(|verdict| println!("    {verdict}"));
        let Self { sheet: Sheet { bench, file }, table, title, unit } = self;
        let Some(mut file) = file.as_ref() else { return };
        let record = Record {
            bench: (*bench).to_owned(),
            table: (*table).to_owned(),
            title: title.clone(),
            unit: (*unit).to_owned(),
            row: row.to_owned(),
            size,
            spread: *spread,
            verdicts,
        };
        let mut line = serde_json::to_vec(&record).expect("a record contains no map, so all keys are text");
        line.push(b'\n');
        file.write_all(&line).unwrap_or_else(|why| panic!("failed to write the figures: {why}"));
    }
}

/// A table with sizes, from `Sheet::scale`.
pub struct Scale<'a> {
    rows: Rows<'a>,
    of: &'static str,
}

impl Scale<'_> {
    /// Adds a figure in an environment of this size, and its targets.
    pub fn put(&self, row: &str, count: impl Into<u64>, spread: &Spread, verdicts: &[Verdict]) {
        let size = Size { count: count.into(), of: self.of.to_owned() };
        self.rows.write(row, Some(size), spread, verdicts);
    }
}
