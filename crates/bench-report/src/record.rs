//! `Record`: one figure of one benchmark.
//!
//! Records are lines of JSON in a file to which all benchmarks of a run append.

use serde::{Deserialize, Serialize};

use crate::number::short;
use crate::spread::Spread;

/// One figure.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The name of the benchmark, as in `scripts/bench NAME`.
    pub bench: String,
    /// The table of the benchmark that contains the figure.
    pub table: String,
    /// The title of the table.
    pub title: String,
    /// The unit of the figure.
    pub unit: String,
    /// The measured program: Portico or a peer.
    pub row: String,
    /// The size of the environment, if the table compares several.
    pub size: Option<Size>,
    /// The figure with its distribution.
    pub spread: Spread,
    /// The targets of the figure.
    pub verdicts: Vec<Verdict>,
}

/// The size of an environment, such as 1,000 services.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size {
    /// The number of objects.
    pub count: u64,
    /// The kind of objects.
    pub of: String,
}

/// A target, and whether the figure meets it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// The target and the figure.
    pub text: String,
    /// Whether the figure meets the target.
    pub is_met: bool,
}

impl Verdict {
    /// The target that `what` is at most `limit`.
    #[must_use]
    pub fn at_most(what: &str, figure: f64, limit: f64) -> Self {
        Self { text: format!("{what} <= {}: {}", short(limit), short(figure)), is_met: figure <= limit }
    }

    /// The target that `what` is at least `limit`.
    #[must_use]
    pub fn at_least(what: &str, figure: f64, limit: f64) -> Self {
        Self { text: format!("{what} >= {}: {}", short(limit), short(figure)), is_met: figure >= limit }
    }
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}{}", self.text, if self.is_met { "" } else { ", **missed**" })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Returns a figure of one table.
    pub(crate) fn record(row: &str, count: Option<u64>, samples: Vec<f64>) -> Record {
        Record {
            bench: "bench".to_owned(),
            table: "table".to_owned(),
            title: "a title".to_owned(),
            unit: "ms".to_owned(),
            row: row.to_owned(),
            size: count.map(|count| Size { count, of: "services".to_owned() }),
            spread: Spread::of(samples),
            verdicts: Vec::new(),
        }
    }

    #[test]
    fn missed_target_is_marked() {
        assert_eq!(Verdict::at_most("p99, ms", 10.31, 30.0).to_string(), "p99, ms <= 30: 10.3");
        assert_eq!(
            Verdict::at_least("times the peer", 0.5, 1.05).to_string(),
            "times the peer >= 1.05: 0.5, **missed**"
        );
    }
}
