//! `LiveView`: refreshes the output of `portico top` and `portico status --watch` periodically.
//!
//! On a terminal, each frame replaces the previous one. Otherwise frames are printed one after the other. What a frame
//! shows is up to the command.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use anyhow::Context;
use daemon::Shutdown;
use tokio::runtime::{Builder, Runtime};

/// The escape sequences that move the cursor to the first line, and clear the screen from there.
const CLEAR_SCREEN: &str = "\x1b[H\x1b[J";

/// A loop that draws frames.
#[derive(Debug)]
pub(crate) struct LiveView {
    interval: Duration,
    /// The number of frames; 0 is unlimited.
    count: u64,
    clears_screen: bool,
    runtime: Runtime,
    shutdown: Shutdown,
}

impl LiveView {
    /// Creates a view with an interval in seconds, and a number of frames; 0 is unlimited.
    pub(crate) fn new(interval: f64, count: u64) -> anyhow::Result<Self> {
        let runtime =
            Builder::new_current_thread().enable_all().build().context("failed to start the event loop")?;
        let shutdown = runtime.block_on(async { Shutdown::listen() })?;
        // A dumb terminal has no escape sequences.
        let is_dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        let clears_screen = io::stdout().is_terminal() && !is_dumb;
        Ok(Self { interval: Duration::from_secs_f64(interval), count, clears_screen, runtime, shutdown })
    }

    /// Appends frames, also on a terminal.
    pub(crate) fn appending(self) -> Self {
        Self { clears_screen: false, ..self }
    }

    /// Waits for one interval. Returns false if the process was asked to stop.
    pub(crate) fn wait(&self) -> bool {
        self.runtime.block_on(async {
            tokio::select! {
                () = self.shutdown.requested() => false,
                () = tokio::time::sleep(self.interval) => true,
            }
        })
    }

    /// Draws frames until the count is reached or the process is asked to stop. Returns the result of the last frame:
    /// whether everything is healthy.
    pub(crate) fn run(
        &self,
        out: &mut impl Write,
        mut draw: impl FnMut(&mut Vec<u8>) -> anyhow::Result<bool>,
    ) -> anyhow::Result<bool> {
        let mut drawn = 0;
        loop {
            let mut frame = Vec::new();
            let is_healthy = draw(&mut frame)?;
            if self.clears_screen {
                // `out` may strip escape sequences.
                io::stdout().write_all(CLEAR_SCREEN.as_bytes())?;
            }
            out.write_all(&frame)?;
            out.flush()?;
            drawn += 1;
            if drawn == self.count || !self.wait() {
                return Ok(is_healthy);
            }
        }
    }
}

/// Parses an interval in seconds.
pub(crate) fn seconds(text: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().ok().filter(|number| (0.1..=3_600.0).contains(number));
    number.ok_or_else(|| format!("\"{text}\" is not a number of seconds from 0.1 to 3600"))
}

/// Returns the rate per second of a counter. A counter that decreased was reset to 0 in between.
pub(crate) fn rate(now: u64, before: u64, seconds: f64) -> f64 {
    let increase = if now >= before { now - before } else { now };
    increase as f64 / seconds
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_bounded() {
        assert_eq!(seconds("0.5"), Ok(0.5));
        for invalid in ["0", "-1", "NaN", "x", "4000"] {
            assert!(seconds(invalid).is_err(), "{invalid}");
        }
    }

    #[test]
    fn reset_counter_has_no_negative_rate() {
        assert_eq!([rate(30, 10, 2.0), rate(10, 10, 2.0), rate(4, 10, 2.0)], [10.0, 0.0, 2.0]);
    }
}
