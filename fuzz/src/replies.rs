//! Replies of the kernel about a table, as a pod that may change the table can cause them.
//!
//! An input is a list of changes to the replies of a kernel that contains a ruleset, so that few bytes reach deep into
//! the reader, or it is the replies themselves.

use std::sync::LazyLock;

use kube_source::{ReadOptions, read_str};
use netns_nft::{Limits, TableState, read_recorded, recorded_replies};
use proxy_core::kernel_model::Table;
use proxy_core::portal::{NodeContext, portals};
use proxy_core::ruleset::{Ruleset, Settings};

/// Services of every kind.
const SERVICES: &str = include_str!("../seeds/every-field.json");

/// A table as the agent wrote it, and the kernel's replies about it.
struct WrittenTable {
    table: Table,
    replies: Vec<u8>,
}

static WRITTEN: LazyLock<[WrittenTable; 2]> = LazyLock::new(|| {
    let (objects, _) = read_str("every-field.json", SERVICES, &ReadOptions::default());
    let all = portals(&objects.snapshot(), &NodeContext::default());
    [false, true].map(|on_demand| {
        let ruleset = Ruleset::new(&all, Settings { on_demand, ..Settings::default() });
        let written = WrittenTable { table: Table::from(&ruleset), replies: recorded_replies(&ruleset) };
        let state = read_recorded(&written.replies, &Limits::of(&written.table)).ok();
        assert_eq!(
            state,
            Some(TableState::Intact(written.table.clone())),
            "the table is read as it was written"
        );
        written
    })
});

/// Reads the replies for an input, and asserts that the result respects the limits and is deterministic.
pub fn check(bytes: &[u8]) {
    let Some((kind, rest)) = bytes.split_first() else { return };
    let WrittenTable { table, replies } = &WRITTEN[usize::from(kind & 1)];
    let replies = if kind & 2 == 0 { mutate(replies, rest) } else { rest.to_vec() };
    let limits = Limits::of(table);
    let state = read_recorded(&replies, &limits);
    match &state {
        Ok(TableState::Intact(read)) => {
            assert!(
                read.dispatch_keys.len() <= table.dispatch_keys.len(),
                "more dispatch keys than were written"
            );
            assert!(read.portals.len() <= table.portals.len(), "more portals than were written");
            assert!(read.backends.len() <= table.backends.len(), "more backends than were written");
            assert!(read.ids.len() <= table.ids.len(), "more ids than were written");
            assert!(read.addresses.len() <= table.addresses.len(), "more addresses than were written");
            assert!(read.sources.len() <= table.sources.len(), "more sources than were written");
        }
        Ok(TableState::Missing | TableState::Drifted(_)) | Err(_) => {}
    }
    let again = read_recorded(&replies, &limits);
    assert_eq!(state.ok(), again.ok(), "the same replies are read the same");
}

/// Applies changes to replies. Each consists of four bytes: the offset (two bytes), the kind, and an operand.
fn mutate(replies: &[u8], changes: &[u8]) -> Vec<u8> {
    let mut replies = replies.to_vec();
    for change in changes.chunks_exact(4) {
        let &[low, high, kind, operand] = change else { continue };
        let at = usize::from(u16::from_le_bytes([low, high])) % (replies.len() + 1);
        let end = (at + usize::from(operand)).min(replies.len());
        match kind % 5 {
            0 => replies.get_mut(at).into_iter().for_each(|byte| *byte = operand),
            1 => replies.get_mut(at).into_iter().for_each(|byte| *byte ^= operand),
            2 => drop(replies.drain(at..end)),
            3 => {
                let copy = replies[at..end].to_vec();
                drop(replies.splice(at..at, copy));
            }
            _ => replies.insert(at, operand),
        }
    }
    replies
}
