//! `GenerationSpan`: a transaction's step from one generation of the rulesets to the next one.
//!
//! The generation of a network namespace changes with each transaction of any process. Audits read a table only if the
//! generation changed, so a transaction that another thread of the agent makes must be distinguishable from one of
//! another process. The kernel rejects a transaction that expects another generation than the current one, so that the
//! span of an accepted one needs no further request.

use std::io;

use nix::libc;

use crate::error::Error;
use crate::netlink::batch::BatchWriter;
use crate::netlink::socket::Socket;

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
