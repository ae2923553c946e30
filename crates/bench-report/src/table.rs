//! Renders a table of figures in Markdown.
//!
//! If a table compares environments of several sizes, each size is a column; otherwise the columns are the median, the
//! extremes and the p99.

use std::fmt::Write;

use crate::number::{grouped, short};
use crate::record::{Record, Size, Verdict};
use crate::spread::Spread;

/// With fewer samples, the p99 is the highest.
const SAMPLES_OF_P99_MIN: usize = 100;

/// Renders a table, with rows in the order of measurement.
pub(crate) fn table(records: &[&Record]) -> String {
    let Some(first) = records.first() else { return String::new() };
    let sizes = sizes(records);
    let columns: Vec<String> = if sizes.is_empty() {
        ["median", "lowest", "p99", "highest", "samples"].map(str::to_owned).to_vec()
    } else {
        sizes.iter().map(|size| format!("{} {}", count(size), size.of)).collect()
    };
    let is_judged = records.iter().any(|record| !record.verdicts.is_empty());
    let mut text = format!("| {}, {} |", first.title, first.unit);
    columns.iter().for_each(|column| push(&mut text, column));
    if is_judged {
        push(&mut text, "target");
    }
    text.push_str("\n|---|");
    text.push_str(&"---|".repeat(columns.len() + usize::from(is_judged)));
    for row in rows(records) {
        let of_row: Vec<&Record> = records.iter().copied().filter(|record| record.row == row).collect();
        let _ = write!(text, "\n| {row} |");
        if sizes.is_empty() {
            wide(&of_row[0].spread).iter().for_each(|cell| push(&mut text, cell));
        }
        for size in &sizes {
            let found = of_row.iter().find(|record| record.size.as_ref() == Some(size));
            push(&mut text, &found.map_or_else(String::new, |record| narrow(&record.spread)));
        }
        if is_judged {
            let verdicts = of_row.iter().flat_map(|record| &record.verdicts).map(Verdict::to_string);
            push(&mut text, &verdicts.collect::<Vec<_>>().join("; "));
        }
    }
    text
}

/// Returns the names of the rows, each once.
pub(crate) fn rows<'a>(records: &[&'a Record]) -> Vec<&'a str> {
    let mut rows: Vec<&str> = Vec::new();
    for record in records {
        if !rows.contains(&record.row.as_str()) {
            rows.push(&record.row);
        }
    }
    rows
}

/// Returns the sizes of the environments in ascending order.
pub(crate) fn sizes(records: &[&Record]) -> Vec<Size> {
    let mut sizes: Vec<Size> = records.iter().filter_map(|record| record.size.clone()).collect();
    sizes.sort_by_key(|size| size.count);
    sizes.dedup();
    sizes
}

/// Formats the number of objects.
pub(crate) fn count(size: &Size) -> String {
    grouped(i64::try_from(size.count).unwrap_or(i64::MAX))
}

fn push(text: &mut String, cell: &str) {
    let _ = write!(text, " {cell} |");
}

fn wide(spread: &Spread) -> [String; 5] {
    let Spread { median, lowest, p99, highest, samples } = *spread;
    let median = format!("**{}**", short(median));
    if samples == 1 {
        return [median, String::new(), String::new(), String::new(), "1".to_owned()];
    }
    let p99 = if samples >= SAMPLES_OF_P99_MIN { short(p99) } else { String::new() };
    [median, short(lowest), p99, short(highest), grouped(i64::try_from(samples).unwrap_or(i64::MAX))]
}

fn narrow(spread: &Spread) -> String {
    let Spread { median, lowest, p99: _, highest, samples } = *spread;
    let median = format!("**{}**", short(median));
    if samples == 1 { median } else { format!("{median} ({}-{})", short(lowest), short(highest)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::tests::record;

    #[test]
    fn table_without_sizes_shows_distribution_and_target() {
        let mut ours = record("ours", None, vec![1.0, 2.0, 3.0]);
        ours.verdicts = vec![Verdict::at_most("ms", 2.0, 1.0)];
        let peer = record("peer", None, vec![500.0]);
        let expected = "| a title, ms | median | lowest | p99 | highest | samples | target |\n\
                        |---|---|---|---|---|---|---|\n\
                        | ours | **2** | 1 |  | 3 | 3 | ms <= 1: 2, **missed** |\n\
                        | peer | **500** |  |  |  | 1 |  |";
        assert_eq!(table(&[&ours, &peer]), expected);
    }

    #[test]
    fn sizes_are_ordered_columns_and_missing_figures_are_empty() {
        let records = [
            record("ours", Some(10_000), vec![9.0]),
            record("ours", Some(100), vec![2.0]),
            record("peer", Some(100), vec![3.0, 4.0]),
        ];
        let expected = "| a title, ms | 100 services | 10,000 services |\n\
                        |---|---|---|\n\
                        | ours | **2** | **9** |\n\
                        | peer | **4** (3-4) |  |";
        assert_eq!(table(&records.iter().collect::<Vec<_>>()), expected);
    }
}
