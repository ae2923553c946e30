//! `Spread`: what repeated measurements of one thing say.

use std::hint::black_box;
use std::time::Instant;

use serde::{Deserialize, Serialize};

/// The middle of some measurements, and how far they lie apart.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// Half of them are below it.
    pub median: f64,
    /// The smallest.
    pub lowest: f64,
    /// One of a hundred is above it.
    pub p99: f64,
    /// The largest.
    pub highest: f64,
    /// How many there are.
    pub samples: usize,
}

impl Spread {
    /// Of these measurements.
    ///
    /// # Panics
    ///
    /// If there is none: a benchmark that measured nothing is broken.
    #[must_use]
    pub fn of(mut samples: Vec<f64>) -> Self {
        assert!(!samples.is_empty(), "a spread of no measurements");
        samples.sort_by(f64::total_cmp);
        let at = |share: usize| samples[(samples.len() * share / 100).min(samples.len() - 1)];
        Self { median: at(50), lowest: at(0), p99: at(99), highest: at(100), samples: samples.len() }
    }

    /// Of so many runs of `work`, each on an input of its own, in a unit of which `per_second` make a second. Making
    /// inputs and dropping results is not measured.
    pub fn timed<I, T>(
        runs: usize,
        per_second: f64,
        mut input: impl FnMut() -> I,
        mut work: impl FnMut(I) -> T,
    ) -> Self {
        let mut one = |_| {
            let input = input();
            let start = Instant::now();
            let result = black_box(work(input));
            let took = start.elapsed();
            drop(result);
            took.as_secs_f64() * per_second
        };
        Self::of((0..runs).map(&mut one).collect())
    }

    /// Of each of these things, measured so often; they take turns, so that what disturbs the machine disturbs all.
    pub fn in_turns<T>(rounds: usize, things: &[T], mut measure: impl FnMut(&T) -> f64) -> Vec<Self> {
        let mut samples: Vec<Vec<f64>> = things.iter().map(|_| Vec::with_capacity(rounds)).collect();
        for _ in 0..rounds {
            for (thing, samples) in things.iter().zip(&mut samples) {
                samples.push(measure(thing));
            }
        }
        samples.into_iter().map(Self::of).collect()
    }

    /// Of one measurement.
    #[must_use]
    pub fn one(figure: f64) -> Self {
        Self::of(vec![figure])
    }

    /// How many times this median is another one.
    #[must_use]
    pub fn times(&self, other: &Self) -> f64 {
        self.median / other.median
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_and_the_ends_do_not_depend_on_the_order() {
        let spread = Spread::of((0..200).rev().map(f64::from).collect());
        assert_eq!((spread.lowest, spread.median, spread.p99, spread.highest), (0.0, 100.0, 198.0, 199.0));
        assert_eq!(Spread::one(7.0), Spread { median: 7.0, lowest: 7.0, p99: 7.0, highest: 7.0, samples: 1 });
    }
}
