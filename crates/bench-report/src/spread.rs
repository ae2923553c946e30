//! `Spread`: the distribution of repeated measurements.

use std::hint::black_box;
use std::time::Instant;

use serde::{Deserialize, Serialize};

/// The median and the extremes of some measurements.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// The median.
    pub median: f64,
    /// The smallest measurement.
    pub lowest: f64,
    /// The 99th percentile.
    pub p99: f64,
    /// The largest measurement.
    pub highest: f64,
    /// The number of measurements.
    pub samples: usize,
}

impl Spread {
    /// Computes the distribution of these measurements.
    ///
    /// # Panics
    ///
    /// If there are none: a benchmark that measured nothing is broken.
    #[must_use]
    pub fn of(mut samples: Vec<f64>) -> Self {
        assert!(!samples.is_empty(), "no measurements");
        samples.sort_by(f64::total_cmp);
        let at = |share: usize| samples[(samples.len() * share / 100).min(samples.len() - 1)];
        Self { median: at(50), lowest: at(0), p99: at(99), highest: at(100), samples: samples.len() }
    }

    /// Measures `runs` runs of `work`, each on a new input. The unit is a second divided by `per_second`. Creating inputs
    /// and dropping results is not measured.
    pub fn timed<I, T>(
        runs: usize,
        per_second: f64,
        mut input: impl FnMut() -> I,
        mut work: impl FnMut(I) -> T,
    ) -> Self {
        let mut measure = |_| {
            let input = input();
            let start = Instant::now();
            let result = black_box(work(input));
            let duration = start.elapsed();
            drop(result);
            duration.as_secs_f64() * per_second
        };
        Self::of((0..runs).map(&mut measure).collect())
    }

    /// Measures each of these subjects `rounds` times, in turns, so that a disturbance of the machine affects all.
    pub fn in_turns<T>(rounds: usize, subjects: &[T], mut measure: impl FnMut(&T) -> f64) -> Vec<Self> {
        let mut samples: Vec<Vec<f64>> = subjects.iter().map(|_| Vec::with_capacity(rounds)).collect();
        for _ in 0..rounds {
            for (subject, samples) in subjects.iter().zip(&mut samples) {
                samples.push(measure(subject));
            }
        }
        samples.into_iter().map(Self::of).collect()
    }

    /// The distribution of a single measurement.
    #[must_use]
    pub fn one(figure: f64) -> Self {
        Self::of(vec![figure])
    }

    /// Returns the ratio of this median to another one.
    #[must_use]
    pub fn times(&self, other: &Self) -> f64 {
        self.median / other.median
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_and_extremes_do_not_depend_on_the_order() {
        let spread = Spread::of((0..200).rev().map(f64::from).collect());
        assert_eq!((spread.lowest, spread.median, spread.p99, spread.highest), (0.0, 100.0, 198.0, 199.0));
        assert_eq!(Spread::one(7.0), Spread { median: 7.0, lowest: 7.0, p99: 7.0, highest: 7.0, samples: 1 });
    }
}
