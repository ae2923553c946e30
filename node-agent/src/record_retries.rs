//! `RecordRetries`: attachment records that could not be written, and when the next attempt is due.
//!
//! Without its record, an attachment can be recovered after a restart only from the runtime's CNI cache.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use agent_ipc::{AttachmentKey, Record};
use support::Backoff;

/// The delays before all records are written again.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(60);

/// Records that could not be written.
#[derive(Debug)]
pub(crate) struct RecordRetries {
    records: BTreeMap<AttachmentKey, Record>,
    backoff: Backoff,
    retry_at: Option<Instant>,
}

impl Default for RecordRetries {
    fn default() -> Self {
        Self { records: BTreeMap::new(), backoff: Backoff::new(RETRY_FIRST, RETRY_MAX), retry_at: None }
    }
}

impl RecordRetries {
    /// Records whether a record was written.
    pub(crate) fn finish(&mut self, record: Record, is_written: bool, now: Instant) {
        if is_written {
            self.remove(&record.attachment.key);
            return;
        }
        self.records.insert(record.attachment.key.clone(), record);
        if self.retry_at.is_none() {
            self.retry_at = Some(now + self.backoff.next_delay());
        }
    }

    /// Removes a record that was written, or whose attachment ended.
    pub(crate) fn remove(&mut self, key: &AttachmentKey) {
        self.records.remove(key);
        if self.records.is_empty() {
            *self = Self::default();
        }
    }

    /// Returns the records to write now.
    pub(crate) fn take_due(&mut self, now: Instant) -> Vec<Record> {
        if self.retry_at.is_none_or(|at| at > now) {
            return Vec::new();
        }
        self.retry_at = None;
        self.records.values().cloned().collect()
    }

    /// The time of the next attempt.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.retry_at
    }

    /// The number of records.
    pub(crate) fn len(&self) -> usize {
        self.records.len()
    }
}
