//! `RecordRetries`: records of attachments that could not be written, and when that is tried again.
//!
//! Without its record a pod is found after a restart only if the runtime's cache tells of it. What must not go in here:
//! writing.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use agent_ipc::{AttachmentKey, Record};

/// After the first failure all are tried again so much later, and twice as late after each further one.
const RETRY_FIRST: Duration = Duration::from_secs(1);
/// No later than this.
const RETRY_MAX: Duration = Duration::from_secs(60);

/// Records that could not be written.
#[derive(Debug, Default)]
pub(crate) struct RecordRetries {
    records: BTreeMap<AttachmentKey, Record>,
    rounds: u32,
    retry_at: Option<Instant>,
}

impl RecordRetries {
    /// A record was written, or could not be.
    pub(crate) fn tell(&mut self, record: Record, is_written: bool, now: Instant) {
        if is_written {
            self.forget(&record.attachment.key);
            return;
        }
        self.records.insert(record.attachment.key.clone(), record);
        if self.retry_at.is_none() {
            let wait = RETRY_FIRST.saturating_mul(1 << self.rounds.min(16)).min(RETRY_MAX);
            self.retry_at = Some(now + wait);
            self.rounds += 1;
        }
    }

    /// The attachment of this key is gone, or its record was written.
    pub(crate) fn forget(&mut self, key: &AttachmentKey) {
        self.records.remove(key);
        if self.records.is_empty() {
            *self = Self::default();
        }
    }

    /// The records to write again now.
    pub(crate) fn due(&mut self, now: Instant) -> Vec<Record> {
        if self.retry_at.is_none_or(|at| at > now) {
            return Vec::new();
        }
        self.retry_at = None;
        self.records.values().cloned().collect()
    }

    /// When they are due.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.retry_at
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.records.len()
    }
}
