//! The log on standard error: text for people, or one JSON object a line.
//!
//! What must not go in here: what is worth a line.

use std::error::Error;
use std::io::{IsTerminal, stderr};

use tracing_subscriber::fmt::Subscriber;

use crate::args::LogFormat;

/// Begins to write it.
pub(crate) fn start(format: LogFormat, level: tracing::Level) {
    let builder = Subscriber::builder().with_max_level(level).with_target(false).with_writer(stderr);
    if format == LogFormat::Json {
        builder.json().flatten_event(true).init();
    } else {
        builder.with_ansi(stderr().is_terminal()).init();
    }
}

/// An error with what caused it, in one line.
pub(crate) fn chain(error: impl Error + Send + Sync + 'static) -> String {
    format!("{:#}", anyhow::Error::from(error))
}
