//! `Recorded`: answers that are bytes, as the kernel would give them.
//!
//! Tests replay what a kernel said, and a fuzzer makes up what a pod might have the kernel say. What must not go in
//! here: what the answers mean.

use std::cell::{Cell, RefCell};
use std::io;
use std::ops::ControlFlow;

use proxy_core::ruleset::Ruleset;

use super::limits::Limits;
use super::reader::{Reader, Source, Take};
use super::{End, TableState};
use crate::encode::encode_fresh;
use crate::error::Error;
use crate::kernel::element;
use crate::shape::attributes;
use crate::socket::{ends, split};

/// What ends the answers to one request (NLMSG_DONE, without an error).
const DONE: [u8; 20] = [20, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// Answers one after the other: the end of a list or an acknowledgement ends the answers to one request.
struct Recorded<'a>(Cell<&'a [u8]>);

impl Source for Recorded<'_> {
    fn ask(&self, _request: &[u8], take: Take<'_>) -> io::Result<()> {
        let (mut is_wanted, mut rest) = (true, self.0.get());
        while let Some((answer, behind)) = split(rest) {
            rest = behind;
            self.0.set(rest);
            match ends(&answer) {
                Some(end) => return end,
                None if is_wanted => is_wanted = take(&answer) == ControlFlow::Continue(()),
                None => {}
            }
        }
        Ok(())
    }
}

/// What these answers say that stands in a network namespace, as `Socket::read_table_within` would say it of a kernel that
/// gave them.
///
/// # Errors
/// Where they say that the kernel could not tell.
pub fn read_recorded(answers: &[u8], limits: &Limits) -> Result<TableState, Error> {
    let source = Recorded(Cell::new(answers));
    match (Reader { source: &source, limits }).look() {
        Ok(found) => Ok(found),
        Err(End::Other(why) | End::TooMany(why)) => Ok(TableState::Drifted(why)),
        Err(End::Failed(error)) => Err(error),
    }
}

/// The answers of a kernel that holds this ruleset, one after the other as `read_recorded` reads them.
#[must_use]
pub fn recorded_replies(ruleset: &Ruleset) -> Vec<u8> {
    let kernel = Kernel { batch: encode_fresh(ruleset).bytes, answers: RefCell::default() };
    // What is found is known; what is asked meanwhile is recorded.
    let _ = (Reader { source: &kernel, limits: &Limits::default() }).look();
    kernel.answers.into_inner()
}

/// Answers what was asked with the messages by which that was made: the kernel's answers have their form.
struct Kernel {
    batch: Vec<u8>,
    /// Everything that was answered.
    answers: RefCell<Vec<u8>>,
}

impl Source for Kernel {
    fn ask(&self, request: &[u8], take: Take<'_>) -> io::Result<()> {
        let (request, _) = split(request).ok_or(io::ErrorKind::InvalidInput)?;
        let (mut answers, mut rest) = (self.answers.borrow_mut(), &self.batch[..]);
        while let Some((message, behind)) = split(rest) {
            // Each request to read has the number behind that of the message that makes; elements are asked for by set.
            let is_of_kind = message.kind + 1 == request.kind;
            let set = attributes(&request).find(element::SET);
            if is_of_kind && set.is_none_or(|set| attributes(&message).find(element::SET) == Some(set)) {
                answers.extend(&rest[..rest.len() - behind.len()]);
                let _ = take(&message);
            }
            rest = behind;
        }
        answers.extend(DONE);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proxy_core::kernel_model::Table;
    use proxy_core::portal::{NodeContext, portals};
    use proxy_core::ruleset::Settings;
    use proxy_core::sample::{slice, snapshot, svc};
    use proxy_core::snapshot::Change;

    use super::*;

    /// A table with elements in most of its sets.
    fn ruleset() -> Ruleset {
        let endpoints = |name: &str| slice(name).tcp("", 8080).at("10.1.0.1").at("10.1.0.2").at("fd01::1");
        let changes = [
            Change::ServiceRanges(vec!["10.96.0.0/16".parse().unwrap(), "fd00::/112".parse().unwrap()]),
            svc("web").ip("10.96.0.1").ip("fd00::1").tcp("", 80).into(),
            endpoints("web").into(),
            svc("sticky").ip("10.96.0.2").tcp("", 80).sticky(10_800).into(),
            endpoints("sticky").into(),
            svc("guarded").ip("10.96.0.3").tcp("", 80).balanced("192.0.2.2").only_from("10.2.0.0/16").into(),
            endpoints("guarded").into(),
            svc("refused").ip("10.96.0.4").tcp("", 80).into(),
        ];
        Ruleset::new(&portals(&snapshot(changes), &NodeContext::default()), Settings::default())
    }

    #[test]
    fn what_a_kernel_says_of_a_ruleset_is_that_table() {
        let wanted = Table::from(&ruleset());
        let found = read_recorded(&recorded_replies(&ruleset()), &Limits::of(&wanted)).expect("answers");
        assert_eq!(found, TableState::Intact(wanted));
    }

    proptest! {
        #[test]
        fn whatever_a_kernel_says_no_more_is_read_than_the_limit(
            changes in proptest::collection::vec((0..65_536_usize, any::<u8>()), 0..32),
            left in 0..65_536_usize,
        ) {
            let mut answers = recorded_replies(&ruleset());
            for (at, byte) in changes {
                let length = answers.len();
                answers[at % length] = byte;
            }
            answers.truncate(left.max(64));
            let wanted = Table::from(&ruleset());
            // It ends without a panic.
            if let Ok(TableState::Intact(table)) = read_recorded(&answers, &Limits::of(&wanted)) {
                prop_assert!(table.portals.len() <= wanted.portals.len());
                prop_assert!(table.backends.len() <= wanted.backends.len());
            }
        }
    }
}
