//! `WatchOptions`: the timeouts and the back-off of a watch on an API server.
//!
//! The defaults are for clusters of any size. Tests use shorter times.

use std::time::Duration;

/// The maximum number of queued messages of the list-watch tasks. A full queue slows down reading from the API server.
pub(super) const QUEUE_LEN_MAX: usize = 256;

/// The timeouts and the back-off of a watch on an API server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchOptions {
    /// The duration of a watch, in seconds. Up to a quarter is added at random, so that the watches of all nodes do not
    /// end at the same time.
    pub watch_timeout_s: u32,
    /// How long the API server may exceed that duration before the connection counts as dead.
    pub watch_grace: Duration,
    /// The timeout for the start of a response, and for each further part of a list.
    pub response_timeout: Duration,
    /// How long a watch without events must last until an outage counts as over.
    pub stable_after: Duration,
    /// The delay after the first failure; it doubles with each further failure in a row.
    pub backoff_min: Duration,
    /// The maximum delay.
    pub backoff_max: Duration,
    /// How long the initial sync waits for ServiceCIDR objects, which an API server may not support.
    pub service_cidrs_timeout: Duration,
}

impl Default for WatchOptions {
    fn default() -> Self {
        Self {
            watch_timeout_s: 240,
            watch_grace: Duration::from_secs(15),
            response_timeout: Duration::from_secs(30),
            stable_after: Duration::from_secs(2),
            backoff_min: Duration::from_millis(200),
            backoff_max: Duration::from_secs(30),
            service_cidrs_timeout: Duration::from_secs(2),
        }
    }
}
