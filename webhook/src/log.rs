//! The log on standard error: human-readable text, or one JSON object per line.

use std::error::Error;
use std::io::{IsTerminal, stderr};

use tracing_subscriber::fmt::Subscriber;

use crate::args::LogFormat;

/// Installs the subscriber.
pub(crate) fn start(format: LogFormat, level: tracing::Level) {
    let builder = Subscriber::builder().with_max_level(level).with_target(false).with_writer(stderr);
    if format == LogFormat::Json {
        builder.json().flatten_event(true).init();
    } else {
        builder.with_ansi(stderr().is_terminal()).init();
    }
}

/// Returns an error and its causes in one line.
pub(crate) fn chain(error: impl Error + 'static) -> String {
    support::with_causes(&error)
}
