//! Results of benchmarks, from the run to the page.
//!
//! A benchmark adds its figures to a `Sheet`, which prints each and appends it to a file as a `Record`. After the last
//! benchmark, the program `bench-report` renders all records: `page` fills the marked sections of docs/benchmarks.md,
//! and `chart` draws how figures grow. So all figures of the page are of one run, and none is copied by hand. The text
//! between them explains the figures; benchmarks themselves measure.

mod chart;
mod measurements;
mod number;
mod page;
mod record;
mod spread;
mod table;

pub use measurements::{Rows, Scale, Sheet, is_quick};
pub use page::{PageError, RenderedPage, fill};
pub use record::{Record, Size, Verdict};
pub use spread::Spread;
