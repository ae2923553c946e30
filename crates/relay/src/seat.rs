//! `Seat`: one of so many that there are, taken as long as it is held.
//!
//! What must not go in here: what there may be so many of.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A seat that is taken.
#[derive(Debug)]
pub(crate) struct Seat(Arc<AtomicUsize>);

impl Seat {
    /// None: all are taken.
    pub(crate) fn take(taken: &Arc<AtomicUsize>, max: usize) -> Option<Self> {
        let before = taken.fetch_add(1, Ordering::Relaxed);
        let seat = Self(Arc::clone(taken));
        (before < max).then_some(seat)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
