//! What the long-running programs share: the log on standard error, the shutdown signal, and the pages for metrics and
//! health.

mod connection_table;
mod log;
mod metrics_page;
mod page_server;
mod process_metrics;
mod shutdown;

pub use connection_table::{ConnectionLimits, ConnectionTable};
pub use hyper::StatusCode;
pub use hyper::header::{HeaderName, HeaderValue};
pub use log::{LogFormat, start_log};
pub use metrics_page::{Histogram, MetricsPage};
pub use page_server::{Page, PageConnections, Pages, serve_pages};
pub use shutdown::Shutdown;
