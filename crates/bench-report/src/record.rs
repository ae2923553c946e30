//! `Record`: one figure of one benchmark, as it is written down.
//!
//! Records are lines of JSON in a file that all benchmarks of a run append to.

use serde::{Deserialize, Serialize};

use crate::number::short;
use crate::spread::Spread;

/// One figure.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The benchmark, as `scripts/bench NAME` calls it.
    pub bench: String,
    /// Which of its tables this belongs to.
    pub table: String,
    /// What the table tells.
    pub title: String,
    /// The unit of the figure.
    pub unit: String,
    /// What was measured: ours, or a peer.
    pub row: String,
    /// How large the world was, where a table compares several.
    pub size: Option<Size>,
    /// The figure.
    pub spread: Spread,
    /// What was asked of it.
    pub verdicts: Vec<Verdict>,
}

/// How large a world was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size {
    /// So many.
    pub count: u64,
    /// Of these.
    pub of: String,
}

/// Whether a target is met.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// What was asked for, and what came of it.
    pub text: String,
    /// Whether that is enough.
    pub is_met: bool,
}

impl Verdict {
    /// `what` is asked to be no more than `limit`.
    #[must_use]
    pub fn at_most(what: &str, figure: f64, limit: f64) -> Self {
        Self { text: format!("{what} <= {}: {}", short(limit), short(figure)), is_met: figure <= limit }
    }

    /// `what` is asked to be no less than `limit`.
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

    /// A figure of one table, as other tests need it.
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
    fn a_missed_target_says_so() {
        assert_eq!(Verdict::at_most("p99, ms", 10.31, 30.0).to_string(), "p99, ms <= 30: 10.3");
        assert_eq!(
            Verdict::at_least("times the peer", 0.5, 1.05).to_string(),
            "times the peer >= 1.05: 0.5, **missed**"
        );
    }
}
