//! `GenerationSpan`: a transaction's step from one generation of the rulesets to the next one, and `GenerationRuns`: the
//! steps that the agent itself made.
//!
//! The generation of a network namespace changes with each transaction of any process. Audits read a table only if the
//! generation changed, so a transaction that another thread of the agent makes in another table must be distinguishable
//! from one of another process. The kernel rejects a transaction that expects another generation than the current one,
//! so that the span of an accepted one needs no further request.

use std::io;
use std::sync::Mutex;

use nix::libc;
use support::lock;

use crate::error::Error;
use crate::netlink::batch::BatchWriter;
use crate::netlink::socket::Socket;

/// The maximum of runs that are kept; more than one exists only if other processes changed rules in between.
const RUNS_MAX: usize = 16;
/// The number of attempts while other processes commit transactions.
const ATTEMPTS_MAX: usize = 10;

/// The generations before and after a transaction, between which no other transaction was committed. Both are equal if
/// other transactions prevented that: such a span states nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GenerationSpan {
    /// The generation before the transaction.
    pub before: u32,
    /// The generation after it.
    pub after: u32,
}

impl GenerationSpan {
    /// The span of one transaction.
    pub(crate) fn after(before: u32) -> Self {
        // The kernel skips 0.
        Self { before, after: before.wrapping_add(1).max(1) }
    }

    /// The number of steps from the start to this generation; none if it is not within the span.
    fn steps_to(self, generation: u32) -> Option<u32> {
        let steps = generation.wrapping_sub(self.before);
        (steps <= self.after.wrapping_sub(self.before)).then_some(steps)
    }
}

/// The spans of transactions that changed no table that an audit reads, joined to runs. Threads share it.
#[derive(Debug, Default)]
pub struct GenerationRuns(Mutex<Vec<GenerationSpan>>);

impl GenerationRuns {
    /// Adds the span of a transaction.
    pub fn record(&self, span: GenerationSpan) {
        if span.before == span.after {
            return;
        }
        let mut runs = lock(&self.0);
        let mut joined = span;
        runs.retain(|run| {
            let (is_previous, is_next) = (run.after == joined.before, run.before == joined.after);
            if is_previous {
                joined.before = run.before;
            } else if is_next {
                joined.after = run.after;
            }
            !is_previous && !is_next
        });
        if runs.len() == RUNS_MAX {
            runs.remove(0);
        }
        runs.push(joined);
    }

    /// Whether all transactions between these generations were recorded, so that the tables that an audit reads are the
    /// same.
    #[must_use]
    pub fn cover(&self, before: u32, after: u32) -> bool {
        let runs = lock(&self.0);
        before == after
            || runs.iter().any(|run| match (run.steps_to(before), run.steps_to(after)) {
                (Some(before), Some(after)) => before < after,
                _ => false,
            })
    }
}

impl Socket {
    /// Applies the transaction that `fill` writes. `expected` is the generation before it if that is known; another one
    /// costs a further attempt.
    pub(crate) fn apply_as_span(
        &self,
        mut expected: Option<u32>,
        fill: impl Fn(&mut BatchWriter),
    ) -> Result<GenerationSpan, Error> {
        for _ in 0..ATTEMPTS_MAX {
            let before = expected.take().map_or_else(|| self.generation(), Ok)?;
            match self.apply(&BatchWriter::batch_at(before, &fill)) {
                Ok(()) => return Ok(GenerationSpan::after(before)),
                Err(Error::Rejected { op: None, source }) if is_other_generation(&source) => {}
                Err(error) => return Err(error),
            }
        }
        self.apply(&BatchWriter::batch(&fill))?;
        let generation = self.generation()?;
        Ok(GenerationSpan { before: generation, after: generation })
    }
}

/// Whether the kernel rejected a transaction because it expected another generation.
fn is_other_generation(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ERESTART)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(spans: &[(u32, u32)]) -> GenerationRuns {
        let runs = GenerationRuns::default();
        spans.iter().for_each(|(before, after)| {
            runs.record(GenerationSpan { before: *before, after: *after });
        });
        runs
    }

    #[test]
    fn contiguous_spans_cover_all_generations_between_them() {
        let runs = runs(&[(5, 6), (6, 7), (7, 8)]);
        assert!(runs.cover(5, 8) && runs.cover(6, 7) && runs.cover(7, 7));
        assert!(!runs.cover(4, 8) && !runs.cover(5, 9), "generations outside");
        assert!(!runs.cover(8, 5), "backwards");
        assert!(runs.cover(20, 20), "the same generation needs no span");
    }

    #[test]
    fn transaction_of_another_process_is_not_covered() {
        let runs = runs(&[(5, 6), (7, 8)]);
        assert!(runs.cover(5, 6) && runs.cover(7, 8));
        assert!(!runs.cover(5, 8) && !runs.cover(6, 7));
    }

    #[test]
    fn spans_of_several_threads_join_in_any_order() {
        let runs = runs(&[(7, 8), (5, 6), (6, 7), (8, 9)]);
        assert!(runs.cover(5, 9));
        assert_eq!(runs.0.lock().expect("no panic").len(), 1);
    }

    #[test]
    fn empty_span_covers_nothing() {
        let runs = runs(&[(5, 5), (5, 6), (9, 9)]);
        assert!(!runs.cover(5, 9) && runs.cover(5, 6));
    }

    #[test]
    fn overflow_of_the_generation_continues_a_run() {
        let step = GenerationSpan::after(u32::MAX);
        assert_eq!(step.after, 1, "the kernel skips 0");
        let runs = runs(&[(u32::MAX - 1, u32::MAX), (u32::MAX, 1), (1, 2)]);
        assert!(runs.cover(u32::MAX - 1, 2) && !runs.cover(2, u32::MAX - 1));
    }

    #[test]
    fn number_of_runs_is_bounded_and_the_oldest_is_forgotten() {
        let spans: Vec<_> = (0..100).map(|number| (3 * number, 3 * number + 1)).collect();
        let runs = runs(&spans);
        assert!(runs.cover(297, 298) && !runs.cover(0, 1));
        assert_eq!(runs.0.lock().expect("no panic").len(), RUNS_MAX);
    }
}
