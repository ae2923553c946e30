//! `lock`: locks a mutex, and ignores poisoning.
//!
//! A mutex is poisoned if a thread panicked while it held the lock. Each critical section of a caller must leave its data
//! consistent at every point where it could panic, so that one failed connection does not stop all others.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks a mutex, even if it is poisoned.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
