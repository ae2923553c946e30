//! `Counters`: counts of events since the start, which `metrics` renders.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use daemon::Histogram;

/// The upper bounds of the buckets of request durations, in seconds.
pub(crate) const BOUNDS_S: [f64; 8] = [0.0005, 0.001, 0.003, 0.01, 0.03, 0.1, 1.0, 3.0];

/// The counts at a point in time.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Counts {
    /// Requests by outcome.
    pub(crate) requests: BTreeMap<&'static str, u64>,
    /// Connections that were closed because of an error or a limit, by reason.
    pub(crate) connections_closed: BTreeMap<&'static str, u64>,
    /// Operations on ConfigMaps by kind.
    pub(crate) config_maps: BTreeMap<&'static str, u64>,
    /// ConfigMaps that were refused to pods, by reason.
    pub(crate) config_maps_refused: BTreeMap<&'static str, u64>,
    /// Events by result.
    pub(crate) events: BTreeMap<&'static str, u64>,
    /// Warnings to clients.
    pub(crate) warnings: u64,
    /// Bytes of responses with a patch.
    pub(crate) patch_bytes: u64,
    /// The durations of requests, in seconds, with the buckets of `BOUNDS_S`.
    pub(crate) request_duration_seconds: Histogram,
}

/// Counters that many tasks increment. Clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Counters(Arc<Mutex<Counts>>);

impl Counters {
    /// Returns the current counts.
    pub(crate) fn snapshot(&self) -> Counts {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Counts a finished request.
    pub(crate) fn request(&self, outcome: &'static str, duration: Duration) {
        self.update(|counts| {
            *counts.requests.entry(outcome).or_default() += 1;
            counts.request_duration_seconds.observe(&BOUNDS_S, duration.as_secs_f64());
        });
    }

    /// Counts a closed connection.
    pub(crate) fn closed(&self, reason: &'static str) {
        self.update(|counts| *counts.connections_closed.entry(reason).or_default() += 1);
    }

    /// Counts an operation on a ConfigMap.
    pub(crate) fn config_map(&self, operation: &'static str) {
        self.update(|counts| *counts.config_maps.entry(operation).or_default() += 1);
    }

    /// Counts a pod whose ConfigMaps were refused.
    pub(crate) fn refused(&self, reason: &'static str) {
        self.update(|counts| *counts.config_maps_refused.entry(reason).or_default() += 1);
    }

    /// Counts an Event.
    pub(crate) fn event(&self, result: &'static str) {
        self.update(|counts| *counts.events.entry(result).or_default() += 1);
    }

    /// Counts a response about a pod.
    pub(crate) fn injected(&self, patch_bytes: usize, warnings: usize) {
        self.update(|counts| {
            counts.patch_bytes += patch_bytes as u64;
            counts.warnings += warnings as u64;
        });
    }

    fn update(&self, change: impl FnOnce(&mut Counts)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}
