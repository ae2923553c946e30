//! Waiting for a condition, which is evaluated repeatedly until it is true or a timeout expires.
//!
//! The tests with containers and of the chart wait only here.

use std::thread;
use std::time::{Duration, Instant};

/// A container starts in half a second, but a busy machine can take several times as long.
const DEADLINE: Duration = Duration::from_secs(30);
const BETWEEN: Duration = Duration::from_millis(20);

/// Returns the result of `attempt` once it succeeds, otherwise its last error.
pub fn in_time<T>(mut attempt: impl FnMut() -> Result<T, String>) -> Result<T, String> {
    let deadline = Instant::now() + DEADLINE;
    loop {
        match attempt() {
            Err(why) if Instant::now() >= deadline => {
                return Err(format!("timed out after {DEADLINE:?}: {why}"));
            }
            Err(_) => thread::sleep(BETWEEN),
            found => return found,
        }
    }
}

/// Like `in_time`, but panics at the timeout.
pub fn until<T>(what: &str, attempt: impl FnMut() -> Result<T, String>) -> T {
    in_time(attempt).unwrap_or_else(|why| panic!("{what}: {why}"))
}

/// Waits until a value equals the expected one.
pub fn until_equal<T: PartialEq + std::fmt::Debug>(what: &str, wanted: &T, look: impl Fn() -> T) {
    until(what, || {
        let found = look();
        if found == *wanted { Ok(()) } else { Err(format!("{found:?} instead of {wanted:?}")) }
    });
}
