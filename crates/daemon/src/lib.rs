//! What the long-running programs share: the log on standard error, and the shutdown signal.

mod log;
mod shutdown;

pub use log::{LogFormat, start_log};
pub use shutdown::Shutdown;
