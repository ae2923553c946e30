//! What benchmarks measured, from the run to the page.
//!
//! A benchmark puts each of its figures on a `Sheet`, which prints it and writes it down as a `Record`. After the last
//! one the program `bench-report` makes tables and charts of all records: `page` fills the marked places of
//! docs/benchmarks.md, `chart` draws how they grow. So every figure there is of one run and nobody copies any.
//! What must not go in here: measuring, and what the figures mean (that stands in the page, by hand).

mod chart;
mod number;
mod page;
mod record;
mod sheet;
mod spread;
mod table;

pub use page::{Filled, PageError, fill};
pub use record::{Record, Size, Verdict};
pub use sheet::{Rows, Scale, Sheet, is_quick};
pub use spread::Spread;
