//! `Troubles`: what is wrong at the moment, so that each trouble is told once and its end, too.
//!
//! An outage lasts until every resource can be read again; within it one sort of fault is told once, whichever
//! resource meets it first. A source that may not be read is told once, too, and does not keep an outage from ending.
//! What must not go in here: why something is wrong, and objects that cannot be used.

use std::collections::BTreeSet;

use crate::cluster::fault::{Cause, Fault};

/// What is wrong.
#[derive(Debug, Default)]
pub(super) struct Troubles {
    lost: BTreeSet<usize>,
    told: BTreeSet<(Cause, Option<usize>)>,
    denied: BTreeSet<usize>,
}

impl Troubles {
    /// A source cannot be read: what to tell.
    pub(super) fn lost(&mut self, source: usize, fault: Fault) -> Option<String> {
        let Fault { cause, text, retry_after: _ } = fault;
        self.lost.insert(source);
        // A server that is away is away for all; what it answers may be about one resource.
        let whose = match cause {
            Cause::Connection | Cause::Silence | Cause::Status(500..) => None,
            Cause::Status(_) | Cause::Content => Some(source),
        };
        self.told.insert((cause, whose)).then_some(text)
    }

    /// A source may not be read, and can be done without: what to tell.
    pub(super) fn denied(&mut self, source: usize, text: String) -> Option<String> {
        self.denied.insert(source).then_some(text)
    }

    /// A source can be read. Whether all is well again.
    pub(super) fn found(&mut self, source: usize) -> bool {
        let was_denied = self.denied.remove(&source);
        if self.lost.remove(&source) && self.lost.is_empty() {
            self.told.clear();
            return true;
        }
        was_denied && self.denied.is_empty() && self.lost.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(cause: Cause) -> Fault {
        Fault { cause, text: format!("{cause:?}"), retry_after: None }
    }

    #[test]
    fn an_outage_is_told_once_and_ends_when_all_can_be_read() {
        let mut troubles = Troubles::default();
        assert!(troubles.lost(0, fault(Cause::Connection)).is_some());
        assert!(troubles.lost(1, fault(Cause::Connection)).is_none());
        assert!(troubles.lost(0, fault(Cause::Connection)).is_none());
        assert!(troubles.lost(1, fault(Cause::Status(403))).is_some());
        assert!(troubles.lost(2, fault(Cause::Status(403))).is_some(), "another resource, another rule");
        assert!(!troubles.found(0));
        assert!(!troubles.found(2));
        assert!(troubles.found(1));
        assert!(!troubles.found(1));
        assert!(troubles.lost(0, fault(Cause::Connection)).is_some(), "the next outage is told again");
    }

    #[test]
    fn a_source_that_may_not_be_read_is_told_once_and_keeps_no_outage_from_ending() {
        let mut troubles = Troubles::default();
        assert!(troubles.denied(3, "denied".to_owned()).is_some());
        assert!(troubles.denied(3, "denied".to_owned()).is_none());
        assert!(troubles.lost(0, fault(Cause::Silence)).is_some());
        assert!(troubles.found(0));
        assert!(troubles.found(3));
        assert!(!troubles.found(3));
    }
}
