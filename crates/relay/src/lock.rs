//! `lock`: the crate's one way to lock a mutex, which ignores poisoning.
//!
//! A mutex is poisoned if a thread panicked while it held the lock. Each critical section in this crate leaves
//! its data consistent at every point where it could panic, so one failed connection must not stop all others.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks a mutex, even if it is poisoned.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
