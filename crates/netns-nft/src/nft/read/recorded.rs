//! Reads a table from recorded replies instead of a kernel.
//!
//! Tests replay what a kernel sent, and a fuzzer makes up what a pod can make its kernel send.

use std::cell::{Cell, RefCell};
use std::io;
use std::ops::ControlFlow;

use proxy_core::ruleset::Ruleset;

use crate::error::Error;
use crate::netlink::attributes::{Attributes, MessageBuffer};
use crate::netlink::socket::{final_result, split_message};
use crate::netlink::uapi::*;
use crate::nft::encode::encode_fresh;
use crate::nft::names::TABLE;
use crate::nft::read::limits::Limits;
use crate::nft::read::reader::{Handler, ReadError, Reader, ReplySource, TableState};

/// Replies one after the other. The end of a dump, or an ACK, ends the replies to one request.
struct RecordedReplies<'a>(Cell<&'a [u8]>);

impl ReplySource for RecordedReplies<'_> {
    fn request(&self, _request: &[u8], handle: Handler<'_>) -> io::Result<()> {
        let (mut is_wanted, mut rest) = (true, self.0.get());
        while let Some((message, after)) = split_message(rest) {
            rest = after;
            self.0.set(rest);
            match final_result(&message) {
                Some(result) => return result,
                None if is_wanted => is_wanted = handle(&message) == ControlFlow::Continue(()),
                None => {}
            }
        }
        Ok(())
    }
}

/// Reads the table from recorded replies, as `Socket::read_table_within` from a kernel that sends them.
///
/// # Errors
/// If the replies contain an error.
pub fn read_recorded(replies: &[u8], limits: &Limits) -> Result<TableState, Error> {
    let source = RecordedReplies(Cell::new(replies));
    Reader { source: &source, table: TABLE, limits }.read_state().or_else(ReadError::into_state)
}

/// The replies of a kernel that contains this ruleset, in the order in which `read_recorded` expects them.
#[must_use]
pub fn recorded_replies(ruleset: &Ruleset) -> Vec<u8> {
    let kernel = EchoKernel { batch: encode_fresh(ruleset).bytes, replies: RefCell::default() };
    // The table is known; the replies to the requests are recorded.
    let _ = Reader { source: &kernel, table: TABLE, limits: &Limits::default() }.read_state();
    kernel.replies.into_inner()
}

/// Replies to a request with the messages that created what is requested: the kernel's replies have the same form.
struct EchoKernel {
    batch: Vec<u8>,
    /// All replies so far.
    replies: RefCell<Vec<u8>>,
}

impl ReplySource for EchoKernel {
    fn request(&self, request: &[u8], handle: Handler<'_>) -> io::Result<()> {
        let (request, _) = split_message(request).ok_or(io::ErrorKind::InvalidInput)?;
        let set_of = |body| Attributes::of_netfilter(body).find(NFTA_SET_ELEM_LIST_SET);
        let (mut replies, mut rest) = (self.replies.borrow_mut(), &self.batch[..]);
        while let Some((message, after)) = split_message(rest) {
            // The type of a GET message is that of the NEW message plus 1; elements are requested by set.
            let is_of_kind = message.kind + 1 == request.kind;
            let set = set_of(request.body);
            if is_of_kind && set.is_none_or(|set| set_of(message.body) == Some(set)) {
                replies.extend(&rest[..rest.len() - after.len()]);
                let _ = handle(&message);
            }
            rest = after;
        }
        // The end of a dump, with error code 0.
        replies.extend(MessageBuffer::message(NLMSG_DONE, 0, &0_i32.to_ne_bytes(), |_| {}));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proxy_core::kernel_model::Table;
    use proxy_core::ruleset::Settings;

    use super::*;
    use crate::nft::sample::sample_ruleset;

    fn ruleset() -> Ruleset {
        sample_ruleset(Settings::default())
    }

    #[test]
    fn replies_about_a_ruleset_are_read_as_that_table() {
        let desired = Table::from(&ruleset());
        let state = read_recorded(&recorded_replies(&ruleset()), &Limits::of(&desired)).expect("replies");
        assert_eq!(state, TableState::Intact(desired));
    }

    proptest! {
        #[test]
        fn arbitrary_replies_never_exceed_the_limits(
            changes in proptest::collection::vec((0..65_536_usize, any::<u8>()), 0..32),
            length in 0..65_536_usize,
        ) {
            let mut replies = recorded_replies(&ruleset());
            for (at, byte) in changes {
                let count = replies.len();
                replies[at % count] = byte;
            }
            replies.truncate(length.max(64));
            let desired = Table::from(&ruleset());
            // Reading must not panic.
            if let Ok(TableState::Intact(table)) = read_recorded(&replies, &Limits::of(&desired)) {
                prop_assert!(table.portals.len() <= desired.portals.len());
                prop_assert!(table.backends.len() <= desired.backends.len());
            }
        }
    }
}
