//! `lock`: a mutex whose holder panicked is as good as any here: nothing is left half-done while one is held.
//!
//! What must not go in here: what is locked.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Takes a lock.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
