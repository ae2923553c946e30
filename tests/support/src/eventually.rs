//! Waiting for a condition, which is evaluated repeatedly until it is true or a timeout expires.
//!
//! [`eventually`] is the wait of most tests. [`Wait`] has another timeout or interval, or returns the failure.

use std::fmt::{Debug, Display};
use std::thread;
use std::time::{Duration, Instant};

/// One evaluation of a condition: a `bool`, or an `Option` or `Result` with the value that the caller waits for.
pub trait Attempt {
    type Value;

    /// Returns the value, or why it is missing.
    fn outcome(self) -> Result<Self::Value, String>;
}

impl Attempt for bool {
    type Value = ();

    fn outcome(self) -> Result<(), String> {
        self.then_some(()).ok_or_else(|| "the condition is false".to_owned())
    }
}

impl<T> Attempt for Option<T> {
    type Value = T;

    fn outcome(self) -> Result<T, String> {
        self.ok_or_else(|| "no value".to_owned())
    }
}

impl<T, E: Display> Attempt for Result<T, E> {
    type Value = T;

    fn outcome(self) -> Result<T, String> {
        self.map_err(|error| error.to_string())
    }
}

/// A timeout, and the interval between two evaluations.
#[derive(Debug, Clone, Copy)]
pub struct Wait {
    pub timeout: Duration,
    pub interval: Duration,
}

impl Wait {
    /// The timeout is generous, since a busy machine can be several times slower than an idle one.
    pub const DEFAULT: Self = Self { timeout: Duration::from_secs(60), interval: Duration::from_millis(5) };

    /// Returns the value of the first attempt that has one, or the failure of the last attempt.
    pub fn try_until<A: Attempt>(self, mut attempt: impl FnMut() -> A) -> Result<A::Value, String> {
        let deadline = Instant::now() + self.timeout;
        loop {
            match attempt().outcome() {
                Err(why) if Instant::now() >= deadline => {
                    return Err(format!("timed out after {:?}: {why}", self.timeout));
                }
                Err(_) => thread::sleep(self.interval),
                value => return value,
            }
        }
    }

    /// Like `try_until`, but panics at the timeout.
    #[track_caller]
    pub fn until<A: Attempt>(self, what: &str, attempt: impl FnMut() -> A) -> A::Value {
        self.try_until(attempt).unwrap_or_else(|why| panic!("{what}: {why}"))
    }
}

/// Waits with the default timeout, and panics when it expires.
#[track_caller]
pub fn eventually<A: Attempt>(what: &str, attempt: impl FnMut() -> A) -> A::Value {
    Wait::DEFAULT.until(what, attempt)
}

/// Waits until a value equals the expected one.
#[track_caller]
pub fn eventually_equal<T: PartialEq + Debug>(what: &str, expected: &T, current: impl Fn() -> T) {
    eventually(what, || {
        let found = current();
        if found == *expected { Ok(()) } else { Err(format!("{found:?} instead of {expected:?}")) }
    });
}
