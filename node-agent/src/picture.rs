//! Pictures that follow each other: `portico top` and `portico status --watch`.
//!
//! On a terminal each takes the place of the last, elsewhere it follows it. What must not go in here: what a
//! picture shows.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use anyhow::Context;
use tokio::runtime::{Builder, Runtime};

use crate::agent::Stop;

/// Goes to the first line of a terminal, and clears it from there.
const HOME: &str = "\x1b[H\x1b[J";

/// When pictures are shown.
#[derive(Debug)]
pub(crate) struct Pictures {
    interval: Duration,
    /// So many; 0: until the process is told to end.
    count: u64,
    is_terminal: bool,
    runtime: Runtime,
    stop: Stop,
}

impl Pictures {
    /// So many pictures, and so long in seconds from one to the next.
    pub(crate) fn new(interval: f64, count: u64) -> anyhow::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build().context("start the event loop")?;
        let stop = runtime.block_on(async { Stop::listen() })?;
        // A terminal that understands nothing but text has no first line to go to.
        let is_dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        let is_terminal = io::stdout().is_terminal() && !is_dumb;
        Ok(Self { interval: Duration::from_secs_f64(interval), count, is_terminal, runtime, stop })
    }

    /// The same where none takes the place of another, on a terminal either.
    pub(crate) fn in_a_row(self) -> Self {
        Self { is_terminal: false, ..self }
    }

    /// Waits for the next one; false where the process is told to end.
    pub(crate) fn wait(&self) -> bool {
        self.runtime.block_on(async {
            tokio::select! {
                () = self.stop.asked() => false,
                () = tokio::time::sleep(self.interval) => true,
            }
        })
    }

    /// Shows one picture after the other, and gives what the last one says: whether all is as it should be.
    pub(crate) fn show(
        &self,
        out: &mut impl Write,
        mut draw: impl FnMut(&mut Vec<u8>) -> anyhow::Result<bool>,
    ) -> anyhow::Result<bool> {
        let mut shown = 0;
        loop {
            let mut picture = Vec::new();
            let is_right = draw(&mut picture)?;
            if self.is_terminal {
                // Past whatever takes colours out of what is shown.
                io::stdout().write_all(HOME.as_bytes())?;
            }
            out.write_all(&picture)?;
            out.flush()?;
            shown += 1;
            if shown == self.count || !self.wait() {
                return Ok(is_right);
            }
        }
    }
}

/// A number of seconds between two pictures.
pub(crate) fn seconds(text: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().ok().filter(|number| (0.1..=3_600.0).contains(number));
    number.ok_or_else(|| format!("\"{text}\" is no number of seconds from 0.1 to 3600"))
}

/// How many a second, of a count that was so high before. A lower one began anew at 0 meanwhile.
pub(crate) fn rate(now: u64, before: u64, seconds: f64) -> f64 {
    now.checked_sub(before).unwrap_or(now) as f64 / seconds
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_bounded() {
        assert_eq!(seconds("0.5"), Ok(0.5));
        for wrong in ["0", "-1", "NaN", "x", "4000"] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_count_that_began_anew_gives_no_negative_rate() {
        assert_eq!([rate(30, 10, 2.0), rate(10, 10, 2.0), rate(4, 10, 2.0)], [10.0, 0.0, 2.0]);
    }
}
