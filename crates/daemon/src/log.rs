//! The log on standard error: text for people, or one JSON object per line for collectors.

use std::io::{IsTerminal, stderr};

use clap::ValueEnum;
use tracing::Level;
use tracing_subscriber::fmt::Subscriber;

/// The format of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Human-readable text.
    Text,
    /// One JSON object per line.
    Json,
}

/// Starts logging events of at least this level. Must be called only once.
pub fn start_log(format: LogFormat, level: Level) {
    let builder = Subscriber::builder().with_max_level(level).with_target(false).with_writer(stderr);
    match format {
        LogFormat::Text => builder.with_ansi(stderr().is_terminal()).init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
}
