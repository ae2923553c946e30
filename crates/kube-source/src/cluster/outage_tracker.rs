//! `OutageTracker`: the failed resources, so that each outage and its end are reported once.
//!
//! An outage lasts until every resource can be read again. During an outage each kind of error is reported once, for
//! the resource that meets it first. Access that is denied to an optional resource is reported once, too, and does not
//! prolong an outage.

use std::collections::BTreeSet;

use crate::cluster::watch_error::{ErrorKind, WatchError};

/// The failed resources, and the errors that were reported.
#[derive(Debug, Default)]
pub(super) struct OutageTracker {
    failed: BTreeSet<usize>,
    /// The reported kinds of errors. The second value is the resource if the error is specific to it.
    reported: BTreeSet<(ErrorKind, Option<usize>)>,
    /// The optional resources to which access is denied.
    denied: BTreeSet<usize>,
}

impl OutageTracker {
    /// Records that a source failed. Returns the text to report, unless this kind of error was reported already.
    pub(super) fn source_failed(&mut self, source: usize, error: WatchError) -> Option<String> {
        let WatchError { kind, text, retry_after: _ } = error;
        self.failed.insert(source);
        // An API server that is unavailable fails for all resources. Other errors can be specific to one.
        let specific_to = match kind {
            ErrorKind::Connection | ErrorKind::Timeout | ErrorKind::Status(500..) => None,
            ErrorKind::Status(_) | ErrorKind::InvalidResponse => Some(source),
        };
        self.reported.insert((kind, specific_to)).then_some(text)
    }

    /// Records that access to an optional source is denied. Returns the text to report, unless it was reported already.
    pub(super) fn source_denied(&mut self, source: usize, text: String) -> Option<String> {
        self.denied.insert(source).then_some(text)
    }

    /// Records that a source can be read. Returns whether this ends the outage.
    pub(super) fn source_recovered(&mut self, source: usize) -> bool {
        let was_denied = self.denied.remove(&source);
        if self.failed.remove(&source) && self.failed.is_empty() {
            self.reported.clear();
            return true;
        }
        was_denied && self.denied.is_empty() && self.failed.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(kind: ErrorKind) -> WatchError {
        WatchError { kind, text: format!("{kind:?}"), retry_after: None }
    }

    #[test]
    fn outage_is_reported_once_and_ends_when_every_source_has_recovered() {
        let mut outages = OutageTracker::default();
        assert!(outages.source_failed(0, error(ErrorKind::Connection)).is_some());
        assert!(outages.source_failed(1, error(ErrorKind::Connection)).is_none());
        assert!(outages.source_failed(0, error(ErrorKind::Connection)).is_none());
        assert!(outages.source_failed(1, error(ErrorKind::Status(403))).is_some());
        let other_resource = outages.source_failed(2, error(ErrorKind::Status(403)));
        assert!(other_resource.is_some(), "another resource needs another RBAC rule");
        assert!(!outages.source_recovered(0));
        assert!(!outages.source_recovered(2));
        assert!(outages.source_recovered(1));
        assert!(!outages.source_recovered(1));
        assert!(
            outages.source_failed(0, error(ErrorKind::Connection)).is_some(),
            "the next outage is reported"
        );
    }

    #[test]
    fn denied_source_is_reported_once_and_does_not_prolong_an_outage() {
        let mut outages = OutageTracker::default();
        assert!(outages.source_denied(3, "denied".to_owned()).is_some());
        assert!(outages.source_denied(3, "denied".to_owned()).is_none());
        assert!(outages.source_failed(0, error(ErrorKind::Timeout)).is_some());
        assert!(outages.source_recovered(0));
        assert!(outages.source_recovered(3));
        assert!(!outages.source_recovered(3));
    }
}
