//! `Troubles`: what is wrong at the moment, so that each trouble is told once and its end, too.
//!
//! An outage lasts until every resource can be read again; within it one sort of fault is told once, whichever
//! resource meets it first. Notes (an object that is refused, ranges that may not be read) are told once each and do
//! not keep an outage from ending. What must not go in here: why something is wrong.

use std::collections::BTreeSet;

use crate::cluster::fault::{Cause, Fault};
use crate::cluster::object::ObjectKey;
use crate::cluster::resource::Kind;
use crate::event::Event;

/// How many notes are told before the rest is only counted.
const NOTES_TOLD_MAX: usize = 20;

/// Something that stays as it is until somebody mends it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Note {
    /// The source may not be read.
    Denied(usize),
    /// The object cannot be used.
    Refused(Kind, Option<ObjectKey>),
}

/// What is wrong.
#[derive(Debug, Default)]
pub(super) struct Troubles {
    lost: BTreeSet<usize>,
    told: BTreeSet<(Cause, Option<usize>)>,
    notes: BTreeSet<Note>,
}

impl Troubles {
    /// A source cannot be read.
    pub(super) fn lost(&mut self, source: usize, fault: Fault) -> Option<Event> {
        let Fault { cause, text, retry_after: _ } = fault;
        self.lost.insert(source);
        // A server that is away is away for all; what it answers may be about one resource.
        let whose = match cause {
            Cause::Connection | Cause::Silence | Cause::Status(500..) => None,
            Cause::Status(_) | Cause::Content => Some(source),
        };
        self.told.insert((cause, whose)).then_some(Event::Trouble(text))
    }

    /// A source can be read.
    pub(super) fn found(&mut self, source: usize) -> Option<Event> {
        let was_denied = self.notes.remove(&Note::Denied(source));
        if self.lost.remove(&source) && self.lost.is_empty() {
            self.told.clear();
            return Some(Event::Recovered);
        }
        self.recovered(was_denied)
    }

    /// Something stays as it is.
    pub(super) fn note(&mut self, note: Note, text: String) -> Option<Event> {
        if !self.notes.insert(note) {
            return None;
        }
        match self.notes.len() {
            0..=NOTES_TOLD_MAX => Some(Event::Trouble(text)),
            count if count == NOTES_TOLD_MAX + 1 => {
                Some(Event::Trouble(format!("{text}; further ones are not named")))
            }
            _ => None,
        }
    }

    /// The object can be used, or is gone.
    pub(super) fn mended(&mut self, kind: Kind, key: Option<&ObjectKey>) -> Option<Event> {
        // There is nothing to look for most of the time.
        let was_there = !self.notes.is_empty() && self.notes.remove(&Note::Refused(kind, key.cloned()));
        self.recovered(was_there)
    }

    fn recovered(&self, has_mended: bool) -> Option<Event> {
        (has_mended && self.notes.is_empty() && self.lost.is_empty()).then_some(Event::Recovered)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(cause: Cause) -> Fault {
        Fault { cause, text: format!("{cause:?}"), retry_after: None }
    }

    fn refused(name: &str) -> Note {
        Note::Refused(Kind::Service, Some(ObjectKey { namespace: "d".into(), name: name.into() }))
    }

    #[test]
    fn an_outage_is_told_once_and_ends_when_all_can_be_read() {
        let mut troubles = Troubles::default();
        assert!(troubles.lost(0, fault(Cause::Connection)).is_some());
        assert!(troubles.lost(1, fault(Cause::Connection)).is_none());
        assert!(troubles.lost(0, fault(Cause::Connection)).is_none());
        assert!(troubles.lost(1, fault(Cause::Status(403))).is_some());
        assert!(troubles.lost(2, fault(Cause::Status(403))).is_some(), "another resource, another rule");
        assert_eq!(troubles.found(0), None);
        assert_eq!(troubles.found(2), None);
        assert_eq!(troubles.found(1), Some(Event::Recovered));
        assert_eq!(troubles.found(1), None);
        assert!(troubles.lost(0, fault(Cause::Connection)).is_some(), "the next outage is told again");
    }

    #[test]
    fn a_note_is_told_once_and_keeps_no_outage_from_ending() {
        let mut troubles = Troubles::default();
        assert!(troubles.note(refused("a"), "a".to_owned()).is_some());
        assert!(troubles.note(refused("a"), "a".to_owned()).is_none());
        assert!(troubles.lost(0, fault(Cause::Silence)).is_some());
        assert_eq!(troubles.found(0), Some(Event::Recovered));
        let Note::Refused(kind, key) = refused("a") else { unreachable!() };
        assert_eq!(troubles.mended(kind, key.as_ref()), Some(Event::Recovered));
        assert_eq!(troubles.mended(kind, key.as_ref()), None);
    }

    #[test]
    fn many_notes_are_not_all_told() {
        let mut troubles = Troubles::default();
        let told = (0..1000).filter(|n| troubles.note(refused(&n.to_string()), String::new()).is_some());
        assert_eq!(told.count(), NOTES_TOLD_MAX + 1);
    }
}
