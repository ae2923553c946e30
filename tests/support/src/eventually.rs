//! Waiting for what must come: a condition, looked at again and again until it holds or time is up.
//!
//! It is the one place where these tests wait.

use std::thread;
use std::time::{Duration, Instant};

/// A container starts in half a second; two busy cores may take several times as long.
const DEADLINE: Duration = Duration::from_secs(30);
const BETWEEN: Duration = Duration::from_millis(20);

/// What `attempt` finds in the end, or its last reason why not.
pub fn in_time<T>(mut attempt: impl FnMut() -> Result<T, String>) -> Result<T, String> {
    let deadline = Instant::now() + DEADLINE;
    loop {
        match attempt() {
            Err(why) if Instant::now() >= deadline => return Err(format!("not in {DEADLINE:?}: {why}")),
            Err(_) => thread::sleep(BETWEEN),
            found => return found,
        }
    }
}

/// The same; that it never finds anything is a panic.
pub fn until<T>(what: &str, attempt: impl FnMut() -> Result<T, String>) -> T {
    in_time(attempt).unwrap_or_else(|why| panic!("{what}: {why}"))
}

/// Waits until both are equal.
pub fn until_equal<T: PartialEq + std::fmt::Debug>(what: &str, wanted: &T, look: impl Fn() -> T) {
    until(what, || {
        let found = look();
        if found == *wanted { Ok(()) } else { Err(format!("{found:?} instead of {wanted:?}")) }
    });
}
