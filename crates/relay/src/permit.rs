//! `Permit`: one unit of a limited resource, released on drop.
//!
//! It is a semaphore that never waits: connections beyond a limit are refused and not queued. The counter of permits
//! in use is public to its owner, since reports contain it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A permit that is in use.
#[derive(Debug)]
pub(crate) struct Permit(Arc<AtomicUsize>);

impl Permit {
    /// Acquires a permit, or returns `None` if `max` permits are in use.
    pub(crate) fn try_acquire(in_use: &Arc<AtomicUsize>, max: usize) -> Option<Self> {
        let before = in_use.fetch_add(1, Ordering::Relaxed);
        let permit = Self(Arc::clone(in_use));
        (before < max).then_some(permit)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
