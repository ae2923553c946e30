//! `Tally`: what has happened since the start, counted.
//!
//! What must not go in here: how it is shown.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// The bounds of the buckets of a request's time, in seconds.
pub(crate) const BOUNDS_S: [f64; 8] = [0.0005, 0.001, 0.003, 0.01, 0.03, 0.1, 1.0, 3.0];

/// Counts.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Tally {
    /// Requests by how they ended.
    pub(crate) requests: BTreeMap<&'static str, u64>,
    /// Connections that were closed before they were of use, by why.
    pub(crate) closed: BTreeMap<&'static str, u64>,
    /// What was done to ConfigMaps.
    pub(crate) config_maps: BTreeMap<&'static str, u64>,
    /// What was refused to pods, by why.
    pub(crate) refused: BTreeMap<&'static str, u64>,
    /// What became of Events.
    pub(crate) events: BTreeMap<&'static str, u64>,
    /// Warnings that were given.
    pub(crate) warnings: u64,
    /// Bytes of patches.
    pub(crate) patch_bytes: u64,
    /// For each of `BOUNDS_S`, how many requests took at most so long.
    pub(crate) seconds: [u64; BOUNDS_S.len()],
    /// How many requests there were.
    pub(crate) count: u64,
    /// How long all of them took.
    pub(crate) seconds_sum: f64,
}

/// Counts that many tasks add to.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tallied(Arc<Mutex<Tally>>);

impl Tallied {
    /// What is counted by now.
    pub(crate) fn tally(&self) -> Tally {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A request has ended.
    pub(crate) fn request(&self, how: &'static str, took: Duration) {
        self.add(|tally| {
            *tally.requests.entry(how).or_default() += 1;
            for (bucket, bound) in tally.seconds.iter_mut().zip(BOUNDS_S) {
                *bucket += u64::from(took.as_secs_f64() <= bound);
            }
            tally.count += 1;
            tally.seconds_sum += took.as_secs_f64();
        });
    }

    /// A connection was closed.
    pub(crate) fn closed(&self, why: &'static str) {
        self.add(|tally| *tally.closed.entry(why).or_default() += 1);
    }

    /// Something was done to a ConfigMap.
    pub(crate) fn config_map(&self, what: &'static str) {
        self.add(|tally| *tally.config_maps.entry(what).or_default() += 1);
    }

    /// The ConfigMaps of a pod were refused.
    pub(crate) fn refused(&self, why: &'static str) {
        self.add(|tally| *tally.refused.entry(why).or_default() += 1);
    }

    /// Something became of an Event.
    pub(crate) fn event(&self, what: &'static str) {
        self.add(|tally| *tally.events.entry(what).or_default() += 1);
    }

    /// Something was injected, with so many warnings.
    pub(crate) fn injected(&self, patch_bytes: usize, warnings: usize) {
        self.add(|tally| {
            tally.patch_bytes += u64::try_from(patch_bytes).unwrap_or(u64::MAX);
            tally.warnings += u64::try_from(warnings).unwrap_or(u64::MAX);
        });
    }

    fn add(&self, one: impl FnOnce(&mut Tally)) {
        one(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}
